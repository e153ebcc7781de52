"""Codes of the mean of each window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops import pooling
from bfcn_kernels.ops.op import STEP, Source, UnaryOp, float_word, register
from bfcn_kernels.values import Grid, MapShape, Value


@register(5, 'avg_pool')
@dataclass(frozen=True)
class AvgPool(UnaryOp):
    """code(mean * A + B) of each window's mean of q - zero_point."""

    name: str
    source: str
    kernel: Grid
    stride: Grid
    A: float
    B: float
    bits: int
    zero_point: int = 0
    padding: Grid = (0, 0)
    ceil: bool = False
    count_include_pad: bool = True

    def output(self, source: Value) -> Value:
        pooling.check_window(self.kernel, self.stride, self.padding)
        return v.requantized(self, source)

    def grid(self, image: Grid, source: Grid) -> Grid:
        return pooling.pooled(source, self.kernel, self.stride, self.padding, (1, 1), self.ceil)

    def record(self, number: dict[str, int]) -> list[int]:
        window = [*self.kernel, *self.stride, *self.padding, self.ceil, self.count_include_pad]
        return [number[self.source], *window, float_word(self.A), float_word(self.B)]

    @classmethod
    def read(cls, r, name, tensor, values) -> AvgPool:
        r.require_codes()
        source = r.source()
        window = {key: r.pair(key) for key in ('kernel', 'stride', 'padding')}
        flags = {key: r.flag(key) for key in ('ceil', 'count_include_pad')}
        A, B = r.float('A'), r.float('B')
        bits, zero_point = r.grid_of_codes
        return cls(name, source, A=A, B=B, bits=bits, zero_point=zero_point, **window, **flags)

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        codes, value = source
        (kh, kw), (sh, sw), (ph, pw) = self.kernel, self.stride, self.padding
        height, width = codes.shape[:2]
        windows = []
        for y0 in range(-ph, grid[0] * sh - ph, sh):
            for x0 in range(-pw, grid[1] * sw - pw, sw):
                inside = codes[max(y0, 0) : y0 + kh, max(x0, 0) : x0 + kw]
                count = inside.shape[0] * inside.shape[1]
                if self.count_include_pad:
                    count = (min(y0 + kh, height + ph) - y0) * (min(x0 + kw, width + pw) - x0)
                windows.append((inside, count))
        return pooling.mean_codes(self, windows, value, grid)

    def operations(self, out: MapShape, source: MapShape) -> int:
        taps = min(self.kernel[0], source.grid[0]) * min(self.kernel[1], source.grid[1])
        return STEP * out.pixels * out.value.channels * taps

    def temporary_bytes(self, out: MapShape, *sources: MapShape) -> int:
        return pooling.temporary_bytes(out.pixels, out.value.channels)
