"""One real forward at a small size, to see where each value comes from.

No symbolic tracing: the model runs as it is, on noise, in evaluation mode, and every torch function
passes by. For each tensor it is noted whose values it still carries unchanged. That tells, for each
layer, whether what it reads lies on the grid of a quantized activation, and for each activation, who
reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Place = tuple[str, int]  # name of an activation module, index of the call


@dataclass(frozen=True)
class Origin:
    """places: the activations whose output values these are; on_grid: nothing else is among them;
    nonneg: no value is below 0; image: the values of the input; layers: the last layers with weights
    on the way here."""

    places: frozenset[Place] = frozenset()
    on_grid: bool = False
    nonneg: bool = False
    image: bool = False
    layers: frozenset[str] = frozenset()

    @staticmethod
    def merge(origins: list[Origin], keeps: bool, nonneg: bool) -> Origin:
        """Of a result: keeps, whether the operation only moves or picks values of its inputs."""
        layers = frozenset().union(*(o.layers for o in origins))
        nonneg = nonneg or (bool(origins) and all(o.nonneg for o in origins))
        if not keeps or not origins:
            return Origin(nonneg=nonneg, layers=layers)
        return Origin(
            frozenset().union(*(o.places for o in origins)),
            all(o.on_grid for o in origins),
            nonneg,
            all(o.image for o in origins),
            layers,
        )


@dataclass
class LayerReads:
    """What a layer with weights was given, over all its calls."""

    inputs: list[Origin] = field(default_factory=list)
    macs: int = 0


@dataclass
class Observation:
    """layers: by name, in order of execution. places: calls of each activation module in a forward of
    its parent (a block that is called again passes the same places).
    added: activations that are an operand of an addition. last: layers that make the output.
    shape: of the input that was run."""

    layers: dict[str, LayerReads]
    places: dict[str, int]
    added: set[Place]
    last: set[str]
    shape: tuple[int, ...]


_KEEP = {
    'max_pool1d', 'max_pool2d', 'max_pool3d', 'adaptive_max_pool2d', 'dropout', 'dropout2d',
    'feature_dropout', 'alpha_dropout', 'reshape', 'view', 'flatten', 'unflatten', 'transpose',
    'permute', 'contiguous', 'squeeze', 'unsqueeze', '__getitem__', 'chunk', 'split', 'clone',
    'detach', 'cat', 'concat', 'stack', 'expand', 'repeat', 'to', 'float', 'identity', 'pad',
    'pixel_shuffle', 'roll', 'movedim', 'unfold', 'narrow', 'index_select', 'flip', 'swapaxes',
}  # fmt: skip
_ADD = {'add', 'add_', '__add__', '__radd__', '__iadd__'}
_NONNEG = {
    'relu',
    'relu_',
    'relu6',
    'sigmoid',
    'hardsigmoid',
    'softmax',
    'abs',
    'square',
    'softplus',
}
_ARITHMETIC = {'mul', 'mul_', '__mul__', '__rmul__', '__imul__', *_ADD}
_KEEPS_SIGN = {
    'avg_pool2d', 'adaptive_avg_pool2d', 'interpolate', 'mean', 'sum', 'upsample', *_ARITHMETIC,
}  # fmt: skip


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[int, Origin] = {}
        self.alive: list[Tensor] = []
        self.added: set[Place] = set()

    def origin(self, x: Any) -> Origin:
        return self.origins.get(id(x), Origin())

    def note(self, x: Any, origin: Origin) -> None:
        if isinstance(x, Tensor):
            self.origins[id(x)] = origin
            self.alive.append(x)  # so that no id is used twice

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        inputs = [self.origin(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        if name in _ADD:
            self.added.update(*(o.places for o in inputs if o.on_grid))
        keeps = name in _KEEP or (
            name == 'interpolate' and kwargs.get('mode', 'nearest') == 'nearest'
        )
        sign_kept = keeps or (name in _KEEPS_SIGN and not _negates(name, args, kwargs))
        origin = Origin.merge(inputs, keeps, name in _NONNEG)
        if not sign_kept and name not in _NONNEG:
            origin = Origin(layers=origin.layers)
        for leaf in tree_leaves(out):
            self.note(leaf, origin)
        return out


def _negates(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a number below 0 takes part in a sum or product, where tensors alone keep the sign."""
    if name not in _ARITHMETIC:
        return False
    return any(isinstance(x, int | float) and x < 0 for x in (*args, kwargs.get('alpha')))


def probe(
    model: nn.Module,
    layers: Iterable[str],
    activations: dict[str, bool],
    example: Tensor | None = None,
) -> Observation:
    """Run the model once and observe.

    layers: names of the modules with weights to watch. activations: name -> whether the activation
    function is non-negative. example: what the model is called with; by default noise of
    (1, 3, 128, 128), larger if the model needs it. Parameters, buffers, mode and random state are left
    as they were. Raises ValueError if the model takes no such input.
    """
    if example is None:
        return _probe_sizes(model, layers, activations)
    modules = dict(model.named_modules())
    observation = Observation({}, {}, set(), set(), tuple(example.shape))
    recorder = _Recorder()
    hooks = [
        *_watch_layers(recorder, observation, {n: modules[n] for n in layers}),
        *_watch_activations(recorder, observation, modules, activations),
    ]
    try:
        with _evaluating(model), torch.no_grad(), recorder:
            recorder.note(example, Origin(image=True))
            outputs = _forward(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    observation.added = recorder.added
    observation.last = set().union(*(recorder.origin(x).layers for x in tree_leaves(outputs)))
    return observation


def _probe_sizes(
    model: nn.Module, layers: Iterable[str], activations: dict[str, bool]
) -> Observation:
    """probe() on noise of the smallest size that the model takes: some pool with large windows."""
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    for size in (128, 512, 1024):
        noise = torch.randn(1, 3, size, size, generator=generator)
        try:
            return probe(model, layers, activations, noise.to(parameter.device, parameter.dtype))
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            failure = error
    raise ValueError(
        f'quant: the model does not take an image of shape {tuple(noise.shape)} ({failure}); call '
        'bfcn_mm.quantize_(model, example=...) with an input that it takes'
    ) from failure


def _forward(model: nn.Module, x: Tensor) -> Any:
    """Everything that training runs: main and auxiliary heads of a segmentor, else model(x)."""
    if not hasattr(model, 'extract_feat') or not hasattr(model, 'decode_head'):
        return model(x)
    features = model.extract_feat(x)
    outputs: list[Any] = []
    heads = model.decode_head
    if isinstance(heads, nn.ModuleList):  # a cascade: each head refines the one before
        outputs.append(heads[0].forward(features))
        for head in heads[1:]:
            outputs.append(head.forward(features, outputs[-1]))
    else:
        outputs.append(heads.forward(features))
    auxiliary = getattr(model, 'auxiliary_head', None)
    for head in auxiliary if isinstance(auxiliary, nn.ModuleList) else filter(None, [auxiliary]):
        outputs.append(head.forward(features))
    return outputs


@contextmanager
def _evaluating(model: nn.Module):
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _watch_layers(recorder: _Recorder, seen: Observation, modules: dict[str, nn.Module]) -> list:
    def hook(name: str) -> Callable:
        def after(module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            reads = seen.layers.setdefault(name, LayerReads())
            reads.inputs.append(recorder.origin(given))
            reads.macs += _macs(module, given, out)
            for leaf in tree_leaves(out):
                recorder.note(leaf, Origin(layers=frozenset([name])))

        return after

    return [m.register_forward_hook(hook(n), with_kwargs=True) for n, m in modules.items()]


def _macs(module: nn.Module, given: Tensor, out: Any) -> int:
    """Multiply-accumulates of one call of a convolution or linear layer, 0 for others."""
    weight = getattr(module, 'weight', None)
    if weight is None or not isinstance(out, Tensor):
        return 0
    if isinstance(module, nn.ConvTranspose2d):
        return given.numel() // weight.shape[0] * weight.numel()
    channels = out.shape[-1] if isinstance(module, nn.Linear) else out.shape[1]
    return out.numel() // channels * weight.numel()


def _watch_activations(
    recorder: _Recorder, seen: Observation, modules: dict[str, nn.Module], nonneg: dict[str, bool]
) -> list:
    now: dict[str, int] = {}  # calls since the parent's forward began

    def begin(name: str) -> Callable:
        def before(module: nn.Module, args: tuple) -> None:
            now[name] = 0

        return before

    def hook(name: str) -> Callable:
        def after(module: nn.Module, args: tuple, out: Tensor) -> None:
            place = (name, now.get(name, 0))
            now[name] = place[1] + 1
            seen.places[name] = max(seen.places.get(name, 0), now[name])
            layers = recorder.origin(args[0]).layers
            recorder.note(out, Origin(frozenset([place]), True, nonneg[name], False, layers))

        return after

    handles = [modules[n].register_forward_hook(hook(n)) for n in nonneg]
    for name in nonneg:
        parent = modules[name.rpartition('.')[0]]
        handles.append(parent.register_forward_pre_hook(begin(name)))
    return handles
