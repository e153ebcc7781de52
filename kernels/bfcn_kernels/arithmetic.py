"""The float32 steps that every engine repeats: each rounded on its own, in this order."""

import numpy as np

from bfcn_kernels.values import Value

f32 = np.float32


def affine(integers: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """t = f32(integers) * A; t = t + B.  Two roundings after the conversion's one."""
    return add(scaled(integers, A), B)


def scaled(integers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32(integers) * scale; integers convert exactly or round to nearest even."""
    return np.multiply(integers.astype(f32), scale, dtype=f32)


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b in float32."""
    return np.add(a, b, dtype=f32)


def to_codes(t: np.ndarray, bits: int) -> np.ndarray:
    """clip(floor(t + 0.5), 0, 2**bits - 1) as uint8; the sum is a float32 one."""
    return np.clip(np.floor(add(t, f32(0.5))), 0, 2**bits - 1).astype(np.uint8)


def lerp(a: np.ndarray, b: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """a + (b - a) * fraction: three roundings, exact for a == b."""
    return add(a, np.multiply(np.subtract(b, a, dtype=f32), fraction, dtype=f32))


def numbers(codes: np.ndarray, value: Value) -> np.ndarray:
    """q - zero_point, int32."""
    return codes.astype(np.int32) - value.zero_point
