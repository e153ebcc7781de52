"""The sum of two scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import arithmetic
from bfcn_kernels import values as v
from bfcn_kernels.ops.op import Op, Source, register
from bfcn_kernels.values import Grid, Value, same_grid


@register(8, 'add')
@dataclass(frozen=True)
class Add(Op):
    """a + b"""

    name: str
    sources: tuple[str, str]

    @property
    def addends(self) -> tuple[str, ...]:
        return self.sources

    def output(self, *sources: Value) -> Value:
        return v.equal_scores(sources)

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        same_grid(f'source {self.sources[1]!r}', grids[1], grids[0])
        return grids[0]

    def record(self, number: dict[str, int]) -> list[int]:
        return [number[source] for source in self.sources]

    @classmethod
    def read(cls, r, name, tensor, values) -> Add:
        return cls(name, (r.source(), r.source()))

    def run(self, first: Source, second: Source, grid: Grid) -> np.ndarray:
        return arithmetic.add(first[0], second[0])
