"""avg_pool and adaptive_avg_pool: code(mean * A + B) of q - zp over a rectangle of the source."""

import torch
import triton
import triton.language as tl

from bfcn_kernels import ops
from bfcn_kernels.triton.codes import EXACT, SIZES, Map, code_of, load_codes, store_codes
from bfcn_kernels.triton.elementwise import BLOCK, read, written

TAPS = 64  # at most, of a window at once


class MeanPool:
    """An AvgPool or AdaptiveAvgPool on the device."""

    def __init__(self, op: ops.AvgPool | ops.AdaptiveAvgPool, device: torch.device):
        self.op = op
        self.adaptive = isinstance(op, ops.AdaptiveAvgPool)
        self.window = (1, 1, 1, 1, 0, 0)
        if not self.adaptive:
            self.window = (*op.kernel, *op.stride, *op.padding)

    def __call__(self, sources: list[Map], out: Map) -> None:
        area = self._area(sources[0], out)
        taps, channels = min(TAPS, triton.next_power_of_2(area)), min(64, out.form.padded)
        pixels = max(1, 2 * BLOCK // (taps * channels))
        grid = triton.cdiv(out.pixels, pixels), triton.cdiv(out.form.padded, channels)
        mean_pool_kernel[grid](
            out.data, sources[0].data, out.pixels, *out.grid, *sources[0].grid,
            out.value.channels, *self.window, area, self.op.A, self.op.B,
            ZERO_POINT=sources[0].form.zero_point, BITS=self.op.bits, ADAPTIVE=self.adaptive,
            COUNT_PADDING=getattr(self.op, 'count_include_pad', False),
            BP=pixels, BT=taps, BC=channels, **read(sources[0]), **written(out), **EXACT,
        )  # fmt: skip

    def _area(self, source: Map, out: Map) -> int:
        """Taps that no window exceeds."""
        if not self.adaptive:
            return self.window[0] * self.window[1]
        rows, columns = (-(-n // m) + 1 for n, m in zip(source.grid, out.grid, strict=True))
        return min(rows, source.grid[0]) * min(columns, source.grid[1])


@triton.jit(do_not_specialize=SIZES)
def mean_pool_kernel(
    out_ptr, source_ptr, pixels, height, width, source_height, source_width, channels,
    KH, KW, SH, SW, PH, PW, area, A, B,
    WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr, ZERO_POINT: tl.constexpr,
    ADAPTIVE: tl.constexpr, COUNT_PADDING: tl.constexpr, BITS: tl.constexpr,
    OUT_WORDS: tl.constexpr, OUT_FIELD: tl.constexpr, OUT_OFFSET: tl.constexpr,
    OUT_ZERO: tl.constexpr, BP: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """BP output pixels, BC channels; BT taps of a window at once, their sum in 64 bits."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    first = tl.program_id(1) * BC
    c = first + tl.arange(0, BC)
    y = p // width % height
    x = p % width
    if ADAPTIVE:
        top = (y.to(tl.int64) * source_height // height).to(tl.int32)
        left = (x.to(tl.int64) * source_width // width).to(tl.int32)
        bottom = (((y + 1).to(tl.int64) * source_height + height - 1) // height).to(tl.int32)
        right = (((x + 1).to(tl.int64) * source_width + width - 1) // width).to(tl.int32)
        count = (bottom - top) * (right - left)
    else:
        y0 = y * SH - PH
        x0 = x * SW - PW
        top = tl.maximum(y0, 0)
        left = tl.maximum(x0, 0)
        bottom = tl.minimum(y0 + KH, source_height)
        right = tl.minimum(x0 + KW, source_width)
        if COUNT_PADDING:
            rows = tl.minimum(y0 + KH, source_height + PH) - y0
            count = rows * (tl.minimum(x0 + KW, source_width + PW) - x0)
        else:
            count = (bottom - top) * (right - left)
    columns = right - left
    taps = tl.where(p < pixels, (bottom - top) * columns, 0)
    origin = (p // (width * height) * source_height + top) * source_width + left
    total = tl.zeros((BP, BC), tl.int64)
    for start in range(0, area, BT):
        tap = (start + tl.arange(0, BT))[None, :]
        at = origin[:, None] + tap // columns[:, None] * source_width + tap % columns[:, None]
        mask = (tap < taps[:, None])[:, :, None] & (c < channels)[None, None, :]
        q = load_codes(source_ptr, at[:, :, None], c[None, None, :], mask, WORDS, FIELD, OFFSET)
        total += tl.sum(tl.where(mask, q - ZERO_POINT, 0), axis=1).to(tl.int64)
    mean = tl.div_rn(total.to(tl.float32), count.to(tl.float32)[:, None])
    t = mean * A
    codes = code_of(t + B, BITS)
    store_codes(
        out_ptr, p, first, codes, pixels, channels, OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO
    )
