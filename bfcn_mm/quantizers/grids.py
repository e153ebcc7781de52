"""The integer grids on which weights and activations live."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class WeightGrid(NamedTuple):
    """The values (k * b - z) * step that a weight code b in [0, 2**bits - 1] can take."""

    bits: int
    k: int
    z: int

    @property
    def low(self) -> int:
        return -self.z

    @property
    def high(self) -> int:
        return self.k * (2**self.bits - 1) - self.z


def check_bits(bits: int) -> None:
    """Raise ValueError unless bits is an integer in 1..8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f'bits must be an integer in 1..8, got {bits!r}')


def bipolar(bits: int) -> WeightGrid:
    """{-(2**bits - 1), ..., -1, 1, ..., 2**bits - 1}: symmetric, without zero; {-1, 1} at 1 bit."""
    check_bits(bits)
    return WeightGrid(bits, 2, 2**bits - 1)


def twos_complement(bits: int) -> WeightGrid:
    """{-2**(bits - 1), ..., 2**(bits - 1) - 1}: what integer multipliers read."""
    check_bits(bits)
    if bits == 1:
        raise ValueError("a 1-bit weight has no two's complement form: use bipolar(1)")
    return WeightGrid(bits, 1, 2 ** (bits - 1))


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + 0.5): ties go up, in training as in every integer engine."""
    return torch.floor(x + 0.5)
