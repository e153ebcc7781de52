"""The integer oracle: every op in numpy, slow, short, and the meaning of docs/format.md.

Codes and labels are uint8, scores float32; feature maps are (h, w, channels), labels (h, w).
"""

from collections.abc import Iterator

import numpy as np

from bfcn_kernels import arithmetic, ops
from bfcn_kernels.arithmetic import f32
from bfcn_kernels.conv import BitConv, Term
from bfcn_kernels.graph import Graph, data_sources
from bfcn_kernels.image import check_image
from bfcn_kernels.values import Grid, Value


def run(graph: Graph, image: np.ndarray, accumulate=None) -> dict[str, np.ndarray]:
    """Every value by op name for a uint8 RGB image (h, w, 3).

    accumulate replaces bit_conv_accumulate by a faster equal, e.g. `fast.bit_conv_accumulate`.
    """
    maps: dict[str, np.ndarray] = {}
    for name, array in steps(graph, image, accumulate):
        maps[name] = array
    return maps


def steps(graph: Graph, image: np.ndarray, accumulate=None) -> Iterator[tuple[str, np.ndarray]]:
    """Run op by op, yielding (name, value); a value is forgotten after its last reader."""
    image = check_image(image)
    values, last = graph.validate(), graph.last_reads()
    grids = graph.shapes(*image.shape[:2])
    maps = {'image': image}
    for index, op in enumerate(graph.ops):
        sources = [(maps[name], values[name]) for name in data_sources(op)]
        result = run_op(op, sources, grids[op.name], accumulate)
        yield op.name, result
        maps[op.name] = result
        maps = {name: array for name, array in maps.items() if last.get(name, -1) > index}


def run_op(
    op: ops.Op, sources: list[tuple[np.ndarray, Value]], grid: Grid, accumulate=None
) -> np.ndarray:
    """The value of one op, given (array, Value) of its data sources and its output grid."""
    if isinstance(op, BitConv):
        return bit_conv(op, *sources, accumulate=accumulate or bit_conv_accumulate)
    return _RUN[type(op)](op, *sources, grid=grid)


def image_codes(op: ops.ImageCodes, source, grid: Grid) -> np.ndarray:
    """tables[c][image[..., order[c]]]"""
    image, _ = source
    return np.stack([op.tables[c][image[..., op.order[c]]] for c in range(3)], axis=-1)


def bit_conv_accumulate(term: Term, codes: np.ndarray, source: Value) -> np.ndarray:
    """acc (h, w, out_channels) int64: sum of (k*b - z) * (q - zero_point), pixel by pixel."""
    weight = term.integers().astype(np.int64)
    height, width = term.grid(codes.shape[:2])
    (sh, sw), (dh, dw), (kh, kw) = term.stride, term.dilation, term.kernel
    channels, per_group = len(weight), weight.shape[3]
    ph, pw = term.padding
    inputs = np.pad(
        codes.astype(np.int64) - source.zero_point, ((ph, ph), (pw, pw), (0, 0))
    )  # outside taps hold the number 0
    acc = np.zeros((height, width, channels), np.int64)
    for y in range(height):
        for x in range(width):
            patch = inputs[y * sh :, x * sw :][: dh * (kh - 1) + 1 : dh, : dw * (kw - 1) + 1 : dw]
            for group in range(term.groups):
                outputs = slice(
                    group * channels // term.groups, (group + 1) * channels // term.groups
                )
                part = patch[..., group * per_group : (group + 1) * per_group]
                acc[y, x, outputs] = (weight[outputs] * part).sum(axis=(1, 2, 3))
    return acc


def bit_conv(op: BitConv, *sources, accumulate=bit_conv_accumulate) -> np.ndarray:
    """Convolutions, then the float32 epilogue: A, B, further terms, residuals, codes."""
    terms = zip(op.terms, sources, strict=False)
    sums = [(accumulate(term, codes, value), term.scale) for term, (codes, value) in terms]
    t = arithmetic.affine(sums[0][0], sums[0][1], op.bias)
    for acc, scale in sums[1:]:
        t = arithmetic.add(t, arithmetic.scaled(acc, scale))
    for residual, (codes, value) in zip(op.residuals, sources[len(op.terms) :], strict=True):
        t = arithmetic.add(t, arithmetic.scaled(_numbers(codes, value), f32(residual.scale)))
    return t if op.bits is None else arithmetic.to_codes(t, op.bits)


def table(op: ops.Table, source, grid: Grid) -> np.ndarray:
    """table[q]"""
    return op.table[source[0]]


def max_pool(op: ops.MaxPool, source, grid: Grid) -> np.ndarray:
    """Largest code of the taps inside the source; 0 where there is none."""
    codes, _ = source
    out = np.zeros((*grid, codes.shape[2]), np.uint8)
    for y, rows in enumerate(_windows(op, codes.shape[0], grid[0], 0)):
        for x, columns in enumerate(_windows(op, codes.shape[1], grid[1], 1)):
            if len(rows) and len(columns):
                out[y, x] = codes[np.ix_(rows, columns)].max(axis=(0, 1))
    return out


def avg_pool(op: ops.AvgPool, source, grid: Grid) -> np.ndarray:
    """Codes of the mean over each window."""
    codes, value = source
    (kh, kw), (sh, sw), (ph, pw) = op.kernel, op.stride, op.padding
    height, width = codes.shape[:2]
    windows = []
    for y0 in range(-ph, grid[0] * sh - ph, sh):
        for x0 in range(-pw, grid[1] * sw - pw, sw):
            inside = codes[max(y0, 0) : y0 + kh, max(x0, 0) : x0 + kw]
            count = inside.shape[0] * inside.shape[1]
            if op.count_include_pad:
                count = (min(y0 + kh, height + ph) - y0) * (min(x0 + kw, width + pw) - x0)
            windows.append((inside, count))
    return _mean_codes(op, windows, value, grid)


def adaptive_avg_pool(op: ops.AdaptiveAvgPool, source, grid: Grid) -> np.ndarray:
    """Codes of the mean over each bin floor(i*n/out) .. ceil((i + 1)*n/out)."""
    codes, value = source
    rows = [_bin(i, codes.shape[0], grid[0]) for i in range(grid[0])]
    columns = [_bin(i, codes.shape[1], grid[1]) for i in range(grid[1])]
    bins = [codes[r, c] for r in rows for c in columns]
    windows = [(inside, inside.shape[0] * inside.shape[1]) for inside in bins]
    return _mean_codes(op, windows, value, grid)


def resize(op: ops.Resize, source, grid: Grid) -> np.ndarray:
    """Interpolated scores, or codes of v * A + B."""
    array, value = source
    if op.bits is None:
        return interpolate(array, grid, op.mode)
    numbers = interpolate(_numbers(array, value).astype(f32), grid, op.mode)
    return arithmetic.to_codes(arithmetic.affine(numbers, f32(op.A), f32(op.B)), op.bits)


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


def add(op: ops.Add, first, second, grid: Grid) -> np.ndarray:
    """a + b"""
    return arithmetic.add(first[0], second[0])


def concat(op: ops.Concat, *sources, grid: Grid) -> np.ndarray:
    """Sources along channels."""
    return np.concatenate([codes for codes, _ in sources], axis=-1)


def mask(op: ops.Mask, up, fine, grid: Grid) -> np.ndarray:
    """up + fine where the labels of `up` differ in the window of side 2*dilation + 3, else up."""
    labels = up[0].argmax(-1)
    reach = op.dilation + 1
    out = up[0].copy()
    for y in range(grid[0]):
        for x in range(grid[1]):
            window = labels[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            if window.min() != window.max():
                out[y, x] = arithmetic.add(up[0][y, x], fine[0][y, x])
    return out


def argmax(op: ops.ArgMax, source, grid: Grid) -> np.ndarray:
    """First largest channel of the scores at the image's size."""
    return interpolate(source[0], grid, op.mode).argmax(-1).astype(np.uint8)


_RUN = {
    ops.ImageCodes: image_codes,
    ops.Table: table,
    ops.MaxPool: max_pool,
    ops.AvgPool: avg_pool,
    ops.AdaptiveAvgPool: adaptive_avg_pool,
    ops.Resize: resize,
    ops.Add: add,
    ops.Concat: concat,
    ops.Mask: mask,
    ops.ArgMax: argmax,
}


def _numbers(codes: np.ndarray, value: Value) -> np.ndarray:
    return codes.astype(np.int32) - value.zero_point


def _windows(op: ops.MaxPool, size: int, out: int, axis: int) -> list[np.ndarray]:
    """For each output index along an axis, the source indices of its taps that lie inside."""
    taps = np.arange(op.kernel[axis]) * op.dilation[axis] - op.padding[axis]
    starts = np.arange(out) * op.stride[axis]
    return [i[(i >= 0) & (i < size)] for i in starts[:, None] + taps]


def _bin(i: int, size: int, out: int) -> slice:
    return slice(i * size // out, -(-(i + 1) * size // out))


def _mean_codes(op, windows: list[tuple[np.ndarray, int]], value: Value, grid: Grid) -> np.ndarray:
    """code(mean * A + B) of (codes (a, b, c), count) per output pixel."""
    sums = np.stack(
        [(inside.astype(np.int64) - value.zero_point).sum(axis=(0, 1)) for inside, _ in windows]
    )
    counts = np.array([count for _, count in windows], f32)[:, None]
    mean = np.divide(sums.astype(f32), counts, dtype=f32)
    codes = arithmetic.to_codes(arithmetic.affine(mean, f32(op.A), f32(op.B)), op.bits)
    return codes.reshape(*grid, -1)
