"""Codes of the mean over bins that share a map evenly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops import pooling
from bfcn_kernels.ops.op import STEP, Source, UnaryOp, float_word, register
from bfcn_kernels.values import Grid, MapShape, Value, pair


@register(6, 'adaptive_avg_pool')
@dataclass(frozen=True)
class AdaptiveAvgPool(UnaryOp):
    """code(mean * A + B) over size[0] x size[1] bins: floor(i*n/out) .. ceil((i + 1)*n/out)."""

    name: str
    source: str
    size: Grid
    A: float
    B: float
    bits: int
    zero_point: int = 0

    def output(self, source: Value) -> Value:
        pair('size', self.size, 1, v.MAX_SIDE)
        return v.requantized(self, source)

    def grid(self, image: Grid, source: Grid) -> Grid:
        return self.size

    def record(self, number: dict[str, int]) -> list[int]:
        return [number[self.source], *self.size, float_word(self.A), float_word(self.B)]

    @classmethod
    def read(cls, r, name, tensor, values) -> AdaptiveAvgPool:
        r.require_codes()
        return cls(name, r.source(), r.pair('size'), r.float('A'), r.float('B'), *r.grid_of_codes)

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        codes, value = source
        rows = [_bin(i, codes.shape[0], grid[0]) for i in range(grid[0])]
        columns = [_bin(i, codes.shape[1], grid[1]) for i in range(grid[1])]
        bins = [codes[r, c] for r in rows for c in columns]
        windows = [(inside, inside.shape[0] * inside.shape[1]) for inside in bins]
        return pooling.mean_codes(self, windows, value, grid)

    def operations(self, out: MapShape, source: MapShape) -> int:
        # Neighbouring bins share a row or none.
        rows, columns = (n + bins for n, bins in zip(source.grid, out.grid, strict=True))
        return STEP * out.value.channels * rows * columns

    def temporary_bytes(self, out: MapShape, *sources: MapShape) -> int:
        return pooling.temporary_bytes(out.pixels, out.value.channels)


def _bin(i: int, size: int, out: int) -> slice:
    return slice(i * size // out, -(-(i + 1) * size // out))
