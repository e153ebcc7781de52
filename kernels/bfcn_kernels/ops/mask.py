"""Finer scores near the boundaries of coarse ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import arithmetic
from bfcn_kernels import values as v
from bfcn_kernels.ops.op import Op, Source, register
from bfcn_kernels.values import Grid, Value, same_grid, within


@register(10, 'mask')
@dataclass(frozen=True)
class Mask(Op):
    """up + fine where the labels of `up` differ in the window of side 2*dilation + 3, else up."""

    name: str
    up: str
    fine: str
    dilation: int = 0

    @property
    def sources(self) -> tuple[str, str]:
        return self.up, self.fine

    @property
    def addends(self) -> tuple[str, ...]:
        return self.sources

    def output(self, *sources: Value) -> Value:
        within('dilation', self.dilation, 0, v.MAX_EXTENT)
        return v.equal_scores(sources)

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        same_grid(f'source {self.fine!r}', grids[1], grids[0])
        return grids[0]

    def record(self, number: dict[str, int]) -> list[int]:
        return [number[self.up], number[self.fine], self.dilation]

    @classmethod
    def read(cls, r, name, tensor, values) -> Mask:
        return cls(name, r.source(), r.source(), r.int('d'))

    def run(self, up: Source, fine: Source, grid: Grid) -> np.ndarray:
        labels = up[0].argmax(-1)
        reach = self.dilation + 1
        out = up[0].copy()
        for y in range(grid[0]):
            for x in range(grid[1]):
                window = labels[
                    max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1
                ]
                if window.min() != window.max():
                    out[y, x] = arithmetic.add(up[0][y, x], fine[0][y, x])
        return out
