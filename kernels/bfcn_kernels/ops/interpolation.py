"""Interpolation as docs/format.md defines it, for resize and argmax."""

from __future__ import annotations

import numpy as np

from bfcn_kernels import arithmetic
from bfcn_kernels.arithmetic import f32
from bfcn_kernels.values import Grid, MapShape, require

RESIZE_MODES = ('nearest', 'bilinear', 'align_corners')


def check_mode(mode: str) -> None:
    require(mode in RESIZE_MODES, f'mode must be in {RESIZE_MODES}, got {mode!r}')


def interpolate(array: np.ndarray, grid: Grid, mode: str) -> np.ndarray:
    """float32 (h, w, c) on another grid: along x, then along y."""
    y0, y1, ly = source_index(array.shape[0], grid[0], mode)
    x0, x1, lx = source_index(array.shape[1], grid[1], mode)
    if mode == 'nearest':
        return array[np.ix_(y0, x0)]
    rows = arithmetic.lerp(array[:, x0], array[:, x1], lx[None, :, None])
    return arithmetic.lerp(rows[y0], rows[y1], ly[:, None, None])


def source_index(size: int, out: int, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source pixel and the float32 fraction between them, for each target pixel."""
    i = np.arange(out, dtype=f32)
    if mode == 'align_corners':
        p = (f32(size - 1) / f32(out - 1) if out > 1 else f32(0)) * i
    else:
        scale = f32(size) / f32(out)
        p = scale * i if mode == 'nearest' else np.maximum(scale * (i + f32(0.5)) - f32(0.5), 0)
    low = np.minimum(np.floor(p).astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), np.minimum(p - low.astype(f32), f32(1))


def temporary_bytes(out: MapShape, source: MapShape) -> int:
    """Of interpolate(), and of the numbers of codes."""
    height, width = out.grid
    rows = source.grid[0] * width
    each = 24 * out.pixels + 24 * rows + 12 * source.pixels
    return out.value.channels * each + 64 * (height + width)
