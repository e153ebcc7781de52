"""image_codes: three tables of 256 entries, from uint8 RGB to packed codes."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.triton.codes import SIZES, Map, store_codes
from bfcn_kernels.triton.elementwise import tiles, written


class ImageCodes:
    """An ImageCodes with its tables, in the order of the output's channels, on the device."""

    def __init__(self, op: ops.ImageCodes, device: torch.device):
        self.order = op.order
        self.tables = torch.from_numpy(op.tables).to(device)

    def __call__(self, sources: list[Map], out: Map) -> None:
        grid, constants = tiles(out, out.form.padded)
        image_codes_kernel[grid](
            out.data, sources[0].data, self.tables, out.pixels, *self.order,
            **written(out), **constants,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def image_codes_kernel(
    out_ptr, image_ptr, tables_ptr, pixels, order0, order1, order2,
    OUT_WORDS: tl.constexpr, OUT_FIELD: tl.constexpr, OUT_OFFSET: tl.constexpr,
    OUT_ZERO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out[p, c] = tables[c][image[p, order[c]]]"""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    first = tl.program_id(1) * BC
    c = first + tl.arange(0, BC)
    mask = (p < pixels)[:, None] & (c < 3)[None, :]
    order = tl.where(c == 0, order0, tl.where(c == 1, order1, order2))
    pixel = tl.load(image_ptr + p[:, None] * 3 + order[None, :], mask=mask, other=0)
    codes = tl.load(tables_ptr + c[None, :] * 256 + pixel, mask=mask, other=0).to(tl.int32)
    store_codes(out_ptr, p, first, codes, pixels, 3, OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO)
