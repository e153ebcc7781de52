"""The walk: each aten node becomes a signal, each quantizer an op of the integer graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import fx, nn

from bfcn_kernels import ops
from bfcn_kernels.ops import Term

from ..quantizers import ActivationQuantizer
from . import boundary
from .capture import Captured
from .emit import Emitter, ImageInput
from .network import QUANTIZE, WEIGHT, layer_of
from .signals import (
    Averaged,
    Codes,
    ExportError,
    Image,
    Labels,
    Linear,
    Parts,
    Resized,
    Scores,
    Sum,
    linear,
)
from .trial import at

aten = torch.ops.aten
_HANDLERS: dict[object, Callable] = {}
_ADVICE = {
    'linear': 'only convolutions are packed: leave the transformer in PyTorch, or use a CNN',
    'scaled_dot_product_attention': 'attention is not packed: use a CNN',
    'conv_transpose2d': "use upsample_cfg=dict(type='InterpConv') or bilinear resizing",
    'group_norm': "use norm_cfg=dict(type='BN'), which folds into the convolution before it",
    'layer_norm': "use a CNN with norm_cfg=dict(type='BN'); transformers are not packed",
    'pad': 'give the convolution symmetric padding',
}
_OTHERWISE = 'use convolutions, BN, ReLU, pooling, bilinear resizing, concat and addition'
# Op -> positions of the arguments that may follow the image's size: its handler finds out how.
_MAY_FOLLOW = {
    aten.upsample_bilinear2d.vec: {1},
    aten.upsample_nearest2d.vec: {1},
    aten.avg_pool2d.default: {1, 2},
    aten.adaptive_avg_pool2d.default: {1},
}
_FIXED = {
    'max_pool2d': 'pool with a fixed window',
    'avg_pool2d': 'pool with a fixed window, or the whole map by F.adaptive_avg_pool2d(x, 1)',
    'adaptive_avg_pool2d': 'pool to a fixed size, or with a fixed window by F.avg_pool2d',
    'upsample_bilinear2d': 'resize by a fixed factor, or to size=feature.shape[2:] of a feature map',
    'upsample_nearest2d': 'resize by a fixed factor, or to size=feature.shape[2:] of a feature map',
}
# Keywords that leave numbers as they are; _same checks the type.
_NO_CHANGE = {'memory_format', 'dtype', 'layout', 'device', 'pin_memory', 'non_blocking'}


def lower(captured: Captured, segmentor: nn.Module) -> Emitter:
    """The integer ops of a captured segmentor, argmax last. Raises ExportError."""
    return _Lowering(captured, segmentor).run()


def handles(*targets: object) -> Callable:
    def register(function: Callable) -> Callable:
        _HANDLERS.update(dict.fromkeys(targets, function))
        return function

    return register


class _Lowering:
    def __init__(self, captured: Captured, segmentor: nn.Module) -> None:
        self.captured = captured
        self.modules = dict(segmentor.named_modules())
        self.align_corners = segmentor.decode_head.align_corners
        quantizers = {n: m for n, m in self.modules.items() if isinstance(m, ActivationQuantizer)}
        image = ImageInput(segmentor.data_preprocessor)
        self.emit = Emitter(quantizers, image, captured)
        self.signals: dict[fx.Node, object] = {}

    def run(self) -> Emitter:
        self._check_ops()
        self._check_arguments()
        for node in self.captured.nodes:
            self.signals[node] = self._signal(node)
        self._check_arguments()  # again: a resize may have asked for more sizes
        scores = self.scores(self.captured.output, 'the output')
        mode = 'align_corners' if self.align_corners else 'bilinear'
        self.emit.add(ops.ArgMax('labels', scores.name, mode), self.captured.image)
        return self.emit

    def _check_ops(self) -> None:
        """Of all ops that cannot be packed name one that tells most: attention, not a reshape."""
        calls = [node for node in self.captured.nodes if node.op == 'call_function']
        unknown = {n: _op(n) for n in calls if n.target not in _HANDLERS}
        for node, name in sorted(unknown.items(), key=lambda item: item[1] not in _ADVICE):
            advice = _ADVICE.get(name, _OTHERWISE)
            raise self.error(node, f'is not an op of a packed model: {advice}')

    def _check_arguments(self) -> None:
        """Nothing that follows the size of the image is left at its captured value."""
        for node in self.captured.nodes:
            for key in self.captured.follows_size(node):
                if key not in _MAY_FOLLOW.get(node.target, ()):
                    raise self.follows(node, key)
            if unread := set(node.kwargs) - _NO_CHANGE:
                raise self.error(node, f'has {", ".join(sorted(unread))}: {_OTHERWISE}')

    def follows(self, node: fx.Node, key: int | str) -> ExportError:
        """An argument that follows the image's size: its values at two sizes, and the way out."""
        sizes, values = self.captured.sizes, self.captured.argument(node, key)
        other = next(i for i, value in enumerate(values) if repr(value) != repr(values[0]))
        name = key if isinstance(key, str) else node.target._schema.arguments[key].name
        told = (f'{values[i]} for an image of {at(sizes[i])}' for i in (0, other))
        return self.error(
            node,
            f'has {name}={" and ".join(told)}: what follows the size of the image is not packed: '
            f'{_FIXED.get(_op(node), "make it the same at every size")}',
        )

    def _signal(self, node: fx.Node) -> object:
        if node is self.captured.image:
            return Image()
        if node.op == 'placeholder':
            return self.captured.parameters.get(node)
        try:
            return _HANDLERS[node.target](self, node)
        except ExportError:
            raise
        except (AttributeError, TypeError) as err:
            raise self.error(node, f'reads what no packed op gives ({err}): {_OTHERWISE}') from err

    def error(self, node: fx.Node, rule: str) -> ExportError:
        name = str(node.target).removesuffix('.default')
        return ExportError(f'layer {layer_of(node) or "(top)"!r}: {name} {rule}')

    def arg(self, node: fx.Node, index: int, default: object = None) -> object:
        """The argument's signal (or parameter) if it is a node, else the constant."""
        value = node.args[index] if index < len(node.args) else default
        return self.signals[value] if isinstance(value, fx.Node) else value

    def array(self, node: fx.Node, index: int) -> np.ndarray | None:
        """A parameter in float64."""
        value = self.arg(node, index)
        return None if value is None else value[1].double().cpu().numpy()

    def grids(self, node: fx.Node) -> tuple:
        """(h, w) at each captured size."""
        return self.captured.grids(node)

    def scores(self, node: fx.Node, what: str) -> Scores:
        return self.emit.scores(self.signals[node], node, what)


@handles(QUANTIZE)
def _quantize(net: _Lowering, node: fx.Node) -> Codes | Parts:
    return net.emit.quantize(net.arg(node, 0), node.args[1], node)


@handles(WEIGHT)
def _weight(net: _Lowering, node: fx.Node) -> nn.Module:
    return net.modules[node.args[1]]


@handles(
    aten.dropout.default, aten.feature_dropout.default, aten.clone.default, aten.contiguous.default,
    aten.alias.default, aten.detach.default, aten.to.dtype, aten._to_copy.default,
)  # fmt: skip
def _same(net: _Lowering, node: fx.Node) -> object:
    signal = net.arg(node, 0)
    before, after = (n.meta['val'].dtype for n in (node.args[0], node))
    if before != after and not isinstance(signal, Labels):
        raise net.error(node, f'turns {before} into {after}: leave numbers in {before}')
    return signal


@handles(aten.copy_.default)
def _copy(net: _Lowering, node: fx.Node) -> object:
    """An in-place activation whose input is read again: the nodes that read it read this one."""
    target, source = node.args[:2]
    results = getattr(target.target, '_schema', None)
    if results is not None and any(
        r.alias_info and not r.alias_info.is_write for r in results.returns
    ):
        raise net.error(node, 'writes into a part of another map: write into a map of its own')
    if net.captured.grids(target) != net.captured.grids(source):
        raise net.error(node, 'writes a map over one of another size: use maps of one size')
    return net.signals[source]


@handles(aten.conv2d.default)
def _conv(net: _Lowering, node: fx.Node) -> Linear:
    layer = net.arg(node, 1)
    if not isinstance(layer, nn.Module):
        raise net.error(node, 'has float weights: let quant= convert it (w in 1..8, not in skip)')
    groups = net.arg(node, 6, 1)
    geometry = dict(
        stride=_pair(net.arg(node, 3, 1)),
        padding=_pair(net.arg(node, 4, 0)),
        dilation=_pair(net.arg(node, 5, 1)),
    )
    codes, step = layer.weight_quant.codes(layer.weight)
    weight, grid = codes.permute(0, 2, 3, 1).cpu().numpy(), layer.weight_quant.grid
    channels = len(weight)
    scale = np.broadcast_to(step.double().reshape(-1).cpu().numpy(), (channels,))
    terms, start = [], 0
    for source in _sources(net, node, groups):
        stop = start + source.channels // groups
        own = np.ascontiguousarray(weight[..., start:stop])
        one = np.ones(channels, np.float32)
        term = Term(source.name, own, one, grid.bits, grid.k, groups=groups, **geometry)
        terms.append((term, scale * source.step))
        start = stop
    bias = net.array(node, 2)
    return Linear(tuple(terms), (), np.zeros(channels) if bias is None else bias, layer_of(node))


def _sources(net: _Lowering, node: fx.Node, groups: int) -> tuple[Codes, ...]:
    """What a convolution reads: codes, or a concat of codes: one map if they share a grid."""
    source = net.arg(node, 0)
    parts = source.parts if isinstance(source, Parts) else (source,)
    if not all(isinstance(part, Codes) for part in parts):
        raise net.error(node, 'reads float values: let quant= round its input (a in 1..8)')
    if len(parts) == 1:
        return parts
    if len({part.grid for part in parts}) == 1:
        op = ops.Concat(f'{layer_of(node)}.concat', tuple(part.name for part in parts))
        channels = sum(part.channels for part in parts)
        return (replace(parts[0], name=net.emit.add(op, node.args[0]), channels=channels),)
    if groups > 1:
        raise net.error(
            node,
            f'has groups={groups} over a concat of maps with different steps: quantize the concat '
            'itself, or use groups=1',
        )
    return parts


@handles(aten.batch_norm.default)
def _batch_norm(net: _Lowering, node: fx.Node) -> Linear:
    x, (weight, bias, mean, var) = net.arg(node, 0), (net.array(node, i) for i in range(1, 5))
    if node.args[5]:
        raise net.error(node, 'uses statistics of the batch: call model.eval() first')
    if not (var + node.args[7] > 0).all():
        raise net.error(node, f'divides by 0: running_var + eps is {(var + node.args[7]).min()}')
    scale = (1 if weight is None else weight) / np.sqrt(var + node.args[7])
    return _addend(net, node, x).affine(scale, (0 if bias is None else bias) - mean * scale)


@handles(aten.relu.default, aten.relu_.default)
def _relu(net: _Lowering, node: fx.Node) -> Linear | Codes:
    x = net.arg(node, 0)
    if isinstance(x, Codes) and x.zero_point == 0:
        return x
    return replace(_addend(net, node, x), unsigned=True)


@handles(aten.add.Tensor, aten.add_.Tensor)
def _add(net: _Lowering, node: fx.Node) -> Linear | Sum:
    if not all(isinstance(arg, fx.Node) for arg in node.args):
        raise net.error(node, f'adds a constant or a multiple: {_OTHERWISE}')
    if net.grids(node.args[0]) != net.grids(node.args[1]):
        raise net.error(node, 'adds maps of different sizes: resize one of them first')
    a, b = net.arg(node, 0), net.arg(node, 1)
    if isinstance(a, Scores | Sum) or isinstance(b, Scores | Sum):
        return Sum(*(net.scores(arg, f'layer {layer_of(node)!r}: add') for arg in node.args))
    return _addend(net, node, a) + _addend(net, node, b)


def _addend(net: _Lowering, node: fx.Node, signal: object) -> Linear:
    if isinstance(signal, Codes):
        return linear(signal)
    if not isinstance(signal, Linear) or signal.unsigned:
        kind = 'a ReLU in float' if isinstance(signal, Linear) else type(signal).__name__.lower()
        raise net.error(
            node, f'reads {kind}, not codes or a convolution: let quant= round it first'
        )
    return signal


@handles(aten.cat.default)
def _cat(net: _Lowering, node: fx.Node) -> Parts:
    if (node.args[1] if len(node.args) > 1 else 0) != 1:
        raise net.error(node, 'joins another axis than channels: only dim=1 is packed')
    signals = [net.signals[arg] for arg in node.args[0]]
    return Parts(tuple(p for s in signals for p in (s.parts if isinstance(s, Parts) else (s,))))


@handles(aten.max_pool2d.default)
def _max_pool(net: _Lowering, node: fx.Node) -> Codes | Parts | Labels:
    x, kernel = net.arg(node, 0), _pair(node.args[1])
    stride = _pair(net.arg(node, 2) or kernel)
    padding, dilation = _pair(net.arg(node, 3, 0)), _pair(net.arg(node, 4, 1))
    if isinstance(x, Labels):
        return boundary.max_pool(net, node, x, (kernel, stride, padding, dilation))

    def pool(codes: Codes) -> Codes:
        name = layer_of(node) if 'pool' in layer_of(node) else f'{codes.name}.pool'
        window = kernel, stride, padding, dilation, net.arg(node, 5, False)
        return replace(codes, name=net.emit.add(ops.MaxPool(name, codes.name, *window), node))

    return _each(net, node, x, pool)


@handles(aten.avg_pool2d.default)
def _avg_pool(net: _Lowering, node: fx.Node) -> Averaged | Parts:
    kernel = _pair(node.args[1])
    if net.arg(node, 6) is not None:
        raise net.error(node, 'has a divisor_override: leave it None')
    if net.captured.follows_size(node):
        return _global_pool(net, node)
    window = dict(
        kernel=kernel,
        stride=_pair(net.arg(node, 2) or kernel),
        padding=_pair(net.arg(node, 3, 0)),
        ceil=net.arg(node, 4, False),
        count_include_pad=net.arg(node, 5, True),
    )
    return _each(net, node, net.arg(node, 0), lambda codes: Averaged(codes, None, window))


def _global_pool(net: _Lowering, node: fx.Node) -> Averaged | Parts:
    """A window that is the whole map at every size: the mean that adaptive pooling to 1x1 takes."""
    windows = tuple(_pair(kernel) for kernel in net.captured.argument(node, 1))
    if windows != net.grids(node.args[0]) or _pair(net.arg(node, 3, 0)) != (0, 0):
        raise net.follows(node, net.captured.follows_size(node)[0])
    return _each(net, node, net.arg(node, 0), lambda codes: Averaged(codes, (1, 1), {}))


@handles(aten.adaptive_avg_pool2d.default)
def _adaptive_avg_pool(net: _Lowering, node: fx.Node) -> Averaged | Parts | Codes:
    if net.captured.follows_size(node):
        if net.grids(node) == net.grids(node.args[0]):
            return net.arg(node, 0)  # every bin is one pixel
        raise net.follows(node, 1)
    size = _pair(node.args[1])
    return _each(net, node, net.arg(node, 0), lambda codes: Averaged(codes, size, {}))


def _each(net: _Lowering, node: fx.Node, signal: object, function: Callable) -> object:
    """function of codes, or of each part of a concat."""
    if isinstance(signal, Parts):
        return Parts(tuple(_each(net, node, part, function) for part in signal.parts))
    if not isinstance(signal, Codes):
        raise net.error(node, 'reads float values: put a ReLU (which quant= converts) before it')
    return function(signal)


@handles(aten.upsample_bilinear2d.vec, aten.upsample_nearest2d.vec)
def _resize(net: _Lowering, node: fx.Node) -> Resized | Codes | Scores | Parts:
    nearest = node.target is aten.upsample_nearest2d.vec
    align_corners = not nearest and node.args[2]
    mode = 'nearest' if nearest else 'align_corners' if align_corners else 'bilinear'
    x, target = net.arg(node, 0), _target(net, node)
    if isinstance(x, Codes | Parts):

        def resized(codes: Codes) -> Resized | Codes:
            return _picked(net, node, codes, target) if nearest else Resized(codes, mode, target)

        return _each(net, node, x, resized)
    scores = net.scores(node.args[0], f'layer {layer_of(node)!r}: resize')
    op = ops.Resize(f'{scores.name}.up', scores.name, mode, **target)
    return Scores(net.emit.add(op, node))


def _picked(net: _Lowering, node: fx.Node, codes: Codes, target: dict) -> Codes:
    """Nearest resizing moves codes and rounds nothing."""
    same = dict(A=1.0, B=float(codes.zero_point), bits=codes.bits, zero_point=codes.zero_point)
    op = ops.Resize(f'{codes.name}.up', codes.name, 'nearest', **target, **same)
    return replace(codes, name=net.emit.add(op, node))


def _target(net: _Lowering, node: fx.Node) -> dict:
    """like, factor or size of ops.Resize."""
    factors = net.arg(node, 2 if node.target is aten.upsample_nearest2d.vec else 3)
    if factors is not None:
        if any(factor != int(factor) for factor in factors):
            raise net.error(node, f'resizes by {factors}: use whole factors, or size=...')
        return dict(factor=tuple(map(int, factors)))
    name = net.emit.like(node)
    if name is not None:
        return dict(like=name)
    grids = net.grids(node)
    if len(set(grids)) == 1:
        return dict(size=grids[0])
    if factor := _factor(grids, net.grids(node.args[0])):
        return dict(factor=factor)
    first, second = (f'{at(grids[i])} for an image of {at(net.captured.sizes[i])}' for i in (0, 1))
    raise net.error(
        node,
        f'resizes to {first}, {second}: no packed map has that size, use size=feature.shape[2:] of one '
        'or a whole factor',
    )


def _factor(grids: tuple, sources: tuple) -> tuple[int, int] | None:
    """The whole factors between maps at every captured size."""
    factors = {
        (grid[0] / source[0], grid[1] / source[1])
        for grid, source in zip(grids, sources, strict=True)
    }
    down, across = min(factors)
    whole = len(factors) == 1 and down.is_integer() and across.is_integer()
    return (int(down), int(across)) if whole else None


def _op(node: fx.Node) -> str:
    return str(node.target).removeprefix('aten.').split('.')[0]


def _pair(value: int | list[int]) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * 2 if len(values) == 1 else values)


boundary.register(handles)
