"""How codes lie in GPU memory, and the device functions that read and write them.

A pixel is a row of int32 words. A field holds one code in 1, 2, 4 or 8 bits (the next power of two), so
a word holds P = 32 / field channels. Channel i of a word sits at bit

    8 * (i % 4) + field * (i // 4)

so that one shift and one mask leave four neighbouring channels in the four bytes of a register: the
form that the tensor cores' int8 operands have. Codes of 8 bits are stored as q - 128, which int8 holds.
Channels past the last are stored as the number 0, as pixels outside the map are read.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.backends.nvidia.compiler import CUDAOptions

from bfcn_kernels.values import Grid, Value

# Launch options of every kernel: float32 operations are rounded one by one and keep denormals.
EXACT = dict(enable_fp_fusion=False)
if 'enable_reflect_ftz' in CUDAOptions.__dataclass_fields__:  # before 3.6 floor alone would flush
    EXACT['enable_reflect_ftz'] = False

# Arguments of kernels for which no code of its own is compiled: an engine meets many image sizes.
SIZES = ['pixels', 'height', 'width', 'source_height', 'source_width', 'area']


@dataclass(frozen=True)
class Form:
    """The layout of one codes value: field bits, padded channels, what is subtracted from q."""

    channels: int
    bits: int
    zero_point: int

    @property
    def field(self) -> int:
        return field_bits(self.bits)

    @property
    def padded(self) -> int:
        """Channels with padding: a multiple of 64, or a power of two below that."""
        if self.channels > 32:
            return -(-self.channels // 64) * 64
        return max(32 // self.field, triton.next_power_of_2(self.channels))

    @property
    def words(self) -> int:
        """int32 words of a pixel."""
        return self.padded * self.field // 32

    @property
    def offset(self) -> int:
        """Stored field = q - offset."""
        return 128 if self.bits == 8 else 0

    @property
    def zero(self) -> int:
        """The stored field of the number 0."""
        return self.zero_point - self.offset

    @property
    def zero_word(self) -> int:
        """A word whose every field is `zero`, as int32."""
        ones = sum(1 << self.field * i for i in range(32 // self.field))
        word = ones * (self.zero % (1 << self.field))
        return word - (1 << 32) if word >> 31 else word


def form_of(value: Value) -> Form:
    """The layout of a codes value."""
    return Form(value.channels, value.bits, value.zero_point)


def field_bits(bits: int) -> int:
    """1, 2, 4 or 8: the field that holds a code of `bits` bits."""
    return 1 << (bits - 1).bit_length()


@dataclass(frozen=True)
class Map:
    """A value on the device, batched.

    data: codes int32 (batch * h * w, words); scores float32 (batch * h * w, channels);
    labels uint8 (batch * h * w,); the image uint8 (batch * h * w, 3).
    """

    data: torch.Tensor
    value: Value
    batch: int
    grid: Grid

    @property
    def pixels(self) -> int:
        return self.batch * self.grid[0] * self.grid[1]

    @property
    def form(self) -> Form:
        return form_of(self.value)


def storage(value: Value, pixels: int) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a Map's data."""
    if value.kind == 'codes':
        return (pixels, form_of(value).words), torch.int32
    if value.kind == 'scores':
        return (pixels, value.channels), torch.float32
    return ((pixels, 3) if value.kind == 'image' else (pixels,)), torch.uint8


def to_codes(m: Map) -> torch.Tensor:
    """The codes of a map as uint8 (batch, h, w, channels), by torch ops."""
    form, field = m.form, m.form.field
    i = torch.arange(32 // field, device=m.data.device)
    fields = m.data[:, :, None] >> (8 * (i % 4) + field * (i // 4))
    codes = (fields + form.offset) & ((1 << field) - 1)
    codes = codes.to(torch.uint8).reshape(m.batch, *m.grid, form.padded)
    return codes[..., : form.channels].contiguous()


def from_codes(codes: torch.Tensor, value: Value) -> Map:
    """Inverse of to_codes: a map of uint8 codes (batch, h, w, channels), by torch ops."""
    form, (batch, *grid, channels) = form_of(value), codes.shape
    padded = torch.full((batch * grid[0] * grid[1], form.padded), form.zero, dtype=torch.int64)
    padded[:, :channels] = codes.reshape(-1, channels).to(torch.int64).cpu() - form.offset
    words = pack_fields(padded, form.field)
    return Map(words.to(codes.device), value, batch, tuple(grid))


def pack_fields(fields: torch.Tensor, field: int) -> torch.Tensor:
    """int64 (rows, n) to int32 words (rows, n * field / 32); only the lowest `field` bits count."""
    per_word = 32 // field
    i = torch.arange(per_word)
    fields = (fields & ((1 << field) - 1)).reshape(len(fields), -1, per_word)
    words = (fields << (8 * (i % 4) + field * (i // 4))).sum(-1)
    return (words - ((words >> 31) << 32)).to(torch.int32)


@triton.jit
def expand(words, FIELD: tl.constexpr):
    """int32 words [R, W] to stored fields, int8 [R, W * 32 / FIELD], unsigned below 8 bits.

    One shift and one mask for four codes; the two joins only name the bytes of a register.
    """
    R: tl.constexpr = words.shape[0]
    W: tl.constexpr = words.shape[1]
    P: tl.constexpr = 32 // FIELD
    if FIELD == 8:
        quads = words
    else:
        MASK: tl.constexpr = 0x01010101 * ((1 << FIELD) - 1)
        shifts = tl.arange(0, P // 4) * FIELD
        quads = tl.reshape((words[:, :, None] >> shifts[None, None, :]) & MASK, R, W * P // 4)
    return bytes_of(quads)


@triton.jit
def bytes_of(quads):
    """int32 [R, Q] to its bytes, int8 [R, 4 * Q], lowest first."""
    R: tl.constexpr = quads.shape[0]
    Q: tl.constexpr = quads.shape[1]
    halves = tl.reshape(tl.join(quads.to(tl.int16), (quads >> 16).to(tl.int16)), R, 2 * Q)
    return tl.reshape(tl.join(halves.to(tl.int8), (halves >> 8).to(tl.int8)), R, 4 * Q)


@triton.jit
def pack_words(fields, FIELD: tl.constexpr):
    """Stored fields int32 [R, C] to words int32 [R, C * FIELD / 32]."""
    R: tl.constexpr = fields.shape[0]
    C: tl.constexpr = fields.shape[1]
    P: tl.constexpr = 32 // FIELD
    i = tl.arange(0, P)
    shifts = i % 4 * 8 + i // 4 * FIELD
    parts = tl.reshape(fields & ((1 << FIELD) - 1), R, C // P, P)
    return tl.sum(parts << shifts[None, None, :], axis=2)


@triton.jit
def load_codes(
    ptr, pixels, channels, mask, WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr
):
    """Codes q, int32, at pixels [R, 1] and channels [1, C]; 0 where not mask."""
    P: tl.constexpr = 32 // FIELD
    word = tl.load(ptr + pixels * WORDS + channels // P, mask=mask, other=0)
    i = channels % P
    field = word >> (i % 4 * 8 + i // 4 * FIELD)
    codes = (field + OFFSET) & ((1 << FIELD) - 1)
    return tl.where(mask, codes, 0)


@triton.jit
def store_codes(
    ptr, pixels, first, codes, count, channels,
    WORDS: tl.constexpr, FIELD: tl.constexpr, OFFSET: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    """Write codes int32 [R, C] of channels first .. first + C to pixels [R] below count.

    Channels from `channels` on become the number 0 (field ZERO); words past the pixel are left out.
    """
    C: tl.constexpr = codes.shape[1]
    channel = first + tl.arange(0, C)
    fields = tl.where((channel < channels)[None, :], codes - OFFSET, ZERO)
    words = pack_words(fields, FIELD)
    word = first * FIELD // 32 + tl.arange(0, C * FIELD // 32)
    mask = (pixels < count)[:, None] & (word < WORDS)[None, :]
    tl.store(ptr + pixels[:, None] * WORDS + word[None, :], words, mask=mask)


@triton.jit
def code_of(t, BITS: tl.constexpr):
    """clip(floor(t + 0.5), 0, 2**BITS - 1) as int32; clipped first, so that cutting off is floor."""
    return tl.minimum(tl.maximum(t + 0.5, 0.0), (1 << BITS) - 1.0).to(tl.int32)
