"""The epilogue of a bit_conv as integer thresholds: exact, because it is monotone in acc."""

import numpy as np

from bfcn_kernels.arithmetic import affine, to_codes

INT32_BOUND = 2**31 - 2


def thresholds(A: np.ndarray, B: np.ndarray, bits: int, bound: int = INT32_BOUND) -> np.ndarray:
    """Thresholds of code(f32(acc) * A[c] + B[c]) for acc in -bound..bound.

    A, B: float32 (channels,). Returns int32 (channels, 2**bits - 1). Column j - 1 is, where
    A >= 0, the least acc with code >= j (bound + 1: none), so code = sum(acc >= T); where
    A < 0, the greatest acc with code >= j (-bound - 1: none), so code = sum(acc <= T).
    Raises ValueError unless 0 <= bound <= 2**31 - 2.
    """
    if not 0 <= bound <= INT32_BOUND:
        raise ValueError(f'bound must be in 0..{INT32_BOUND}, got {bound!r}')
    sign = np.where(A < 0, -1, 1)[:, None]
    codes = np.arange(1, 2**bits)
    # Invariant over u = sign * acc: codes at u < low fall short of j, codes at u >= high reach it.
    low = np.full((len(A), len(codes)), -bound, np.int64)
    high = np.full_like(low, bound + 1)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        reached = to_codes(affine(sign * middle, A[:, None], B[:, None]), bits) >= codes
        high = np.where(open_ & reached, middle, high)
        low = np.where(open_ & ~reached, middle + 1, low)
    return (sign * high).astype(np.int32)


def apply_thresholds(acc: np.ndarray, A: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Codes (..., channels) uint8 of accumulators (..., channels) by thresholds(A, ...)."""
    acc = acc[..., None]
    reached = np.where((A < 0)[:, None], acc <= limits, acc >= limits)
    return reached.sum(-1).astype(np.uint8)
