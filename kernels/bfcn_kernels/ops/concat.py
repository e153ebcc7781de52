"""Codes side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops.op import Op, Source, register
from bfcn_kernels.values import Grid, Value, require, same_grid, within


@register(9, 'concat')
@dataclass(frozen=True)
class Concat(Op):
    """Codes of one grid along channels."""

    name: str
    sources: tuple[str, ...]

    def output(self, *sources: Value) -> Value:
        within('number of sources', len(sources), 1, 64)
        first = sources[0]
        for name, source in zip(self.sources, sources, strict=True):
            v.kind(f'source {name!r}', source, 'codes')
            require(
                (source.bits, source.zero_point) == (first.bits, first.zero_point),
                f'sources must share bits and zero point, got {first} and {source}; '
                'use a bit_conv of several terms instead',
            )
        return v.codes(sum(s.channels for s in sources), first.bits, first.zero_point)

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        for name, grid in zip(self.sources, grids, strict=True):
            same_grid(f'source {name!r}', grid, grids[0])
        return grids[0]

    def record(self, number: dict[str, int]) -> list[int]:
        return [len(self.sources), *(number[source] for source in self.sources)]

    @classmethod
    def read(cls, r, name, tensor, values) -> Concat:
        return cls(name, tuple(r.source() for _ in range(r.int('n', 1, 64))))

    def run(self, *sources: Source, grid: Grid) -> np.ndarray:
        return np.concatenate([codes for codes, _ in sources], axis=-1)
