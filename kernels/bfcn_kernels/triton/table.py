"""table: codes to codes through 2**bits entries."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.triton.codes import SIZES, Map, load_codes, store_codes
from bfcn_kernels.triton.elementwise import read, tiles, written


class Table:
    """A Table with its entries on the device."""

    def __init__(self, op: ops.Table, device: torch.device):
        self.table = torch.from_numpy(op.table).to(device)

    def __call__(self, sources: list[Map], out: Map) -> None:
        grid, constants = tiles(out, out.form.padded)
        table_kernel[grid](
            out.data, sources[0].data, self.table, out.pixels, out.value.channels,
            **read(sources[0]), **written(out), **constants,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def table_kernel(
    out_ptr, source_ptr, table_ptr, pixels, channels,
    WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr,
    OUT_WORDS: tl.constexpr, OUT_FIELD: tl.constexpr, OUT_OFFSET: tl.constexpr,
    OUT_ZERO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out[p, c] = table[q[p, c]]"""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    first = tl.program_id(1) * BC
    c = first + tl.arange(0, BC)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    q = load_codes(source_ptr, p[:, None], c[None, :], mask, WORDS, FIELD, OFFSET)
    codes = tl.load(table_ptr + q, mask=mask, other=0).to(tl.int32)
    store_codes(
        out_ptr, p, first, codes, pixels, channels, OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO
    )
