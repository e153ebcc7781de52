"""The layout of codes in GPU memory, and the arena."""

import numpy as np
import pytest
import torch

from bfcn_kernels.triton.arena import Life, place
from bfcn_kernels.triton.codes import form_of, from_codes, to_codes
from bfcn_kernels.values import Value


@pytest.mark.parametrize('bits', range(1, 9))
@pytest.mark.parametrize('channels', [1, 3, 31, 33, 64, 65])
def test_codes_come_back(bits, channels):
    rng = np.random.default_rng(bits)
    codes = torch.from_numpy(rng.integers(0, 2**bits, (2, 3, 4, channels), np.uint8))
    value = Value('codes', channels, bits, 2 ** (bits - 1))
    packed = from_codes(codes, value)
    assert packed.data.shape == (24, form_of(value).words)
    torch.testing.assert_close(to_codes(packed), codes, rtol=0, atol=0)


def test_layout_of_a_word():
    """Channel i of a 2-bit word: byte i % 4, field i // 4; so one mask leaves four neighbours."""
    codes = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    codes[..., 6] = 3
    word = from_codes(codes, Value('codes', 16, 2)).data.item()
    assert word == 3 << (8 * 2 + 2 * 1)
    codes = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 1, 4)
    word = from_codes(codes, Value('codes', 4, 8, 7)).data.item()
    assert word & 0xFFFFFFFF == 0x83828180  # q - 128


@pytest.mark.parametrize(
    ('channels', 'bits', 'padded', 'words'),
    [
        (3, 8, 4, 1),
        (3, 1, 32, 1),
        (19, 2, 32, 2),
        (33, 1, 64, 2),
        (65, 3, 128, 16),
        (256, 2, 256, 16),
    ],
)
def test_padding(channels, bits, padded, words):
    form = form_of(Value('codes', channels, bits))
    assert (form.padded, form.words) == (padded, words)


def test_values_that_live_together_share_no_byte():
    rng = np.random.default_rng(0)
    lives = []
    for birth in range(60):
        lives.append(Life(int(rng.integers(1, 5000)), birth, birth + int(rng.integers(1, 9))))
    offsets, total = place(lives)
    memory = np.zeros((total, 80), int)
    for offset, life in zip(offsets, lives, strict=True):
        assert offset % 256 == 0
        memory[offset : offset + life.size, life.birth : life.death + 1] += 1
    assert memory.max() == 1
    most = max(sum(x.size for x in lives if x.birth <= t <= x.death) for t in range(70))
    assert most <= total < sum(life.size for life in lives) / 3
