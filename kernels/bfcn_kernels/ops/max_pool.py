"""The largest code of each window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops import pooling
from bfcn_kernels.ops.op import STEP, Source, UnaryOp, register
from bfcn_kernels.values import Grid, MapShape, Value, pair


@register(4, 'max_pool')
@dataclass(frozen=True)
class MaxPool(UnaryOp):
    """Largest code of each window; padding never wins. A window without any tap inside gives 0."""

    name: str
    source: str
    kernel: Grid
    stride: Grid
    padding: Grid = (0, 0)
    dilation: Grid = (1, 1)
    ceil: bool = False

    def output(self, source: Value) -> Value:
        v.kind('source', source, 'codes')
        pair('dilation', self.dilation, 1)
        pooling.check_window(self.kernel, self.stride, self.padding)
        return source

    def grid(self, image: Grid, source: Grid) -> Grid:
        return pooling.pooled(
            source, self.kernel, self.stride, self.padding, self.dilation, self.ceil
        )

    def record(self, number: dict[str, int]) -> list[int]:
        window = [*self.kernel, *self.stride, *self.padding, *self.dilation]
        return [number[self.source], *window, self.ceil]

    @classmethod
    def read(cls, r, name, tensor, values) -> MaxPool:
        source = r.source()
        window = (r.pair('kernel'), r.pair('stride'), r.pair('padding'), r.pair('dilation'))
        return cls(name, source, *window, r.flag('ceil'))

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        codes, _ = source
        out = np.zeros((*grid, codes.shape[2]), np.uint8)
        for y, rows in enumerate(self._taps(codes.shape[0], grid[0], 0)):
            for x, columns in enumerate(self._taps(codes.shape[1], grid[1], 1)):
                if len(rows) and len(columns):
                    out[y, x] = codes[np.ix_(rows, columns)].max(axis=(0, 1))
        return out

    def operations(self, out: MapShape, source: MapShape) -> int:
        taps = min(self.kernel[0], source.grid[0]) * min(self.kernel[1], source.grid[1])
        return STEP * out.pixels * out.value.channels * taps

    def temporary_bytes(self, out: MapShape, *sources: MapShape) -> int:
        return pooling.temporary_bytes(out.pixels, out.value.channels)

    def _taps(self, size: int, out: int, axis: int) -> list[np.ndarray]:
        """For each output index along an axis, the source indices of its taps that lie inside."""
        taps = np.arange(self.kernel[axis]) * self.dilation[axis] - self.padding[axis]
        starts = np.arange(out) * self.stride[axis]
        return [i[(i >= 0) & (i < size)] for i in starts[:, None] + taps]
