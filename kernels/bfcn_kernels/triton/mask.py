"""mask: up + fine near the boundaries between the labels of `up`, up elsewhere."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.triton.argmax import argmax
from bfcn_kernels.triton.codes import EXACT, SIZES, Map

BLOCK = 64  # channels at once


class Mask:
    """A Mask on the device. scratch(pixels): int32 labels of `up`, one a pixel."""

    def __init__(self, op: ops.Mask, device: torch.device):
        self.reach = op.dilation + 1

    def scratch(self, pixels: int) -> tuple[tuple[int, ...], torch.dtype]:
        return (pixels,), torch.int32

    def __call__(self, sources: list[Map], out: Map, labels: torch.Tensor) -> None:
        up, fine = sources
        argmax(up, Map(labels, up.value, up.batch, up.grid), 'nearest')
        channels = out.value.channels
        block = min(BLOCK, triton.next_power_of_2(channels))
        pixels = 2048 // block
        mask_kernel[(triton.cdiv(out.pixels, pixels),)](
            out.data, up.data, fine.data, labels, out.pixels, *out.grid, channels, self.reach,
            BP=pixels, BC=block, **EXACT,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def mask_kernel(
    out_ptr, up_ptr, fine_ptr, label_ptr, pixels, height, width, channels, reach,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A pixel is near a boundary where the labels within `reach`, clipped to the map, differ."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    row = p // width
    image = row // height
    y = row % height
    x = p % width
    valid = p < pixels
    own = tl.load(label_ptr + p, mask=valid, other=0)
    differ = tl.zeros((BP,), tl.int32)
    side = 2 * reach + 1
    for tap in range(side * side):
        iy = y + tap // side - reach
        ix = x + tap % side - reach
        inside = valid & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
        at = (image * height + iy) * width + ix
        other = tl.load(label_ptr + at, mask=inside, other=0)
        differ |= (inside & (other != own)).to(tl.int32)
    for first in range(0, channels, BC):
        c = first + tl.arange(0, BC)
        mask = valid[:, None] & (c < channels)[None, :]
        at = p[:, None] * channels + c[None, :]
        up = tl.load(up_ptr + at, mask=mask, other=0.0)
        fine = tl.load(fine_ptr + at, mask=mask, other=0.0)
        tl.store(out_ptr + at, tl.where((differ != 0)[:, None], up + fine, up), mask=mask)
