"""A checkpoint of other bits is a place to start from: its weights are loaded, its grids are not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import nn

from ..quantizers import Quantizer


def forget_other_bits(state: dict, quantizers: Iterable[tuple[str, Quantizer]], start: int) -> int:
    """Delete from a state dict, in place, the quantizers whose bits are not those of a run's start.

    quantizers: (name in the state dict, quantizer). start: the cap of the first stage of bit-width
    decay, 1 without decay. Returns how many were deleted: they start again from the weights.
    """
    forgotten = 0
    for name, quantizer in quantizers:
        bits = state.get(f'{name}._bits')
        if bits is not None and int(bits) != max(quantizer.target, start):
            forgotten += 1
            for key in [key for key in state if key.startswith(name + '.')]:
                del state[key]
    return forgotten


def install() -> None:
    """Let init_weights of a quantized model load checkpoints of other bits.

    Whatever a backbone does for its init_cfg or `pretrained`, it happens in there. Calling install()
    again changes nothing.
    """
    stock = BaseModule.init_weights
    if hasattr(stock, '_forgets_other_bits'):
        return

    @functools.wraps(stock)
    def init_weights(self: BaseModule) -> None:
        if not hasattr(self, 'quant_spec'):
            return stock(self)
        with _forgetting(self, self.quant_spec.caps()[0]):
            return stock(self)

    init_weights._forgets_other_bits = True
    BaseModule.init_weights = init_weights


@contextmanager
def _forgetting(model: nn.Module, start: int) -> Iterator[None]:
    """While it lasts, state dicts that are loaded into the model or a part of it lose other bits."""
    count = 0

    def before_load(own: list[tuple[str, Quantizer]]) -> Callable:
        def hook(module: nn.Module, state: dict, prefix: str, *_) -> None:
            nonlocal count
            count += forget_other_bits(state, [(prefix + name, q) for name, q in own], start)

        return hook

    handles = []
    for module in model.modules():
        own = [(n, q) for n, q in module.named_children() if isinstance(q, Quantizer)]
        if own:
            handles.append(module.register_load_state_dict_pre_hook(before_load(own)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if count:
        print_log(
            f'init_cfg: the checkpoint has other bits at {count} quantizers: they start again from its '
            'weights',
            logger='current',
        )
