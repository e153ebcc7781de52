"""argmax: scores resized to the image, then the first largest channel; no resized score is stored."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.ops import RESIZE_MODES
from bfcn_kernels.triton.codes import EXACT, SIZES, Map
from bfcn_kernels.triton.resize import interpolated, scales

BLOCK = 64  # channels at once


class ArgMax:
    """An ArgMax on the device."""

    def __init__(self, op: ops.ArgMax, device: torch.device):
        self.mode = op.mode

    def __call__(self, sources: list[Map], out: Map) -> None:
        argmax(sources[0], out, self.mode)


def argmax(source: Map, out: Map, mode: str) -> None:
    """Write the first largest channel of `source`, resized to the grid of `out`."""
    block = min(BLOCK, triton.next_power_of_2(source.value.channels))
    pixels = 2048 // block
    argmax_kernel[(triton.cdiv(out.pixels, pixels),)](
        out.data, source.data, out.pixels, *out.grid, *source.grid, source.value.channels,
        *scales(source.grid, out.grid, mode), MODE=RESIZE_MODES.index(mode), BP=pixels, BC=block,
        **EXACT,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def argmax_kernel(
    out_ptr, source_ptr, pixels, height, width, source_height, source_width, channels,
    scale_y, scale_x, MODE: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """BP pixels; blocks of BC channels one after the other, a later one must be larger to win."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    best = tl.full((BP,), float('-inf'), tl.float32)
    label = tl.zeros((BP,), tl.int32)
    for first in range(0, channels, BC):
        c = first + tl.arange(0, BC)
        mask = (p < pixels)[:, None] & (c < channels)[None, :]
        v = interpolated(
            source_ptr, p, c, mask, height, width, source_height, source_width, channels, scale_y,
            scale_x, 0.0, MODE,
        )  # fmt: skip
        v = tl.where((c < channels)[None, :], v, float('-inf'))
        largest = tl.max(v, axis=1)
        at = first + tl.argmax(v, axis=1, tie_break_left=True)
        label = tl.where(largest > best, at, label)
        best = tl.maximum(best, largest)
    tl.store(out_ptr + p, label.to(out_ptr.dtype.element_ty), mask=p < pixels)
