"""resize: nearest or bilinear, of codes to codes or of scores; scores may be added on the way."""

import numpy as np
import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.ops import RESIZE_MODES
from bfcn_kernels.triton.codes import SIZES, Map, code_of, load_codes, store_codes
from bfcn_kernels.triton.elementwise import read, tiles, written
from bfcn_kernels.values import Grid

f32 = np.float32


class Resize:
    """A Resize on the device; of scores, with an addend if a second source is given."""

    def __init__(self, op: ops.Resize, device: torch.device):
        self.op = op
        self.mode = RESIZE_MODES.index(op.mode)

    def __call__(self, sources: list[Map], out: Map) -> None:
        source = sources[0]
        grids = (out.pixels, *out.grid, *source.grid, out.value.channels)
        steps = scales(source.grid, out.grid, self.op.mode)
        if self.op.bits is None:
            addend = sources[1].data if len(sources) > 1 else source.data
            grid, constants = tiles(out, out.value.channels)
            resize_scores_kernel[grid](
                out.data, source.data, addend, *grids, *steps, MODE=self.mode,
                ADD=len(sources) > 1, **constants,
            )  # fmt: skip
            return
        grid, constants = tiles(out, out.form.padded)
        resize_codes_kernel[grid](
            out.data, source.data, *grids, *steps, self.op.A, self.op.B, MODE=self.mode,
            ZERO_POINT=source.form.zero_point, BITS=self.op.bits,
            **read(source), **written(out), **constants,
        )  # fmt: skip


def scales(source: Grid, out: Grid, mode: str) -> tuple[float, float]:
    """float32 source pixels a target pixel, along y and x."""
    sides = []
    for n, m in zip(source, out, strict=True):
        if mode == 'align_corners':
            sides.append(f32(n - 1) / f32(m - 1) if m > 1 else f32(0))
        else:
            sides.append(f32(n) / f32(m))
    return tuple(float(side) for side in sides)


@triton.jit
def source_index(i, size, scale, MODE: tl.constexpr):
    """Lower and upper source pixel and the fraction between them, of target pixels i."""
    target = i.to(tl.float32)
    if MODE == 0:
        p = target * scale
    elif MODE == 1:
        p = (target + 0.5) * scale
        p = tl.maximum(p - 0.5, 0.0)
    else:
        p = target * scale
    low = tl.minimum(tl.floor(p).to(tl.int32), size - 1)
    high = tl.minimum(low + 1, size - 1)
    return low, high, tl.minimum(p - low.to(tl.float32), 1.0)


@triton.jit
def lerp(a, b, fraction):
    """a + (b - a) * fraction, three roundings."""
    part = (b - a) * fraction
    return a + part


@triton.jit
def corners(p, height, width, source_height, source_width, scale_y, scale_x, MODE: tl.constexpr):
    """Source pixels top left, top right, bottom left, bottom right, and the fractions y and x."""
    image = p // (width * height) * source_height
    y0, y1, ly = source_index(p // width % height, source_height, scale_y, MODE)
    x0, x1, lx = source_index(p % width, source_width, scale_x, MODE)
    top = (image + y0) * source_width
    bottom = (image + y1) * source_width
    return top + x0, top + x1, bottom + x0, bottom + x1, ly, lx


@triton.jit
def load_scores(ptr, pixels, c, mask, channels, other):
    """float32 scores at pixels [P] and channels c [C]."""
    return tl.load(ptr + pixels[:, None] * channels + c[None, :], mask=mask, other=other)


@triton.jit
def interpolated(
    ptr, p, c, mask, height, width, source_height, source_width, channels, scale_y, scale_x, other,
    MODE: tl.constexpr,
):  # fmt: skip
    """Scores [P, C] at target pixels p, along x first."""
    nw, ne, sw, se, ly, lx = corners(
        p, height, width, source_height, source_width, scale_y, scale_x, MODE
    )
    v = load_scores(ptr, nw, c, mask, channels, other)
    if MODE != 0:
        right = load_scores(ptr, ne, c, mask, channels, other)
        top = lerp(v, right, lx[:, None])
        v = load_scores(ptr, sw, c, mask, channels, other)
        right = load_scores(ptr, se, c, mask, channels, other)
        v = lerp(top, lerp(v, right, lx[:, None]), ly[:, None])
    return v


@triton.jit(do_not_specialize=SIZES)
def resize_scores_kernel(
    out_ptr, source_ptr, addend_ptr, pixels, height, width, source_height, source_width, channels,
    scale_y, scale_x, MODE: tl.constexpr, ADD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out = resized, or resized + addend."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    v = interpolated(
        source_ptr, p, c, mask, height, width, source_height, source_width, channels, scale_y,
        scale_x, 0.0, MODE,
    )  # fmt: skip
    at = p[:, None] * channels + c[None, :]
    if ADD:
        v = v + tl.load(addend_ptr + at, mask=mask, other=0.0)
    tl.store(out_ptr + at, v, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def resize_codes_kernel(
    out_ptr, source_ptr, pixels, height, width, source_height, source_width, channels,
    scale_y, scale_x, A, B,
    WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr, ZERO_POINT: tl.constexpr,
    MODE: tl.constexpr, BITS: tl.constexpr,
    OUT_WORDS: tl.constexpr, OUT_FIELD: tl.constexpr, OUT_OFFSET: tl.constexpr,
    OUT_ZERO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out = code(v * A + B), v the resized q - zp."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    first = tl.program_id(1) * BC
    c = first + tl.arange(0, BC)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    nw, ne, sw, se, ly, lx = corners(
        p, height, width, source_height, source_width, scale_y, scale_x, MODE
    )
    v = numbers(source_ptr, nw, c, mask, WORDS, FIELD, OFFSET, ZERO_POINT)
    if MODE != 0:
        right = numbers(source_ptr, ne, c, mask, WORDS, FIELD, OFFSET, ZERO_POINT)
        top = lerp(v, right, lx[:, None])
        v = numbers(source_ptr, sw, c, mask, WORDS, FIELD, OFFSET, ZERO_POINT)
        right = numbers(source_ptr, se, c, mask, WORDS, FIELD, OFFSET, ZERO_POINT)
        v = lerp(top, lerp(v, right, lx[:, None]), ly[:, None])
    t = v * A
    codes = code_of(t + B, BITS)
    store_codes(
        out_ptr, p, first, codes, pixels, channels, OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO
    )


@triton.jit
def numbers(
    ptr, pixels, c, mask, WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr,
    ZERO_POINT: tl.constexpr,
):  # fmt: skip
    """f32(q - zp) at pixels [P] and channels c [C]."""
    q = load_codes(ptr, pixels[:, None], c[None, :], mask, WORDS, FIELD, OFFSET)
    return (q - ZERO_POINT).to(tl.float32)
