"""A network run at many image sizes without data: which it takes, its ops, and the size of its maps."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .network import QUANTIZE, Network, marked
from .signals import ExportError

aten = torch.ops.aten
Size = tuple[int, int]  # h, w

# Modulo 64 these are 63, 1, 21 and 43: maps that round up and maps that round down differ at every
# stride, and height is never width.
_SIDES = (447, 577, 725, 1003)
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 3, 6, 12, 24, 48, 96)
_LAYOUT_ONLY = {aten.clone.default, aten.alias.default, aten.detach.default}


@dataclass(frozen=True)
class Call:
    """One op of a run.

    arguments: tensors are None. whole: its pooling window is the whole map. layer: the module that runs
    it, '' at the top.
    """

    op: str
    arguments: tuple
    whole: bool = False
    layer: str = field(default='', compare=False)


@dataclass(frozen=True)
class Run:
    """calls: in order. maps: (quantizer, number of its call) -> (h, w) of its input. scores: (h, w)."""

    calls: tuple[Call, ...]
    maps: dict[tuple[str, int], Size]
    scores: Size


class Trial:
    """Runs of a segmentor's network at image sizes; every size is run once."""

    def __init__(self, segmentor: nn.Module) -> None:
        self._segmentor, self._network = segmentor, Network(segmentor)
        tensors = [*self._network.named_parameters(), *self._network.named_buffers()]
        self._meta = {name: tensor.to('meta') for name, tensor in tensors}
        self._works: bool | None = None  # on the meta device; where it does not, fake tensors do
        self._runs: dict[Size, Run | Exception] = {}

    def run(self, size: Size) -> Run:
        """Raises what the network raises at this size."""
        if size not in self._runs:
            try:
                self._runs[size] = self._run(size)
            except Exception as err:  # whatever a forward may raise: the network does not take it
                self._runs[size] = err
        result = self._runs[size]
        if isinstance(result, Exception):
            raise result
        return result

    def takes(self, size: Size) -> bool:
        """Whether the network runs at this size."""
        try:
            self.run(size)
        except Exception:
            return False
        return True

    def _run(self, size: Size) -> Run:
        with marked(self._segmentor), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if self._works is not False:
                try:
                    run = self._on_meta(size)
                    self._works = True
                    return run
                except Exception:
                    if self._works:
                        raise
            run = self._on_fake(size)
            self._works = False
            return run

    def _on_meta(self, size: Size) -> Run:
        with torch.device('meta'), self._recorder() as seen:
            image = (torch.empty(1, 3, *size),)
            return seen.run(functional_call(self._network, self._meta, image))

    def _on_fake(self, size: Size) -> Run:
        """Slower, and takes networks that mix in tensors of their own."""
        device = next(self._network.parameters()).device
        logger = logging.getLogger('torch._subclasses.fake_tensor')
        before, logger.disabled = (
            logger.disabled,
            True,
        )  # an op that fails is what is to be found out
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), self._recorder() as seen:
                return seen.run(self._network(torch.empty(1, 3, *size, device=device)))
        finally:
            logger.disabled = before

    @contextmanager
    def _recorder(self) -> Iterator[_Recorder]:
        """A recorder that knows which module runs."""
        names = {module: name for name, module in self._segmentor.named_modules()}
        recorder = _Recorder()

        def enter(module: nn.Module, args: tuple) -> None:
            recorder.layers.append(names.get(module, ''))

        def leave(module: nn.Module, args: tuple, out: object) -> None:
            recorder.layers.pop()

        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            with recorder:
                yield recorder
        finally:
            for hook in hooks:
                hook.remove()


def capture_sizes(trial: Trial) -> tuple[int, tuple[Size, Size]]:
    """(step, two sizes): their sides are odd multiples of step, the smallest that the network takes.

    Raises ExportError where the network runs at none.
    """
    for step in _STEPS:
        sizes = _sizes(step)
        if all(trial.takes(size) for size in sizes):
            return step, sizes
    size = _sizes(128)[0]
    try:
        trial.run(size)
    except ExportError:
        raise
    except Exception as err:
        raise ExportError(
            'a packed model takes RGB images of any size; this one runs at none that was tried '
            f'(any, even, multiples of 3, 4, ... 128), at {at(size)}: {first_line(err)}'
        ) from err
    raise ExportError(f'the model takes images of {at(size)}, and none of {at(_sizes(128)[1])}')


def one_map(out: object) -> Tensor:
    """The tensor (or node) that a head returns; ExportError unless it is the only one."""
    tensors = tree_leaves(out)
    if len(tensors) != 1:
        raise ExportError(
            f'decode_head.forward returns {len(tensors)} tensors: a packed model has one map of scores'
        )
    return tensors[0]


def at(size: Size) -> str:
    """447x577."""
    return f'{size[0]}x{size[1]}'


def first_line(err: Exception) -> str:
    """Kind and first line of an error."""
    return f'{type(err).__name__}: {(str(err).strip() or "no message").splitlines()[0]}'


def _sizes(step: int) -> tuple[Size, Size]:
    sides: list[int] = []
    for side in _SIDES:
        quotient = side // step | 1
        while quotient * step in sides:
            quotient += 2
        sides.append(quotient * step)
    return (sides[0], sides[1]), (sides[2], sides[3])


class _Recorder(TorchDispatchMode):
    """Writes down every op that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[str] = []  # that run now, the innermost last
        self._calls: list[Call] = []
        self._maps: dict[tuple[str, int], Size] = {}
        self._count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten.native_batch_norm.default and not args[5]:
            statistics = torch.empty(0), torch.empty(0)
            out = (torch.empty_like(args[0]), *statistics)  # without data it takes most of the time
        else:
            out = func(*args, **(kwargs or {}))
        if func is QUANTIZE:
            name = args[1]
            self._maps[name, self._count[name]] = tuple(out.shape[2:])
            self._count[name] += 1
        if func not in _LAYOUT_ONLY:
            arguments = _plain((*args, *sorted((kwargs or {}).items())))
            layer = self.layers[-1] if self.layers else ''
            self._calls.append(Call(_name(func), arguments, _whole(func, args), layer))
        return out

    def run(self, scores: object) -> Run:
        scores = one_map(scores)
        return Run(tuple(self._calls), self._maps, tuple(scores.shape[2:]))


def _name(func: object) -> str:
    return str(func).removesuffix('.default')


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return None if isinstance(value, Tensor) else value


def _whole(func: object, args: tuple) -> bool:
    return func is aten.avg_pool2d.default and tuple(args[1]) == tuple(args[0].shape[2:])
