import numpy as np
import pytest

from bfcn_kernels.packing import pack, unpack, words_per_plane


def pack_slowly(codes: np.ndarray, bits: int) -> list[list[int]]:
    """The paragraph of format.md, one code at a time, for a single vector."""
    planes = [[0] * words_per_plane(len(codes)) for _ in range(bits)]
    for i, code in enumerate(codes.tolist()):
        for plane in range(bits):
            planes[plane][i // 64] |= (code >> plane & 1) << i % 64
    return planes


@pytest.mark.parametrize('length', [1, 3, 63, 64, 65, 128, 130])
@pytest.mark.parametrize('bits', range(1, 9))
def test_pack_is_the_documented_layout(length, bits):
    codes = np.random.default_rng(length).integers(0, 2**bits, length, np.uint8)
    words = pack(codes, bits)
    assert words.dtype == np.dtype('<u8')
    assert words.tolist() == pack_slowly(codes, bits)


@pytest.mark.parametrize('shape', [(1, 1, 1), (5, 7, 65), (2, 3, 3, 64)])
def test_unpack_inverts_pack(shape):
    codes = np.random.default_rng(0).integers(0, 32, shape, np.uint8)
    words = pack(codes, 5)
    assert words.shape == (*shape[:-1], 5, words_per_plane(shape[-1]))
    np.testing.assert_array_equal(unpack(words, shape[-1]), codes)


def test_pack_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r'codes of 2 bits must be in 0\.\.3, got 4'):
        pack(np.array([0, 4], np.uint8), 2)
    with pytest.raises(ValueError, match=r'bits must be in 1\.\.8, got 9'):
        pack(np.zeros(3, np.uint8), 9)
    with pytest.raises(ValueError, match='codes must be uint8, got int64'):
        pack(np.zeros(3, np.int64), 1)


def test_unpack_refuses_a_wrong_length_and_dirty_padding():
    words = pack(np.zeros(65, np.uint8), 1)
    with pytest.raises(ValueError, match='64 codes take 1 words a plane, got 2'):
        unpack(words, 64)
    words[0, 1] = 2
    with pytest.raises(ValueError, match='bits past code 65 must be 0'):
        unpack(words, 65)
