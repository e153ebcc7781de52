"""plane_conv: a bit_conv on one-bit tensor cores, by bit planes, its epilogue fused.

Codes are split into planes of bits, and the tensor cores count where a plane of activations and one of
weights are both 1, 256 channels at a time (mma b1 and.popc, exact):

    sum b * a = sum over planes i, j of 2^(i + j) * popcount(B_i & A_j)
    sum w * (q - zp) = k * sum b * a - z * sum a - zp * sum w        w = k * b - z,  a = q

Maps keep the layout of codes.py: a word of fields becomes a word of each plane by a shift and a mask, in
registers, and weights are packed once in the order of channels that this gives. sum a, of all that a
pixel reads, is the product with a column of ones. What lies outside the map and padding channels are the
number 0, field zp, as in bit_conv; so is the epilogue, float32, each step rounded.

Each plane of activations meets each plane of weights, where int8 multiplies once. So it is for few bits;
`serves` says which layers. On sm_90 the instruction is wgmma, whose weights stay in shared memory.
"""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import torch

from bfcn_kernels.ops import BitConv, Term
from bfcn_kernels.triton.codes import Form, Map
from bfcn_kernels.triton.driver import Kernel
from bfcn_kernels.triton.nvrtc import compile_cuda

THREADS, STAGES = 128, 3  # of a block; steps in shared memory at once
WIDEST = 64  # channels of a tile
MOST_BITS, MOST_PRODUCTS = 4, 8  # of an operand; of planes with planes


class PlaneConv:
    """A BitConv with its weights on the device, as planes."""

    def __init__(self, op: BitConv, sources: list[Form], device: torch.device, wgmma: bool = False):
        """sources: of each term. The op must be one that `serves` allows. wgmma: for sm_90."""
        self.op, self.device = op, device
        self.bias = torch.from_numpy(op.bias).to(device)
        self.constants = constants(op, sources[0], wgmma)
        self.tile = tile(self.constants)
        self._terms = [
            (term, *_on_device(pack_planes(term, source, wgmma), term, source, device))
            for term, source in zip(op.terms, sources, strict=True)
        ]

    def __call__(self, sources: list[Map], out: Map, config: None = None) -> None:
        """Run on maps of the terms' sources and of the residuals', in order. config: there is but one."""
        blocks, layer = self.layer(sources, out)
        self._kernel()(blocks, THREADS, layer)

    def layer(self, sources: list[Map], out: Map) -> tuple[int, ctypes.Structure]:
        """(blocks, the kernel's parameter)"""
        form = out.form if out.value.kind == 'codes' else None
        layer = _layer_type(len(self._terms), len(self.op.residuals))()
        layer.out, layer.bias = out.data.data_ptr(), self.bias.data_ptr()
        layer.pixels, layer.channels = out.pixels, out.value.channels
        layer.height, layer.width = out.grid
        covered = form.padded if form else out.value.channels
        layer.channel_tiles = -(-covered // self.tile[1])
        if form:
            layer.bits, layer.words, layer.zero = form.bits, form.words, form.zero
            layer.field_log = form.field.bit_length() - 1
        for to, m, (term, weight, scale, correction) in zip(
            layer.term, sources, self._terms, strict=False
        ):
            _fill_term(to, term, m)
            to.source, to.weight = m.data.data_ptr(), weight.data_ptr()
            to.scale, to.correction = scale.data_ptr(), correction.data_ptr()
        joined = zip(sources[len(self._terms) :], self.op.residuals, strict=True)
        for to, (m, residual) in zip(layer.residual, joined, strict=False):
            to.source, to.words, to.zero = m.data.data_ptr(), m.form.words, m.form.zero
            to.field_log, to.scale = m.form.field.bit_length() - 1, residual.scale
        return -(-out.pixels // self.tile[0]) * layer.channel_tiles, layer

    def _kernel(self) -> Kernel:
        major, minor = torch.cuda.get_device_capability(self.device)
        return _compiled(tuple(self.constants.items()), 10 * major + minor, self.device.index)


def serves(op: BitConv, sources: list[Form]) -> bool:
    """Whether this kernel runs it: few bits, no groups, sources of 33 channels or more, terms alike."""
    first = op.terms[0], sources[0]
    return all(
        term.groups == 1
        and source.padded % 64 == 0
        and max(term.bits, source.bits) <= MOST_BITS
        and term.bits * source.bits <= MOST_PRODUCTS
        and (term.bits, source.bits) == (first[0].bits, first[1].bits)
        for term, source in zip(op.terms, sources, strict=True)
    )


def constants(op: BitConv, source: Form, wgmma: bool) -> dict[str, int]:
    """What the kernel is compiled for; tiles as large as their sums fit into registers."""
    planes, weight_planes, terms = source.bits, op.terms[0].bits, len(op.terms)
    levels = planes + weight_planes - 1
    rows = 2 if source.field < 4 and levels <= 4 else 1
    wide = rows * levels <= 4 and terms == 1
    return dict(
        FIELD=source.field, PLANES=planes, WEIGHT_PLANES=weight_planes, TERMS=terms,
        RESIDUALS=len(op.residuals), SCORES=int(op.bits is None), STAGES=STAGES,
        MT=rows, NT=8 if wide else 4, WGMMA=int(wgmma),
    )  # fmt: skip


def tile(given: dict[str, int]) -> tuple[int, int]:
    """(pixels, channels) of a block."""
    return 64 * given['MT'], 8 * given['NT']


def pack_planes(term: Term, source: Form, wgmma: bool) -> np.ndarray:
    """Weight codes as the tensor cores' operands: uint32 (channels / 8, steps, planes, 64).

    The 64 words are those of 8 output channels g, 4 chunks t and the 2 words of a chunk, 64 channels of a
    tap: by [g][t][word] as mma's lanes hold them, by [g][word][t] as rows of 32 bytes for wgmma, whose
    halves are swapped in rows 4 to 7. Channels are padded to whole tiles, chunks to whole steps, with 0.
    """
    outputs, kh, kw, inputs = term.weight.shape
    chunks = kh * kw * source.padded // 64
    codes = np.zeros((-(-outputs // WIDEST) * WIDEST, kh * kw, source.padded), np.uint8)
    codes[:outputs, :, :inputs] = term.weight.reshape(outputs, kh * kw, inputs)
    codes = codes.reshape(len(codes), chunks, 2, 32)
    codes = np.pad(codes, ((0, 0), (0, -chunks % 4), (0, 0), (0, 0)))
    codes = codes[..., np.argsort(_bit_of_channel(source.field))]
    planes = np.stack(
        [
            np.packbits(codes >> plane & 1, axis=-1, bitorder='little').view('<u4')[..., 0]
            for plane in range(term.bits)
        ]
    )  # (planes, outputs, chunks, 2)
    tiles = planes.reshape(term.bits, -1, 8, planes.shape[2] // 4, 4, 2)
    tiles = tiles.transpose(1, 3, 0, 2, 4, 5)  # (tile, step, plane, g, t, word)
    if wgmma:
        tiles = tiles.swapaxes(4, 5).copy()
        tiles[:, :, :, 4:] = tiles[:, :, :, 4:, ::-1]
    return np.ascontiguousarray(tiles).reshape(*tiles.shape[:3], 64)


def compile_plane_conv(given: dict[str, int], sm: int) -> tuple[bytes, str]:
    """(cubin, PTX) of the kernel for some constants."""
    architecture = f'{sm}a' if given['WGMMA'] else str(sm)
    return compile_cuda(Path(__file__).with_suffix('.cu').read_text(), given, architecture)


@cache
def _compiled(given: tuple[tuple[str, int], ...], sm: int, index: int) -> Kernel:
    """On the device of that index, which is the current one."""
    return Kernel(compile_plane_conv(dict(given), sm)[0], 'plane_conv')


def _bit_of_channel(field: int) -> np.ndarray:
    """The bit of a plane's word at which each of 32 channels stands, see plane() in plane_conv.cu."""
    word, i = np.divmod(np.arange(32), 32 // field)
    return 8 * (i % 4) + field * (i // 4) + word


def _on_device(planes: np.ndarray, term: Term, source: Form, device: torch.device) -> tuple:
    """(weight, scale, correction); padding channels, whose weights are -z, count in the correction."""
    outputs, kh, kw, inputs = term.weight.shape
    padding = kh * kw * (source.padded - inputs) * -term.offset
    sums = term.integers().reshape(outputs, -1).sum(1, dtype=np.int64) + padding
    correction = (sums * -source.zero).astype(np.int32)  # modulo 2**32
    return (
        torch.from_numpy(planes.view(np.int32)).to(device),
        torch.from_numpy(term.scale).to(device),
        torch.from_numpy(correction).to(device),
    )


def _fill_term(to: ctypes.Structure, term: Term, source: Map) -> None:
    form = source.form
    to.words, (to.height, to.width) = form.words, source.grid
    to.kernel_width = term.kernel[1]
    to.stride_y, to.stride_x = term.stride
    to.pad_y, to.pad_x = term.padding
    to.dilation_y, to.dilation_x = term.dilation
    to.tap_chunks = form.padded // 64
    to.chunks = term.kernel[0] * term.kernel[1] * to.tap_chunks
    to.steps = -(-to.chunks // 4)
    to.form, to.offset, to.outside = term.form, term.offset, form.zero_word % 2**32


class _Term(ctypes.Structure):
    """struct Term"""

    _fields_ = [(name, ctypes.c_void_p) for name in ('source', 'weight', 'scale', 'correction')]
    _fields_ += [
        (name, ctypes.c_int32) for name in (
            'words', 'height', 'width', 'kernel_width', 'stride_y', 'stride_x', 'pad_y', 'pad_x',
            'dilation_y', 'dilation_x', 'tap_chunks', 'chunks', 'steps',
        )
    ]  # fmt: skip
    _fields_ += [(name, ctypes.c_uint32) for name in ('form', 'offset', 'outside')]


class _Residual(ctypes.Structure):
    """struct Residual"""

    _fields_ = [
        ('source', ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ('words', 'field_log', 'zero')),
        ('scale', ctypes.c_float),
    ]


@cache
def _layer_type(terms: int, residuals: int) -> type[ctypes.Structure]:
    """struct Layer"""
    numbers = ('pixels', 'height', 'width', 'channels', 'channel_tiles')
    numbers += ('bits', 'words', 'field_log', 'zero')
    fields = [('out', ctypes.c_void_p), ('bias', ctypes.c_void_p)]
    fields += [(name, ctypes.c_int32) for name in numbers]
    fields += [('term', _Term * terms), ('residual', _Residual * (residuals + 1))]
    return type('_Layer', (ctypes.Structure,), {'_fields_': fields})
