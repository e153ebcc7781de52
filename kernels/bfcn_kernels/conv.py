"""The op that does the work: convolutions of codes, summed and requantized in one epilogue."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.values import Grid, Value, pair, require, same_grid, within


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
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                source, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )


@dataclass(frozen=True)
class Residual:
    """A value of the output's shape that joins the epilogue: t + f32(q - zero_point) * scale."""

    source: str
    scale: float


@dataclass(frozen=True, eq=False)
class BitConv:
    """Convolutions and residuals summed in float32 after integer accumulation.

    bias: float32 (channels,), B. bits: of the codes written, or None for float32 scores.
    """

    opcode: ClassVar[int] = 2
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
