"""What pooling ops share: windows, and the codes of a mean."""

from __future__ import annotations

import numpy as np

from bfcn_kernels import arithmetic
from bfcn_kernels.arithmetic import f32
from bfcn_kernels.values import Grid, Value, pair, require


def pooled(
    source: Grid, kernel: Grid, stride: Grid, padding: Grid, dilation: Grid, ceil: bool
) -> Grid:
    """(height, width) of a pooled map, by PyTorch's rule."""
    grid = []
    for n, k, s, p, d in zip(source, kernel, stride, padding, dilation, strict=True):
        out = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil else 0)) // s + 1
        if ceil and (out - 1) * s >= n + p:
            out -= 1
        grid.append(out)
    return tuple(grid)


def check_window(kernel: Grid, stride: Grid, padding: Grid) -> None:
    """Raise GraphError for a window that is out of range or padded by more than half of it."""
    pair('kernel', kernel, 1)
    pair('stride', stride, 1)
    pair('padding', padding, 0)
    for k, p in zip(kernel, padding, strict=True):
        require(2 * p <= k, f'padding must be at most half the kernel {kernel}, got {padding}')


def mean_codes(op, windows: list[tuple[np.ndarray, int]], value: Value, grid: Grid) -> np.ndarray:
    """code(mean * A + B) of (codes (a, b, c), count) for each output pixel; A, B, bits are the op's."""
    sums = np.stack(
        [(inside.astype(np.int64) - value.zero_point).sum(axis=(0, 1)) for inside, _ in windows]
    )
    counts = np.array([count for _, count in windows], f32)[:, None]
    mean = np.divide(sums.astype(f32), counts, dtype=f32)
    codes = arithmetic.to_codes(arithmetic.affine(mean, f32(op.A), f32(op.B)), op.bits)
    return codes.reshape(*grid, -1)


def temporary_bytes(pixels: int, channels: int) -> int:
    """Of a pooling op in numpy: windows are listed one by one."""
    return (512 + 48 * channels) * pixels
