import numpy as np
import pytest
import torch

from bfcn_mm.quantizers import bipolar, twos_complement
from bfcn_mm.quantizers.calibration import activation_bounds, weight_step


def squared_error(x, low, high, bits, signed):
    """Of uniform quantization of x to the range, one number at a time."""
    top = 2**bits - 1
    step = (high - low) / top
    zero_point = np.floor(-low / step + 0.5) if signed else 0.0
    q = np.clip(np.floor(x / step + zero_point + 0.5), 0, top)
    return np.square((q - zero_point) * step - x).sum()


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits', [1, 2, 3, 4, 8])
def test_bounds_are_within_a_hair_of_brute_force(bits, signed):
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(3000, generator=generator)
    x = x - 0.5 if signed else x.relu()
    low, high = (v.item() for v in activation_bounds(x, bits, signed))
    numbers = x.double().numpy()
    ends = min(numbers.min(), 0), max(numbers.max(), 0)
    fine = np.linspace(0.02, 1, 2000)
    best = min(squared_error(numbers, f * ends[0], f * ends[1], bits, signed) for f in fine)
    found = squared_error(numbers, low, high, bits, signed)
    assert best <= found * (1 + 1e-6)
    assert found <= 1.05 * best
    assert low == 0 or signed


def test_bounds_of_a_large_map_come_from_samples_all_over_it():
    x = torch.cat([torch.zeros(500_000), torch.rand(500_000)])
    low, high = activation_bounds(x, 8, False)
    assert low == 0
    assert 0.9 < high <= 1


@pytest.mark.parametrize('signed', [False, True])
def test_bounds_of_a_map_without_width(signed):
    assert [v.item() for v in activation_bounds(torch.zeros(9), 2, signed)] == [0, 0]


@pytest.mark.parametrize('bad', [float('inf'), float('nan')])
def test_bounds_of_values_that_are_not_finite_are_not_finite(bad):
    bounds = torch.stack(activation_bounds(torch.tensor([0.0, 1.0, bad]), 2, False))
    assert not torch.isfinite(bounds).any()


@pytest.mark.parametrize(
    'grid', [bipolar(1), bipolar(2), bipolar(3), *map(twos_complement, (4, 8))]
)
def test_weight_step_is_near_the_best_of_a_fine_search(grid):
    w = torch.randn(3, 400, generator=torch.Generator().manual_seed(1))
    w[1] *= 10
    step = weight_step(w, grid, (1,))
    assert step.shape == (3, 1)
    values = np.array([grid.k * b - grid.z for b in range(2**grid.bits)], dtype=float)
    for row, found in zip(w.double().numpy(), step[:, 0].tolist(), strict=True):

        def error(s, row=row):
            return np.square(row - s * values[np.abs(row[:, None] - s * values).argmin(1)]).sum()

        best = min(error(f * found) for f in np.linspace(0.5, 1.5, 101))
        assert error(found) <= 1.15 * best


def test_one_bit_step_is_the_mean_magnitude():
    """The least squares scale of signs (Rastegari et al., 2016)."""
    w = torch.randn(4, 3, 3, 3)
    step = weight_step(w, bipolar(1), (1, 2, 3))
    torch.testing.assert_close(step, w.abs().mean((1, 2, 3), keepdim=True))


def test_weight_step_of_a_dead_channel_is_positive():
    step = weight_step(torch.zeros(2, 8), bipolar(1), (1,))
    assert (step > 0).all()


def test_weight_step_of_tiny_weights_still_tells_them_apart():
    """Batch norm with a small gain, fused into the weights, say."""
    w = torch.linspace(-1, 1, 64)[None] * 1e-5
    step = weight_step(w, twos_complement(8), (1,))
    assert torch.unique(torch.round(w / step)).numel() >= 60
