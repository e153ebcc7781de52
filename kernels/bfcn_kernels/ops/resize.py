"""A map on another grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfcn_kernels import arithmetic
from bfcn_kernels import values as v
from bfcn_kernels.arithmetic import f32
from bfcn_kernels.ops import interpolation
from bfcn_kernels.ops.interpolation import RESIZE_MODES, interpolate
from bfcn_kernels.ops.op import Op, Source, float_word, register
from bfcn_kernels.values import Grid, MapShape, Value, pair, require

_TARGETS = ('like', 'size', 'factor')


@register(7, 'resize')
@dataclass(frozen=True)
class Resize(Op):
    """Nearest or bilinear, of codes (then code(v * A + B)) or of scores (bits None, A 1, B 0).

    Exactly one target: `like` (a value's name, or 'image'), `size` or `factor`.
    """

    name: str
    source: str
    mode: str = 'bilinear'
    like: str | None = None
    size: Grid | None = None
    factor: Grid | None = None
    A: float = 1.0
    B: float = 0.0
    bits: int | None = None
    zero_point: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if self.like is None else (self.source, self.like)

    @property
    def data_sources(self) -> tuple[str, ...]:
        return (self.source,)

    def output(self, source: Value, like: Value | None = None) -> Value:
        targets = [t for t in _TARGETS if getattr(self, t) is not None]
        require(len(targets) == 1, f'one of like, size, factor must be given, got {targets}')
        interpolation.check_mode(self.mode)
        if self.size is not None:
            pair('size', self.size, 1, v.MAX_SIDE)
        if self.factor is not None:
            pair('factor', self.factor, 1, 64)
        if source.kind == 'scores':
            require(
                (self.A, self.B, self.bits, self.zero_point) == (1.0, 0.0, None, 0),
                'a resize of scores must have A 1, B 0 and no bits, got '
                f'A {self.A}, B {self.B}, bits {self.bits}, zero point {self.zero_point}',
            )
            return source
        return v.requantized(self, source)

    def grid(self, image: Grid, source: Grid, like: Grid | None = None) -> Grid:
        if self.factor is not None:
            return source[0] * self.factor[0], source[1] * self.factor[1]
        return self.size or like

    def record(self, number: dict[str, int]) -> list[int]:
        if self.like is not None:
            target = [0, number[self.like], 0]
        else:
            target = [1, *self.size] if self.size else [2, *self.factor]
        mode = RESIZE_MODES.index(self.mode)
        return [number[self.source], mode, *target, float_word(self.A), float_word(self.B)]

    @classmethod
    def read(cls, r, name, tensor, values) -> Resize:
        source = r.source()
        if values[source].kind == 'codes':
            r.require_codes()
        mode = r.choice('mode', RESIZE_MODES)
        target = r.choice('target', _TARGETS)
        if target == 'like':
            extent = r.source()
            r.int('t1', 0, 0)
        else:
            extent = r.pair(target)
        kept = {'A': r.float('A'), 'B': r.float('B'), 'zero_point': r.value.zero_point}
        bits = r.value.bits if r.value.kind == 'codes' else None
        return cls(name, source, mode, **{target: extent}, bits=bits, **kept)

    def run(self, source: Source, grid: Grid) -> np.ndarray:
        array, value = source
        if self.bits is None:
            return interpolate(array, grid, self.mode)
        numbers = interpolate(arithmetic.numbers(array, value).astype(f32), grid, self.mode)
        return arithmetic.to_codes(arithmetic.affine(numbers, f32(self.A), f32(self.B)), self.bits)

    def temporary_bytes(self, out: MapShape, source: MapShape, like: MapShape | None = None) -> int:
        return interpolation.temporary_bytes(out, source)
