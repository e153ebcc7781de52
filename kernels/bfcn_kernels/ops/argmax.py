"""Scores to labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.ops import interpolation
from bfcn_kernels.ops.interpolation import RESIZE_MODES, interpolate
from bfcn_kernels.ops.op import Source, UnaryOp, register
from bfcn_kernels.values import Grid, MapShape, Value, require


@register(11, 'argmax')
@dataclass(frozen=True)
class ArgMax(UnaryOp):
    """Scores resized to the image, then the first largest channel: labels."""

    last_only: ClassVar[bool] = True
    name: str
    source: str
    mode: str = 'bilinear'

    def output(self, source: Value) -> Value:
        v.kind('source', source, 'scores')
        interpolation.check_mode(self.mode)
        require(source.channels <= 256, f'classes must be at most 256, got {source.channels}')
        return Value('labels', source.channels)

    def grid(self, image: Grid, source: Grid) -> Grid:
        return image

    def record(self, number: dict[str, int]) -> list[int]:
        return [number[self.source], RESIZE_MODES.index(self.mode)]

    @classmethod
    def read(cls, r, name, tensor, values) -> ArgMax:
        return cls(name, r.source(), r.choice('mode', RESIZE_MODES))

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        return interpolate(source[0], grid, self.mode).argmax(-1).astype(np.uint8)

    def temporary_bytes(self, out: MapShape, source: MapShape) -> int:
        return interpolation.temporary_bytes(out, source)
