"""Convolution by exact floating-point matrix products, so that whole networks run in seconds.

A sum of integers is exact in any order while no partial sum can pass 2**24 (float32) or 2**53
(float64); tests hold it equal to the oracle.
"""

import numpy as np

from bfcn_kernels.ops import Term
from bfcn_kernels.values import Value


def bit_conv_accumulate(term: Term, codes: np.ndarray, source: Value) -> np.ndarray:
    """acc (h, w, out_channels): equal to ops.bit_conv.accumulate, tap by tap."""
    exact = np.float32 if term.bound(source) <= 2**24 else np.float64
    height, width = term.grid(codes.shape[:2])
    (sh, sw), (dh, dw), (kh, kw), (ph, pw) = term.stride, term.dilation, term.kernel, term.padding
    numbers = codes.astype(exact) - exact(source.zero_point)
    inputs = np.pad(numbers, ((ph, ph), (pw, pw), (0, 0)))
    inputs = inputs.reshape(*inputs.shape[:2], term.groups, -1)
    channels, *_, per_group = term.weight.shape
    # (kh, kw, groups, per_group, channels / groups)
    weight = term.integers().astype(exact).reshape(term.groups, -1, kh, kw, per_group)
    weight = np.ascontiguousarray(weight.transpose(2, 3, 0, 4, 1))
    acc = np.zeros((term.groups, height * width, channels // term.groups), exact)
    for ky in range(kh):
        for kx in range(kw):
            rows = slice(ky * dh, ky * dh + (height - 1) * sh + 1, sh)
            columns = slice(kx * dw, kx * dw + (width - 1) * sw + 1, sw)
            tap = inputs[rows, columns].reshape(height * width, term.groups, per_group)
            acc += np.matmul(tap.transpose(1, 0, 2), weight[ky, kx])
    return acc.transpose(1, 0, 2).reshape(height, width, channels).astype(np.int64)
