"""Pixels to codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops.op import Op, Source, register
from bfcn_kernels.values import Grid, Value, require, within


@register(1, 'image_codes')
@dataclass(frozen=True, eq=False)
class ImageCodes(Op):
    """uint8 pixels to codes: out[..., c] = tables[c][image[..., order[c]]]."""

    name: str
    tables: np.ndarray  # uint8 (3, 256)
    order: tuple[int, int, int] = (0, 1, 2)
    bits: int = 8
    zero_point: int = 0
    sources: ClassVar[tuple[str, ...]] = ('image',)

    def output(self, image: Value) -> Value:
        v.kind('source', image, 'image')
        out = v.codes(3, self.bits, self.zero_point)
        v.array('tables', self.tables, np.uint8, (3, 256))
        v.entries('tables', self.tables, self.bits)
        require(len(self.order) == 3, f'order must name 3 channels, got {self.order}')
        for channel in self.order:
            within('order', channel, 0, 2)
        return out

    def grid(self, image: Grid, source: Grid) -> Grid:
        return image

    def record(self, number: dict[str, int]) -> list[int]:
        return [*self.order]

    def tensors(self) -> dict[str, np.ndarray]:
        return {f'{self.name}.table': self.tables}

    @classmethod
    def read(cls, r, name, tensor, values) -> ImageCodes:
        r.require_codes()
        order = (r.int('order'), r.int('order'), r.int('order'))
        return cls(name, tensor(f'{name}.table', np.uint8, (3, 256)), order, *r.grid_of_codes)

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        image, _ = source
        return np.stack([self.tables[c][image[..., self.order[c]]] for c in range(3)], axis=-1)
