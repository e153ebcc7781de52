"""Graph records: ops as int32 words, and back. Arrays travel beside them as named tensors."""

import math
from collections.abc import Callable

import numpy as np

from bfcn_kernels import ops
from bfcn_kernels import values as v
from bfcn_kernels.conv import BitConv, Residual, Term
from bfcn_kernels.graph import Graph, check_names, named_layer
from bfcn_kernels.ops import OPS, RESIZE_MODES, Op
from bfcn_kernels.packing import pack, unpack, words_per_plane
from bfcn_kernels.values import IMAGE, KINDS, GraphError, Value, require, within

HEADER = 6

Tensor = Callable[[str, type, tuple[int, ...]], np.ndarray]


def encode(graph: Graph) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Words (int32) and tensors by name (uint8, uint64, float32) of a graph, validated here."""
    values = graph.validate()
    number = {name: index for index, name in enumerate(values)}
    words, tensors = [], {}
    for op in graph.ops:
        body = _body(op, number)
        value = values[op.name]
        head = [op.opcode, HEADER + len(body), KINDS.index(value.kind), value.channels]
        words += [*head, value.bits, value.zero_point, *body]
        tensors.update(_tensors(op))
    return np.array(words, np.int32), tensors


def decode(words: np.ndarray, names: list[str], tensor: Tensor) -> Graph:
    """The validated graph of words; tensor(name, dtype, shape) gives its arrays or raises.

    Raises GraphError for anything that format.md says a reader refuses.
    """
    check_names(names)
    decoded, values, position = [], {'image': IMAGE}, 0
    for name in names:
        with named_layer(name):
            reader = _Words(words[position:], list(values))
            op = _op(reader, name, tensor, values)
            reader.finish()
            value = op.output(*(values[source] for source in op.sources))
            require(value == reader.value, f'must be described as {value}, got {reader.value}')
        values[name] = value
        decoded.append(op)
        position += reader.length
    require(position == len(words), f'graph must end at word {position}, got {len(words)}')
    graph = Graph(tuple(decoded))
    graph.validate()
    return graph


def _body(op: Op, number: dict[str, int]) -> list[int]:
    match op:
        case ops.ImageCodes():
            return [*op.order]
        case BitConv():
            words = [len(op.terms), len(op.residuals)]
            for t in op.terms:
                words += [number[t.source], *t.kernel, *t.stride, *t.padding, *t.dilation]
                words += [t.groups, t.bits, t.form]
            for residual in op.residuals:
                words += [number[residual.source], _bits(residual.scale)]
            return words
        case ops.Table() | ops.Add() | ops.Concat() | ops.Mask() | ops.ArgMax():
            return _simple_body(op, [number[source] for source in op.sources])
        case ops.MaxPool():
            window = [*op.kernel, *op.stride, *op.padding, *op.dilation]
            return [number[op.source], *window, op.ceil]
        case ops.AvgPool():
            window = [*op.kernel, *op.stride, *op.padding, op.ceil, op.count_include_pad]
            return [number[op.source], *window, _bits(op.A), _bits(op.B)]
        case ops.AdaptiveAvgPool():
            return [number[op.source], *op.size, _bits(op.A), _bits(op.B)]
        case ops.Resize():
            if op.like is not None:
                target = [0, number[op.like], 0]
            else:
                target = [1, *op.size] if op.size else [2, *op.factor]
            mode = RESIZE_MODES.index(op.mode)
            return [number[op.source], mode, *target, _bits(op.A), _bits(op.B)]


def _simple_body(op: Op, sources: list[int]) -> list[int]:
    match op:
        case ops.Concat():
            return [len(sources), *sources]
        case ops.Mask():
            return [*sources, op.dilation]
        case ops.ArgMax():
            return [*sources, RESIZE_MODES.index(op.mode)]
    return sources


def _tensors(op: Op) -> dict[str, np.ndarray]:
    match op:
        case ops.ImageCodes():
            return {f'{op.name}.table': op.tables}
        case ops.Table():
            return {f'{op.name}.table': op.table}
        case BitConv():
            tensors = {f'{op.name}.B': op.bias}
            for index, term in enumerate(op.terms):
                weight, scale = _term_names(op.name, index)
                tensors[weight] = pack(term.weight.reshape(len(term.weight), -1), term.bits)
                tensors[scale] = term.scale
            return tensors
    return {}


def _term_names(name: str, index: int) -> tuple[str, str]:
    return (f'{name}:{index}.weight', f'{name}:{index}.R') if index else (
        f'{name}.weight', f'{name}.A'
    )  # fmt: skip


class _Words:
    """One record, read word by word; its header is read at once."""

    def __init__(self, words: np.ndarray, names: list[str]):
        self._names = names
        require(len(words) >= HEADER, f'record must have {HEADER} words, got {len(words)} left')
        self.opcode, self.length, kind, channels, bits, zero_point = words[:HEADER].tolist()
        within('opcode', self.opcode, 1, len(OPS))
        within('record length', self.length, HEADER, len(words))
        within('kind', kind, 1, len(KINDS) - 1)
        within('channels', channels, 1, v.MAX_CHANNELS)
        codes = KINDS[kind] == 'codes'
        within('bits', bits, int(codes), 8 if codes else 0)
        within('zero_point', zero_point, 0, 2**bits - 1)
        self.value = Value(KINDS[kind], channels, bits, zero_point)
        self._words = words[HEADER : self.length].tolist()
        self._next = 0

    def require_codes(self) -> None:
        require(self.value.kind == 'codes', f'must be described as codes, got {self.value}')

    def int(self, name: str, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        require(self._next < len(self._words), f'record must hold {name}, got {self.length} words')
        word = self._words[self._next]
        self._next += 1
        within(name, word, low, high)
        return word

    def pair(self, name: str) -> tuple[int, int]:
        return self.int(name), self.int(name)

    def flag(self, name: str) -> bool:
        return bool(self.int(name, 0, 1))

    def float(self, name: str) -> float:
        return np.array(self.int(name), np.int32).view(np.float32).item()

    def mode(self) -> str:
        return RESIZE_MODES[self.int('mode', 0, len(RESIZE_MODES) - 1)]

    def source(self) -> str:
        return self._names[self.int('source', 0, len(self._names) - 1)]

    def finish(self) -> None:
        left = len(self._words) - self._next
        require(left == 0, f'record must end after {self.length - left} words, got {self.length}')


def _op(r: _Words, name: str, tensor: Tensor, values: dict[str, Value]) -> Op:
    """The op of a record; `values` are those of the image and of earlier ops."""
    grid = {'bits': r.value.bits, 'zero_point': r.value.zero_point}
    kind = OPS[r.opcode - 1]
    if kind in (ops.ImageCodes, ops.Table, ops.AvgPool, ops.AdaptiveAvgPool):
        r.require_codes()
    if kind is ops.ImageCodes:
        order = (r.int('order'), r.int('order'), r.int('order'))
        return kind(name, tensor(f'{name}.table', np.uint8, (3, 256)), order, **grid)
    if kind is BitConv:
        return _bit_conv(r, name, tensor, values)
    if kind is ops.Concat:
        return kind(name, tuple(r.source() for _ in range(r.int('n', 1, 64))))
    source = r.source()
    if kind is ops.Table:
        v.kind('source', values[source], 'codes')
        entries = 2 ** values[source].bits
        return kind(name, source, tensor(f'{name}.table', np.uint8, (entries,)), **grid)
    if kind is ops.MaxPool:
        window = (r.pair('kernel'), r.pair('stride'), r.pair('padding'), r.pair('dilation'))
        return kind(name, source, *window, r.flag('ceil'))
    if kind is ops.AvgPool:
        window = (r.pair('kernel'), r.pair('stride'))
        rest = {'padding': r.pair('padding'), 'ceil': r.flag('ceil')}
        rest.update(count_include_pad=r.flag('count_include_pad'))
        return kind(name, source, *window, r.float('A'), r.float('B'), **rest, **grid)
    if kind is ops.AdaptiveAvgPool:
        return kind(name, source, r.pair('size'), r.float('A'), r.float('B'), **grid)
    if kind is ops.Resize:
        return _resize(r, name, source, values)
    if kind is ops.Add:
        return kind(name, (source, r.source()))
    if kind is ops.Mask:
        return kind(name, source, r.source(), r.int('d'))
    return kind(name, source, r.mode())


def _bit_conv(r: _Words, name: str, tensor: Tensor, values: dict[str, Value]) -> BitConv:
    channels = r.value.channels
    counts = r.int('terms', 1, 16), r.int('residuals', 0, 16)
    terms = tuple(
        _term(r, _term_names(name, index), channels, tensor, values) for index in range(counts[0])
    )
    residuals = tuple(Residual(r.source(), r.float('R')) for _ in range(counts[1]))
    bits = r.value.bits if r.value.kind == 'codes' else None
    bias = tensor(f'{name}.B', np.float32, (channels,))
    return BitConv(name, terms, bias, bits, r.value.zero_point, residuals)


def _term(
    r: _Words, names: tuple[str, str], channels: int, tensor: Tensor, values: dict[str, Value]
) -> Term:
    source = r.source()
    v.kind(f'source {source!r}', values[source], 'codes')
    kernel = r.int('kernel', 1, v.MAX_EXTENT), r.int('kernel', 1, v.MAX_EXTENT)
    window = {
        'stride': r.pair('stride'),
        'padding': r.pair('padding'),
        'dilation': r.pair('dilation'),
    }
    groups = r.int('groups', 1, v.MAX_CHANNELS)
    bits, form = r.int('weight bits', 1, 8), r.int('form', 1, 2)
    v.divisible(values[source].channels, channels, groups)
    shape = (channels, *kernel, values[source].channels // groups)
    length = math.prod(shape[1:])
    packed = tensor(names[0], np.uint64, (channels, bits, words_per_plane(length)))
    try:
        weight = unpack(packed, length).reshape(shape)
    except ValueError as err:
        raise GraphError(f'tensor {names[0]!r}: {err}') from err
    scale = tensor(names[1], np.float32, (channels,))
    return Term(source, weight, scale, bits, form, groups=groups, **window)


def _resize(r: _Words, name: str, source: str, values: dict[str, Value]) -> Op:
    if values[source].kind == 'codes':
        r.require_codes()
    mode = r.mode()
    target = ('like', 'size', 'factor')[r.int('target', 0, 2)]
    if target == 'like':
        extent = r.source()
        r.int('t1', 0, 0)
    else:
        extent = r.pair(target)
    A, B = r.float('A'), r.float('B')
    bits = r.value.bits if r.value.kind == 'codes' else None
    kept = {'A': A, 'B': B, 'bits': bits, 'zero_point': r.value.zero_point}
    return ops.Resize(name, source, mode, **{target: extent}, **kept)


def _bits(value: float) -> int:
    return np.float32(value).view(np.int32).item()
