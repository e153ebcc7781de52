"""Weights as bit_conv reads them: one row of k an output channel, packed once when a model is loaded.

k runs over (ky, kx, channel of the slab). The slab is what one tap gives to an output channel: all padded
channels of a pixel; or, in a grouped convolution, the channels that GROUP_TILE neighbouring outputs
read together, from a multiple of 32 on, with weight 0 where an output does not read: a group too small
for a tensor core becomes a block on the diagonal of a larger one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bfcn_kernels.ops import Term
from bfcn_kernels.triton.codes import Form, field_bits, pack_fields
from bfcn_kernels.values import GraphError

GROUP_TILE = 64  # output channels that share a slab; tiles of grouped convolutions are no wider
MAX_SUM = 2**31 - 1  # the tensor cores saturate there


@dataclass(frozen=True)
class PackedTerm:
    """One term on the device; `constants` are what bit_conv_term unpacks.

    weight: int32 (channels, words). scale: float32, correction: int32 (channels,); the correction is
    added to the sum of products.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    correction: torch.Tensor
    constants: tuple[int, ...]


def pack_term(
    term: Term, source: Form, block: int, as_bytes: bool, device: torch.device
) -> PackedTerm:
    """Lay a term's weights out for blocks of `block` k; as_bytes keeps one byte a weight.

    Raises GraphError if a partial sum could pass int32.
    """
    field = 8 if as_bytes or term.groups > 1 else field_bits(term.bits)
    padding = 0 if field == 8 else -term.offset  # the integer of a stored code 0
    dense, group = _dense(term, source, padding)
    operands = [dense]
    if term.bits == 8 and term.form == 2:  # -255 .. 255 is the sum of three int8
        operands = [dense >> 1, dense >> 1, dense & 1]
    stored = np.concatenate([_rows(operand, block, padding) for operand in operands], axis=1)
    _check_sums(stored, source)
    correction = (stored.sum(1) * -source.zero).astype(np.int32)  # modulo 2**32
    fields = stored if field == 8 else (stored + term.offset) // term.form
    slab = dense.shape[3]
    window = (*term.kernel, *term.stride, *term.padding, *term.dilation)
    constants = (
        source.words, source.field, source.zero_word, slab, *group, *window,
        field, term.form, term.offset, len(operands), slab % block != 0,
    )  # fmt: skip
    return PackedTerm(
        pack_fields(torch.from_numpy(fields), field).to(device),
        torch.from_numpy(term.scale).to(device),
        torch.from_numpy(correction).to(device),
        tuple(map(int, constants)),
    )


def _dense(term: Term, source: Form, padding: int) -> tuple[np.ndarray, tuple[int, int]]:
    """int64 (channels, kh, kw, slab) and (outputs, inputs) of a group, (0, 0) without groups."""
    channels, kh, kw, inputs = term.weight.shape
    if term.groups == 1:
        dense = np.full((channels, kh, kw, source.padded), padding, np.int64)
        dense[..., :inputs] = term.integers()
        return dense, (0, 0)
    outputs = channels // term.groups
    row = np.arange(channels)
    first = row // outputs * inputs
    start = row // GROUP_TILE * GROUP_TILE // outputs * inputs // 32 * 32
    reach = int((first + inputs - start).max())
    slab = min(-(-reach // 64) * 64 if reach > 32 else 32, source.padded)
    dense = np.zeros((channels, kh, kw, slab), np.int64)
    for c, integers in enumerate(term.integers()):
        at = first[c] - start[c]
        dense[c, :, :, at : at + inputs] = integers
    return dense, (outputs, inputs)


def _rows(dense: np.ndarray, block: int, padding: int) -> np.ndarray:
    """(channels, k), k padded to whole blocks."""
    rows = dense.reshape(len(dense), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % block)), constant_values=padding)


def _check_sums(stored: np.ndarray, source: Form) -> None:
    """Stored fields are within 0 .. 2**bits - 1, or -128 .. 127 at 8 bits."""
    largest = int(np.abs(stored).sum(1).max()) * (128 if source.bits == 8 else 2**source.bits - 1)
    if largest > MAX_SUM:
        raise GraphError(
            f'a sum of products may reach {largest} on tensor cores, more than {MAX_SUM}: '
            "use fewer bits, or engine='cpu'"
        )
