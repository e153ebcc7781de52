"""Codes to codes by a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops.op import Source, UnaryOp, register
from bfcn_kernels.values import Grid, Value


@register(3, 'table')
@dataclass(frozen=True, eq=False)
class Table(UnaryOp):
    """out = table[q]"""

    name: str
    source: str
    table: np.ndarray  # uint8 (2**bits of the source,)
    bits: int
    zero_point: int = 0

    def output(self, source: Value) -> Value:
        v.kind('source', source, 'codes')
        out = v.codes(source.channels, self.bits, self.zero_point)
        v.array('table', self.table, np.uint8, (2**source.bits,))
        v.entries('table', self.table, self.bits)
        return out

    def grid(self, image: Grid, source: Grid) -> Grid:
        return source

    def record(self, number: dict[str, int]) -> list[int]:
        return [number[self.source]]

    def tensors(self) -> dict[str, np.ndarray]:
        return {f'{self.name}.table': self.table}

    @classmethod
    def read(cls, r, name, tensor, values) -> Table:
        r.require_codes()
        source = r.source()
        v.kind('source', values[source], 'codes')
        entries = (2 ** values[source].bits,)
        return cls(name, source, tensor(f'{name}.table', np.uint8, entries), *r.grid_of_codes)

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        return self.table[source[0]]
