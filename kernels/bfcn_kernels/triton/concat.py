"""concat: codes of one grid of levels along channels."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.triton.codes import SIZES, Map, load_codes, store_codes
from bfcn_kernels.triton.elementwise import tiles, written


class Concat:
    """A Concat on the device."""

    def __init__(self, op: ops.Concat, device: torch.device):
        pass

    def __call__(self, sources: list[Map], out: Map) -> None:
        starts, first = [], 0
        for source in sources:
            starts.append((source.form.words, first, source.value.channels))
            first += source.value.channels
        grid, constants = tiles(out, out.form.padded)
        concat_kernel[grid](
            out.data, tuple(source.data for source in sources), out.pixels, out.value.channels,
            PARTS=tuple(starts), **written(out), **constants,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def concat_kernel(
    out_ptr, sources, pixels, channels,
    PARTS: tl.constexpr,  # (words, first channel, channels) of each source
    OUT_WORDS: tl.constexpr, OUT_FIELD: tl.constexpr, OUT_OFFSET: tl.constexpr,
    OUT_ZERO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A tile of output pixels and channels, from whichever sources reach into it."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    first = tl.program_id(1) * BC
    c = first + tl.arange(0, BC)
    codes = tl.zeros((BP, BC), tl.int32)
    for i in tl.static_range(len(PARTS)):
        own = c - PARTS[i][1]
        mask = (p < pixels)[:, None] & ((own >= 0) & (own < PARTS[i][2]))[None, :]
        codes += load_codes(
            sources[i], p[:, None], own[None, :], mask, PARTS[i][0], OUT_FIELD, OUT_OFFSET
        )
    store_codes(
        out_ptr, p, first, codes, pixels, channels, OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO
    )
