"""bit_conv: an implicit GEMM of packed activations with packed weights, its epilogue fused.

acc[m, n] = sum over k of a[m, k] * w[n, k]; m is an output pixel, n an output channel, and k runs over
(ky, kx, channel). Both operands are loaded packed and expanded to int8 in registers, whole codes at a
time: one `tl.dot` a block of k, whatever the bits. The operand a is the stored field, q - offset; outside
the map and in padding channels it is the field of the number 0, so

    sum w * (q - zp) = sum w * a - zero * sum w        zero = zp - offset, sum w over all stored weights

is the accumulator plus one integer a channel. Then, float32, each step rounded (docs/format.md):

    t = f32(acc_0) * A[n];  t = t + B[n];  t = t + f32(acc_i) * R_i[n];  t = t + f32(q - zp) * R;  code(t)

Weights as fields of 1, 2 or 4 bits are decoded to k*b - z on four codes at once; as bytes they are those
integers already. Weights past int8 (8 bits, bipolar) are the sum of three operands, one after the other.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from bfcn_kernels.ops import BitConv
from bfcn_kernels.triton import weights
from bfcn_kernels.triton.codes import (
    EXACT,
    SIZES,
    Form,
    Map,
    bytes_of,
    code_of,
    expand,
    store_codes,
)
from bfcn_kernels.triton.weights import pack_term

GROUP_TILE = tl.constexpr(weights.GROUP_TILE)


@dataclass(frozen=True)
class Config:
    """A tile of pixels x channels x k, who works on it, and whether weights are kept as bytes."""

    pixels: int
    channels: int
    k: int
    warps: int
    stages: int
    as_bytes: bool = False


class PackedConv:
    """A BitConv with its weights on the device, laid out for blocks of `k`."""

    def __init__(
        self, op: BitConv, sources: list[Form], k: int, as_bytes: bool, device: torch.device
    ):
        """sources: of each term. Raises GraphError where a sum could pass int32."""
        self.op = op
        self.bias = torch.from_numpy(op.bias).to(device)
        self.terms = [
            pack_term(term, source, k, as_bytes, device)
            for term, source in zip(op.terms, sources, strict=True)
        ]

    def __call__(self, sources: list[Map], out: Map, config: Config) -> None:
        """Run on maps of the terms' sources and of the residuals', in order."""
        arguments, constants = self.arguments(sources, out, config)
        tiles = triton.cdiv(out.pixels, config.pixels) * constants['N_TILES']
        bit_conv_kernel[(tiles,)](*arguments, **constants, **options(config))

    def compile(self, sources: list[Map], out: Map, config: Config) -> None:
        """Compile what a call with the same arguments launches."""
        arguments, constants = self.arguments(sources, out, config)
        bit_conv_kernel.warmup(*arguments, grid=(1,), **constants, **options(config))

    def arguments(self, sources: list[Map], out: Map, config: Config) -> tuple[tuple, dict]:
        """(arguments, constants) of the kernel."""
        terms = tuple(
            (m.data, term.weight, term.scale, term.correction)
            for m, term in zip(sources, self.terms, strict=False)
        )
        joined = sources[len(self.terms) :]
        residuals = tuple(
            (m.data, residual.scale) for m, residual in zip(joined, self.op.residuals, strict=True)
        )
        form = out.form if out.value.kind == 'codes' else None
        covered = form.padded if form else out.value.channels
        constants = dict(
            TERMS=tuple(term.constants for term in self.terms),
            RESIDUALS=tuple((m.form.words, m.form.field, m.form.zero) for m in joined),
            OUT=(form.bits, form.words, form.field, form.offset, form.zero) if form else (),
            BM=config.pixels,
            BN=config.channels,
            BK=config.k,
            N_TILES=triton.cdiv(covered, config.channels),
        )
        # Triton compiles anew for multiples of 16 in a tuple: odd numbers are never such.
        grids = tuple((2 * h + 1, 2 * w + 1) for h, w in (m.grid for m in sources))[: len(terms)]
        sizes = (out.pixels, *out.grid, out.value.channels)
        return (out.data, self.bias, terms, grids, residuals, *sizes), constants


def options(config: Config) -> dict:
    """Launch options; every float32 operation is rounded on its own."""
    return dict(num_warps=config.warps, num_stages=config.stages, **EXACT)


@triton.jit(do_not_specialize=SIZES)
def bit_conv_kernel(
    out_ptr,
    bias_ptr,
    terms,  # of (source, weight, scale, correction)
    grids,  # (2 * height + 1, 2 * width + 1) of each term's source
    residuals,  # of (source, scale)
    pixels,  # batch * height * width of the output
    height,
    width,
    channels,
    TERMS: tl.constexpr,  # constants of each term, see bit_conv_term
    RESIDUALS: tl.constexpr,  # of (words, field, zero)
    OUT: tl.constexpr,  # (bits, words, field, offset, zero) of codes, or () for scores
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    N_TILES: tl.constexpr,
):
    """One tile of BM pixels x BN channels; tiles of one row of pixels run side by side."""
    tile = tl.program_id(0)
    m = tile // N_TILES * BM + tl.arange(0, BM)
    first = tile % N_TILES * BN
    n = first + tl.arange(0, BN)
    n_safe = tl.minimum(n, channels - 1)
    bias = tl.load(bias_ptr + n_safe)
    for i in tl.static_range(len(TERMS)):
        acc = bit_conv_term(
            terms[i], grids[i], TERMS, i, m, n_safe, first, pixels, height, width, BM, BN, BK
        )
        acc += tl.load(terms[i][3] + n_safe)[None, :]
        part = acc.to(tl.float32) * tl.load(terms[i][2] + n_safe)[None, :]
        if i == 0:
            t = part + bias[None, :]
        else:
            t = t + part
    inside = (m < pixels)[:, None] & (n < channels)[None, :]
    for i in tl.static_range(len(RESIDUALS)):
        q = residual_codes(residuals[i][0], m, first, pixels, RESIDUALS, i, BN)
        t = t + q.to(tl.float32) * residuals[i][1]
    if len(OUT) == 0:
        tl.store(out_ptr + m[:, None] * channels + n[None, :], t, mask=inside)
    else:
        codes = code_of(t, OUT[0])
        store_codes(out_ptr, m, first, codes, pixels, channels, OUT[1], OUT[2], OUT[3], OUT[4])


@triton.jit
def bit_conv_term(
    term, grid, TERMS: tl.constexpr, TERM: tl.constexpr, m, n, first, pixels, height, width,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """int32 [BM, BN]: sum of w * a over k, of one term."""
    WORDS: tl.constexpr = TERMS[TERM][0]  # of a source pixel
    FIELD: tl.constexpr = TERMS[TERM][1]  # bits of a source code
    PAD: tl.constexpr = TERMS[TERM][2]  # the word of zeros
    SLAB: tl.constexpr = TERMS[TERM][3]  # channels that a tap reads
    GROUP_OUTPUTS: tl.constexpr = TERMS[TERM][4]  # 0: a tap reads the whole pixel
    GROUP_INPUTS: tl.constexpr = TERMS[TERM][5]
    KH: tl.constexpr = TERMS[TERM][6]
    KW: tl.constexpr = TERMS[TERM][7]
    SH: tl.constexpr = TERMS[TERM][8]
    SW: tl.constexpr = TERMS[TERM][9]
    PH: tl.constexpr = TERMS[TERM][10]
    PW: tl.constexpr = TERMS[TERM][11]
    DH: tl.constexpr = TERMS[TERM][12]
    DW: tl.constexpr = TERMS[TERM][13]
    WEIGHT_FIELD: tl.constexpr = TERMS[TERM][14]
    FORM: tl.constexpr = TERMS[TERM][15]  # a weight is FORM * b - Z
    Z: tl.constexpr = TERMS[TERM][16]
    PASSES: tl.constexpr = TERMS[TERM][17]  # 3 where the weights are a sum of three operands
    NARROW: tl.constexpr = TERMS[TERM][18]  # a block of k spans several taps
    TAPS: tl.constexpr = KH * KW
    AW: tl.constexpr = BK * FIELD // 32  # words of a block
    TAP_WORDS: tl.constexpr = SLAB * FIELD // 32
    BLOCKS: tl.constexpr = (TAPS * TAP_WORDS + AW - 1) // AW  # of a pass
    POINT: tl.constexpr = TAPS == 1 and PH == 0 and PW == 0
    source_ptr = term[0]
    source_height = grid[0] // 2
    source_width = grid[1] // 2
    if POINT and SH == 1 and SW == 1:
        y = tl.zeros_like(m)
        x = tl.zeros_like(m)
        origin = m
    else:
        y = m // width % height * SH - PH
        x = m % width * SW - PW
        origin = (m // (width * height) * source_height + y) * source_width + x
    in_rows = m < pixels
    if GROUP_OUTPUTS == 0:
        start = 0
    else:  # the word where the tile's first group begins
        start = first // GROUP_TILE * GROUP_TILE // GROUP_OUTPUTS * GROUP_INPUTS // 32 * FIELD
    word = tl.arange(0, AW)
    weight = weight_pointers(term[1], n, WEIGHT_FIELD, PASSES * BLOCKS * BK, BK)
    acc = tl.zeros((BM, BN), tl.int32)
    for i in range(PASSES * BLOCKS):
        block = i % BLOCKS if PASSES > 1 else i
        if NARROW:  # every word of the block has a tap of its own
            index = block * AW + word
            tap = index // TAP_WORDS
            w = start + index % TAP_WORDS
            dy = tap // KW * DH
            dx = tap % KW * DW
            offsets = (origin[:, None] + (dy * source_width + dx)[None, :]) * WORDS + w[None, :]
            iy = y[:, None] + dy[None, :]
            ix = x[:, None] + dx[None, :]
            mask = (iy >= 0) & (iy < source_height) & (ix >= 0) & (ix < source_width)
            mask = mask & in_rows[:, None] & ((tap < TAPS) & (w < WORDS))[None, :]
        else:
            tap = block // (TAP_WORDS // AW)
            w = start + block % (TAP_WORDS // AW) * AW + word
            dy = tap // KW * DH
            dx = tap % KW * DW
            offsets = (origin + dy * source_width + dx)[:, None] * WORDS + w[None, :]
            if POINT:
                mask = in_rows[:, None]
            else:
                iy = y + dy
                ix = x + dx
                inside = (iy >= 0) & (iy < source_height) & (ix >= 0) & (ix < source_width)
                mask = (inside & in_rows)[:, None]
            if GROUP_OUTPUTS != 0:
                mask = mask & (w < WORDS)[None, :]
        a = expand(tl.load(source_ptr + offsets, mask=mask, other=PAD), FIELD)
        b = load_weights(weight, i, WEIGHT_FIELD, FORM, Z, BK)
        acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
    return acc


@triton.jit
def weight_pointers(ptr, n, FIELD: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """Pointers to the first block of k: bytes, or words of fields."""
    if FIELD == 8:
        ptrs = ptr.to(tl.pointer_type(tl.int8)) + n[:, None] * K + tl.arange(0, BK)[None, :]
    else:
        W: tl.constexpr = BK * FIELD // 32
        ptrs = ptr + n[:, None] * (K * FIELD // 32) + tl.arange(0, W)[None, :]
    return ptrs


@triton.jit
def load_weights(
    ptrs, i, FIELD: tl.constexpr, FORM: tl.constexpr, Z: tl.constexpr, BK: tl.constexpr
):
    """int8 [BN, BK]: FORM * b - Z of block i."""
    if FIELD == 8:
        w = tl.load(ptrs + i * BK)
    else:
        words = tl.load(ptrs + i * (BK * FIELD // 32))
        R: tl.constexpr = words.shape[0]
        W: tl.constexpr = words.shape[1]
        MASK: tl.constexpr = 0x01010101 * ((1 << FIELD) - 1)
        BIAS: tl.constexpr = 0x01010101 * (128 - Z)
        shifts = tl.arange(0, 8 // FIELD) * FIELD
        quads = (words[:, :, None] >> shifts[None, None, :]) & MASK
        # Four bytes at once: FORM * b + 128 - Z stays within a byte, 128 flips the sign bit back.
        quads = (quads * FORM + BIAS) ^ -0x7F7F7F80
        w = bytes_of(tl.reshape(quads, R, W * (8 // FIELD)))
    return w


@triton.jit
def residual_codes(
    ptr, m, first, pixels, RESIDUALS: tl.constexpr, INDEX: tl.constexpr, BN: tl.constexpr
):
    """int32 [BM, BN]: q - zp of channels first .. first + BN."""
    FIELD: tl.constexpr = RESIDUALS[INDEX][1]
    word = first * FIELD // 32 + tl.arange(0, BN * FIELD // 32)
    mask = (m < pixels)[:, None] & (word < RESIDUALS[INDEX][0])[None, :]
    words = tl.load(ptr + m[:, None] * RESIDUALS[INDEX][0] + word[None, :], mask=mask, other=0)
    return expand(words, FIELD).to(tl.int32) - RESIDUALS[INDEX][2]
