import numpy as np
import pytest
import torch

from bfcn_mm.quantizers import bipolar, quantize_unit, round_half_up, twos_complement


@pytest.mark.parametrize('bits', range(1, 9))
def test_bipolar_is_symmetric_and_skips_zero(bits):
    grid = bipolar(bits)
    values = [grid.k * b - grid.z for b in range(2**bits)]
    assert values == [-v for v in reversed(values)]
    assert all(v % 2 for v in values)
    assert (grid.low, grid.high) == (values[0], values[-1])


@pytest.mark.parametrize('bits', range(2, 9))
def test_twos_complement(bits):
    grid = twos_complement(bits)
    values = [grid.k * b - grid.z for b in range(2**bits)]
    assert values == list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    assert (grid.low, grid.high) == (values[0], values[-1])


@pytest.mark.parametrize('bits', [0, 9, -1, True, 1.0, '1'])
@pytest.mark.parametrize('make', [bipolar, twos_complement])
def test_other_widths_are_refused_by_name(make, bits):
    with pytest.raises(ValueError, match=rf'integer in 1..8, got {bits!r}'):
        make(bits)


def test_one_bit_has_no_twos_complement():
    with pytest.raises(ValueError, match=r'use bipolar\(1\)'):
        twos_complement(1)


def test_ties_go_up():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_half_up(x).tolist() == [-2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize('bits', range(1, 9))
def test_quantize_unit_is_equation_5(bits):
    levels = 2**bits - 1
    x = torch.linspace(0, 1, 501, requires_grad=True)
    y = quantize_unit(x, bits)
    y.sum().backward()
    codes = np.floor(x.detach().numpy() * np.float32(levels) + np.float32(0.5))
    np.testing.assert_array_equal(y.detach().numpy(), codes / np.float32(levels))
    assert y.unique().numel() <= 2**bits
    assert (x.grad == 1).all()
