"""The canonical layout of codes: bits of little-endian uint64 words, plane by plane."""

import numpy as np

WORD = 64


def words_per_plane(length: int) -> int:
    """Number of 64-bit words that hold one bit of each of `length` codes."""
    return -(-length // WORD)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 codes (..., length) into uint64 words (..., bits, words).

    Bit i % 64 of word i // 64 of plane p is bit p of code i; bits past length are 0.
    Raises ValueError unless 1 <= bits <= 8 and every code is below 2**bits.
    """
    _check_bits(bits)
    codes = np.asarray(codes)
    if codes.dtype != np.uint8:
        raise ValueError(f'codes must be uint8, got {codes.dtype}')
    if codes.size and (top := int(codes.max())) >> bits:
        raise ValueError(f'codes of {bits} bits must be in 0..{2**bits - 1}, got {top}')
    *outer, length = codes.shape
    planes = np.zeros((*outer, bits, words_per_plane(length) * WORD), np.uint8)
    for plane in range(bits):
        planes[..., plane, :length] = codes >> plane & 1
    return np.packbits(planes, axis=-1, bitorder='little').view('<u8')


def unpack(words: np.ndarray, length: int) -> np.ndarray:
    """Inverse of pack: uint64 words (..., bits, words) to uint8 codes (..., length).

    Raises ValueError if the word count does not belong to length or a bit past length is set.
    """
    words = np.ascontiguousarray(words, '<u8')
    *outer, bits, count = words.shape
    _check_bits(bits)
    if count != words_per_plane(length):
        raise ValueError(
            f'{length} codes take {words_per_plane(length)} words a plane, got {count}'
        )
    planes = np.unpackbits(words.view(np.uint8), axis=-1, bitorder='little')
    if planes[..., length:].any():
        raise ValueError(f'bits past code {length} must be 0')
    codes = np.zeros((*outer, length), np.uint8)
    for plane in range(bits):
        codes |= planes[..., plane, :length] << plane
    return codes


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f'bits must be in 1..8, got {bits!r}')
