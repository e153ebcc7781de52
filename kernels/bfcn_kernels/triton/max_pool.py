"""max_pool on codes: the largest code among the taps inside the source, 0 where there is none."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.triton.codes import SIZES, Map, load_codes, store_codes
from bfcn_kernels.triton.elementwise import read, tiles, written


class MaxPool:
    """A MaxPool on the device."""

    def __init__(self, op: ops.MaxPool, device: torch.device):
        self.window = (*op.kernel, *op.stride, *op.padding, *op.dilation)

    def __call__(self, sources: list[Map], out: Map) -> None:
        grid, constants = tiles(out, out.form.padded)
        max_pool_kernel[grid](
            out.data, sources[0].data, out.pixels, *out.grid, *sources[0].grid,
            out.value.channels, *self.window, **read(sources[0]), **written(out), **constants,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def max_pool_kernel(
    out_ptr, source_ptr, pixels, height, width, source_height, source_width, channels,
    KH, KW, SH, SW, PH, PW, DH, DW,
    WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr,
    OUT_WORDS: tl.constexpr, OUT_FIELD: tl.constexpr, OUT_OFFSET: tl.constexpr,
    OUT_ZERO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A tile of output pixels and channels; taps one after the other."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    first = tl.program_id(1) * BC
    c = first + tl.arange(0, BC)
    y = p // width % height * SH - PH
    x = p % width * SW - PW
    image = p // (width * height) * source_height
    best = tl.zeros((BP, BC), tl.int32)
    for tap in range(KH * KW):
        iy = y + tap // KW * DH
        ix = x + tap % KW * DW
        inside = (iy >= 0) & (iy < source_height) & (ix >= 0) & (ix < source_width) & (p < pixels)
        mask = inside[:, None] & (c < channels)[None, :]
        at = (image + iy) * source_width + ix
        q = load_codes(source_ptr, at[:, None], c[None, :], mask, WORDS, FIELD, OFFSET)
        best = tl.maximum(best, q)
    store_codes(
        out_ptr, p, first, best, pixels, channels, OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO
    )
