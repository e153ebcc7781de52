import numpy as np
import pytest

from bfcn_kernels.arithmetic import affine, to_codes
from bfcn_kernels.thresholds import INT32_BOUND, apply_thresholds, thresholds

f32 = np.float32


def coefficients(channels: int, top: int, bound: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A of both signs that spread codes over -bound..bound, and zeros, ties and extremes."""
    rng = np.random.default_rng(seed)
    A = rng.normal(0, 2 * top / bound, channels).astype(f32)
    B = rng.normal(top / 2, top, channels).astype(f32)
    A[:8] = [0, -0.0, 0.5, -0.5, 2.0**-20, 2.0**60, -(2.0**60), 1]
    B[:8] = [0.5, 0.49999997, 0.5, 0.0, 1.5, 0, -(2.0**60), top + 0.5]
    return A, B


@pytest.mark.parametrize('bits', range(1, 9))
@pytest.mark.parametrize('bound', [1, 100, 20000])
def test_equal_the_epilogue_for_every_accumulator(bits, bound):
    A, B = coefficients(24, 2**bits - 1, bound, bits)
    acc = np.arange(-bound, bound + 1)[:, None].repeat(len(A), axis=1)
    limits = thresholds(A, B, bits, bound)
    assert limits.dtype == np.int32
    assert limits.shape == (24, 2**bits - 1)
    for rows in np.array_split(acc, max(1, len(acc) * 2**bits // 50000)):
        np.testing.assert_array_equal(
            apply_thresholds(rows, A, limits), to_codes(affine(rows, A, B), bits)
        )


def test_are_the_least_or_greatest_accumulator_that_reaches_a_code():
    A, B = np.array([0.25, -0.25, 0, 0], f32), np.array([0, 0, 1, 0], f32)
    limits = thresholds(A, B, 2, 9)
    # code(acc / 4): 0.5 rounds up to 1 at acc = 2, 1.5 to 2 at 6, 3 is out of reach.
    assert limits.tolist() == [[2, 6, 10], [-2, -6, -10], [-9, 10, 10], [10, 10, 10]]


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_hold_at_the_ends_of_int32(bits):
    """Around each threshold, where f32(acc) itself rounds."""
    A, B = coefficients(64, 2**bits - 1, INT32_BOUND, 5)
    limits = thresholds(A, B, bits)
    near = limits.astype(np.int64)[:, :, None] + np.arange(-70, 71)
    near = np.clip(near, -INT32_BOUND, INT32_BOUND).reshape(len(A), -1).T
    for rows in np.array_split(near, 1 + len(near) // 500):
        np.testing.assert_array_equal(
            apply_thresholds(rows, A, limits), to_codes(affine(rows, A, B), bits)
        )


def test_refuse_a_bound_past_int32():
    with pytest.raises(ValueError, match=r'bound must be in 0\.\.2147483646, got 2147483647'):
        thresholds(np.ones(1, f32), np.ones(1, f32), 1, 2**31 - 1)
