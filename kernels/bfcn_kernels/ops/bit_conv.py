"""The op that does the work: convolutions of codes, summed and requantized in one epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bfcn_kernels import arithmetic
from bfcn_kernels import values as v
from bfcn_kernels.arithmetic import f32
from bfcn_kernels.ops.op import STEP, Op, Source, Tensor, float_word, register
from bfcn_kernels.packing import pack, unpack, words_per_plane
from bfcn_kernels.values import (
    GraphError,
    Grid,
    MapShape,
    Value,
    pair,
    require,
    same_grid,
    within,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Term:
    """One convolution inside a BitConv: sum of (k*b - z) * (q - zero_point) over taps, channels.

    weight: uint8 codes b (out_channels, kh, kw, channels / groups) of `bits` bits.
    form: 2 bipolar (k = 2, z = 2**bits - 1), 1 two's complement (k = 1, z = 2**(bits - 1)).
    scale: float32 (out_channels,), A of the first term and R of a further one.
    """

    source: str
    weight: np.ndarray
    scale: np.ndarray
    bits: int
    form: int = 2
    stride: Grid = (1, 1)
    padding: Grid = (0, 0)
    dilation: Grid = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> Grid:
        return self.weight.shape[1:3]

    @property
    def offset(self) -> int:
        """z of k*b - z."""
        return 2**self.bits - 1 if self.form == 2 else 2 ** (self.bits - 1)

    def integers(self) -> np.ndarray:
        """Weights k*b - z, int32, same shape as the codes."""
        return self.form * self.weight.astype(np.int32) - self.offset

    def bound(self, source: Value) -> int:
        """Largest |acc| that any input can give; |k*b - z| never exceeds z."""
        return self.weight[0].size * self.offset * source.span

    def check(self, source: Value, channels: int) -> None:
        v.kind(f'source {self.source!r}', source, 'codes')
        within('weight bits', self.bits, 1, 8)
        require(self.form in (1, 2), f'weight form must be 1 or 2, got {self.form!r}')
        require(self.form == 2 or self.bits > 1, '1-bit weights must have form 2 (bipolar), got 1')
        for name in ('stride', 'dilation'):
            pair(name, getattr(self, name), 1)
        pair('padding', self.padding, 0)
        within('groups', self.groups, 1, source.channels)
        v.divisible(source.channels, channels, self.groups)
        require(self.weight.ndim == 4, f'weight must have 4 dimensions, got {self.weight.shape}')
        pair('kernel', self.kernel, 1)
        shape = (channels, *self.kernel, source.channels // self.groups)
        v.array('weight', self.weight, np.uint8, shape)
        v.entries('weight', self.weight, self.bits)
        v.coefficients('scale', self.scale, channels)
        bound = self.bound(source)
        require(
            bound <= v.MAX_ACCUMULATOR,
            f'accumulator may reach {bound}, more than {v.MAX_ACCUMULATOR}: use fewer bits',
        )

    def grid(self, source: Grid) -> Grid:
        """(height, width) of the output."""
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                source, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def record(self, number: dict[str, int]) -> list[int]:
        window = [*self.kernel, *self.stride, *self.padding, *self.dilation]
        return [number[self.source], *window, self.groups, self.bits, self.form]

    @classmethod
    def read(cls, r, names: tuple[str, str], tensor: Tensor, values: dict[str, Value]) -> Term:
        """names: of its tensors, weight and scale."""
        source, channels = r.source(), r.value.channels
        v.kind(f'source {source!r}', values[source], 'codes')
        kernel = r.int('kernel', 1, v.MAX_EXTENT), r.int('kernel', 1, v.MAX_EXTENT)
        window = r.pair('stride'), r.pair('padding'), r.pair('dilation')
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
        return cls(source, weight, scale, bits, form, *window, groups)

    def temporary_bytes(self, out: MapShape, source: MapShape) -> int:
        """Of one accumulation in numpy, from above: padded source, taps, weights, sums."""
        size = 4 if self.bound(source.value) <= 2**24 else 8  # of the numbers that are multiplied
        padded = math.prod(n + 2 * p for n, p in zip(source.grid, self.padding, strict=True))
        inputs = (3 * padded + out.pixels) * source.value.channels * size
        sums = (3 * size + 8) * out.pixels * len(self.weight)
        return inputs + sums + (8 + 2 * size) * self.weight.size


@dataclass(frozen=True)
class Residual:
    """A value of the output's shape that joins the epilogue: t + f32(q - zero_point) * scale."""

    source: str
    scale: float


def accumulate(term: Term, codes: np.ndarray, source: Value) -> np.ndarray:
    """acc (h, w, out_channels) int64: sum of (k*b - z) * (q - zero_point), pixel by pixel."""
    weight = term.integers().astype(np.int64)
    height, width = term.grid(codes.shape[:2])
    (sh, sw), (dh, dw), (kh, kw) = term.stride, term.dilation, term.kernel
    channels, per_group = len(weight), weight.shape[3]
    ph, pw = term.padding
    inputs = np.pad(
        codes.astype(np.int64) - source.zero_point, ((ph, ph), (pw, pw), (0, 0))
    )  # outside taps hold the number 0
    acc = np.zeros((height, width, channels), np.int64)
    for y in range(height):
        for x in range(width):
            patch = inputs[y * sh :, x * sw :][: dh * (kh - 1) + 1 : dh, : dw * (kw - 1) + 1 : dw]
            for group in range(term.groups):
                outputs = slice(
                    group * channels // term.groups, (group + 1) * channels // term.groups
                )
                part = patch[..., group * per_group : (group + 1) * per_group]
                acc[y, x, outputs] = (weight[outputs] * part).sum(axis=(1, 2, 3))
    return acc


Accumulate = Callable[[Term, np.ndarray, Value], np.ndarray]


@register(2, 'bit_conv')
@dataclass(frozen=True, eq=False)
class BitConv(Op):
    """Convolutions and residuals summed in float32 after integer accumulation.

    bias: float32 (channels,), B. bits: of the codes written, or None for float32 scores.
    """

    name: str
    terms: tuple[Term, ...]
    bias: np.ndarray
    bits: int | None = None
    zero_point: int = 0
    residuals: tuple[Residual, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(part.source for part in (*self.terms, *self.residuals))

    @property
    def has_thresholds(self) -> bool:
        """Whether the epilogue is monotone in a single accumulator and writes codes."""
        return self.bits is not None and len(self.terms) == 1 and not self.residuals

    def output(self, *sources: Value) -> Value:
        within('number of terms', len(self.terms), 1, 16)
        within('number of residuals', len(self.residuals), 0, 16)
        channels = len(self.bias)
        if self.bits is None:
            within('channels', channels, 1, v.MAX_CHANNELS)
            require(self.zero_point == 0, f'scores have no zero point, got {self.zero_point}')
            out = Value('scores', channels)
        else:
            out = v.codes(channels, self.bits, self.zero_point)
        v.coefficients('B', self.bias, channels)
        for term, source in zip(self.terms, sources, strict=False):
            term.check(source, channels)
        for residual, source in zip(self.residuals, sources[len(self.terms) :], strict=True):
            v.kind(f'residual {residual.source!r}', source, 'codes')
            require(
                source.channels == channels,
                f'residual {residual.source!r} must have {channels} channels, got {source}',
            )
            v.coefficient('R', residual.scale)
        return out

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        ours = self.terms[0].grid(grids[0])
        for term, grid in zip(self.terms[1:], grids[1:], strict=False):
            same_grid(f'term from {term.source!r}', term.grid(grid), ours)
        for residual, grid in zip(self.residuals, grids[len(self.terms) :], strict=True):
            same_grid(f'residual {residual.source!r}', grid, ours)
        return ours

    @property
    def addends(self) -> tuple[str, ...]:
        read = {term.source for term in self.terms}
        return tuple(part.source for part in self.residuals if part.source not in read)

    def summands(self, *sources: int) -> int:
        return 1

    def record(self, number: dict[str, int]) -> list[int]:
        words = [len(self.terms), len(self.residuals)]
        for term in self.terms:
            words += term.record(number)
        for residual in self.residuals:
            words += [number[residual.source], float_word(residual.scale)]
        return words

    def tensors(self) -> dict[str, np.ndarray]:
        tensors = {f'{self.name}.B': self.bias}
        for index, term in enumerate(self.terms):
            weight, scale = _tensor_names(self.name, index)
            tensors[weight] = pack(term.weight.reshape(len(term.weight), -1), term.bits)
            tensors[scale] = term.scale
        return tensors

    @classmethod
    def read(cls, r, name, tensor, values) -> BitConv:
        terms, residuals = r.int('terms', 1, 16), r.int('residuals', 0, 16)
        terms = tuple(
            Term.read(r, _tensor_names(name, index), tensor, values) for index in range(terms)
        )
        residuals = tuple(Residual(r.source(), r.float('R')) for _ in range(residuals))
        bits = r.value.bits if r.value.kind == 'codes' else None
        bias = tensor(f'{name}.B', np.float32, (r.value.channels,))
        return cls(name, terms, bias, bits, r.value.zero_point, residuals)

    def run(self, *sources: Source, grid: Grid, accumulate: Accumulate = accumulate) -> np.ndarray:
        """accumulate: another function that gives the same sums, such as fast.bit_conv_accumulate."""
        terms = zip(self.terms, sources, strict=False)
        sums = [(accumulate(term, codes, value), term.scale) for term, (codes, value) in terms]
        t = arithmetic.affine(sums[0][0], sums[0][1], self.bias)
        for acc, scale in sums[1:]:
            t = arithmetic.add(t, arithmetic.scaled(acc, scale))
        added = zip(self.residuals, sources[len(self.terms) :], strict=True)
        for residual, (codes, value) in added:
            scaled = arithmetic.scaled(arithmetic.numbers(codes, value), f32(residual.scale))
            t = arithmetic.add(t, scaled)
        return t if self.bits is None else arithmetic.to_codes(t, self.bits)

    def operations(self, out: MapShape, *sources: MapShape) -> int:
        products = sum(term.weight[0].size for term in self.terms)
        return out.pixels * out.value.channels * (products + STEP * (1 + len(self.residuals)))

    def temporary_bytes(self, out: MapShape, *sources: MapShape) -> int:
        sums = 8 * out.pixels * out.value.channels * len(self.terms)
        terms = zip(self.terms, sources, strict=False)
        return sums + max(term.temporary_bytes(out, source) for term, source in terms)

    def weight_bytes(self) -> int:
        """Of all weights as codes of a byte each, and of their coefficients."""
        terms = sum(term.weight.nbytes + term.scale.nbytes for term in self.terms)
        return terms + self.bias.nbytes


def _tensor_names(name: str, index: int) -> tuple[str, str]:
    return (f'{name}:{index}.weight', f'{name}:{index}.R') if index else (
        f'{name}.weight', f'{name}.A'
    )  # fmt: skip
