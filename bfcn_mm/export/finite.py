"""Nothing that is not finite is packed: a NaN would become a code like any other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from .capture import Captured
from .network import QUANTIZE, WEIGHT
from .signals import ExportError


def check_finite(captured: Captured, segmentor: nn.Module) -> None:
    """Everything that scores depend on: weights, biases, statistics, steps, mean and std of images.

    Raises ExportError, which names the tensor.
    """
    modules = dict(segmentor.named_modules())
    for node in captured.nodes:
        for name, tensor in _read(captured, modules, node):
            _check(name, tensor)
    preprocessor = segmentor.data_preprocessor
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name, None)
        if values is not None:
            _check(f'data_preprocessor.{name}', values)
    if (std := getattr(preprocessor, 'std', None)) is not None and not (std != 0).all():
        raise ExportError(f'data_preprocessor.std must not be 0, got {std.flatten().tolist()}')


def _read(
    captured: Captured, modules: dict[str, nn.Module], node: fx.Node
) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a node reads and no other node stands for."""
    if node in captured.parameters:
        yield captured.parameters[node]
    if node.target not in (QUANTIZE, WEIGHT):
        return
    name = node.args[1]
    module = modules[name]
    for inner, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield f'{name}.{inner}', tensor
    if node.target is QUANTIZE:
        yield f'{name}.step', module.step
    elif (step := getattr(module.weight_quant, 'step', None)) is not None:
        yield f'{name}.weight_quant.step', step


def _check(name: str, tensor: Tensor) -> None:
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():
        first = tensor[bad][0].item()
        raise ExportError(
            f'{name} is {first} in {int(bad.sum())} of {tensor.numel()} numbers: nothing that is not '
            'finite is packed, load a checkpoint from before training diverged'
        )
