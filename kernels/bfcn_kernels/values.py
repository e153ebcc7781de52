"""What flows between ops, and the limits that keep every engine's arithmetic in range."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Grid = tuple[int, int]  # h, w

KINDS = ('image', 'codes', 'scores', 'labels')  # numbered as in the file
MAX_SIDE = 32768
MAX_CHANNELS = 65536
MAX_EXTENT = 4096  # kernel, stride, dilation, padding
MAX_COEFFICIENT = 2.0**60
MAX_ACCUMULATOR = 2**31 - 2
MAX_SUMMANDS = (
    2**20
)  # convolutions' outputs in one score: each is below 2**96, so none gets infinite


class GraphError(ValueError):
    """A rule of the integer graph is broken; the message names the op, the rule and the value."""


@dataclass(frozen=True)
class Value:
    """Kind, channels and, for codes, the grid: the number of a code q is q - zero_point."""

    kind: str
    channels: int
    bits: int = 0
    zero_point: int = 0

    def __str__(self) -> str:
        grid = f' of {self.bits} bits, zero point {self.zero_point}' if self.kind == 'codes' else ''
        return f'{self.kind}{grid} with {self.channels} channels'

    @property
    def span(self) -> int:
        """Largest |q - zero_point|."""
        return max(self.zero_point, 2**self.bits - 1 - self.zero_point)


IMAGE = Value('image', 3)


class MapShape(NamedTuple):
    """A value for one image size, without its numbers."""

    value: Value
    grid: Grid

    @property
    def pixels(self) -> int:
        return self.grid[0] * self.grid[1]


def require(condition: bool, message: str) -> None:
    """Raise GraphError(message) unless condition holds."""
    if not condition:
        raise GraphError(message)


def within(name: str, value: int, low: int, high: int) -> None:
    """Require an int in low..high."""
    require(
        isinstance(value, (int, np.integer)) and low <= value <= high,
        f'{name} must be an int in {low}..{high}, got {value!r}',
    )


def codes(channels: int, bits: int, zero_point: int) -> Value:
    """A checked codes Value."""
    within('channels', channels, 1, MAX_CHANNELS)
    within('bits', bits, 1, 8)
    within('zero_point', zero_point, 0, 2**bits - 1)
    return Value('codes', channels, bits, zero_point)


def divisible(source: int, output: int, groups: int) -> None:
    """Require channels of source and output that groups share evenly."""
    require(
        source % groups == 0 and output % groups == 0,
        f'groups must divide {source} source and {output} output channels, got {groups}',
    )


def kind(name: str, value: Value, expected: str) -> None:
    """Require a value of one kind."""
    require(value.kind == expected, f'{name} must be {expected}, got {value}')


def coefficient(name: str, value: float) -> None:
    """Require a finite scalar that float32 holds exactly, at most 2**60 in magnitude."""
    require(
        math.isfinite(value) and abs(value) <= MAX_COEFFICIENT,
        f'{name} must be finite and at most 2^60, got {value!r}',
    )
    require(float(np.float32(value)) == value, f'{name} must be a float32, got {value!r}')


def coefficients(name: str, values: np.ndarray, channels: int) -> None:
    """Require float32 (channels,), finite, at most 2**60 in magnitude."""
    array(name, values, np.float32, (channels,))
    bad = ~(np.abs(values) <= MAX_COEFFICIENT)
    if bad.any():
        channel = int(bad.argmax())
        raise GraphError(
            f'{name} must be finite and at most 2^60, got {values[channel]} in channel {channel}'
        )


def array(name: str, values: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    """Require a numpy array of one dtype and shape."""
    require(
        isinstance(values, np.ndarray) and values.dtype == dtype and values.shape == shape,
        f'{name} must be {np.dtype(dtype).name} {shape}, got '
        f'{getattr(values, "dtype", type(values).__name__)} {getattr(values, "shape", "")}',
    )


def entries(name: str, values: np.ndarray, bits: int) -> None:
    """Require every entry of a uint8 array to be a code of `bits` bits."""
    top = int(values.max())
    require(top < 2**bits, f'{name} must hold codes in 0..{2**bits - 1}, got {top}')


def pair(name: str, value: Grid, low: int, high: int = MAX_EXTENT) -> None:
    """Require an (h, w) pair with both in low..high."""
    require(len(value) == 2, f'{name} must be (h, w), got {value!r}')
    for side in value:
        within(name, side, low, high)


def same_grid(name: str, grid: Grid, ours: Grid) -> None:
    """Require equal (h, w)."""
    require(grid == ours, f'{name} must have the grid {ours}, got {grid}')


def requantized(op, source: Value) -> Value:
    """Codes of the source's channels, by the op's A, B, bits and zero_point."""
    kind('source', source, 'codes')
    coefficient('A', op.A)
    coefficient('B', op.B)
    return codes(source.channels, op.bits, op.zero_point)


def equal_scores(sources: tuple[Value, ...]) -> Value:
    """Require two scores of equal channels."""
    require(len(sources) == 2, f'sources must be two scores, got {len(sources)} values')
    for source in sources:
        kind('source', source, 'scores')
    require(
        sources[0].channels == sources[1].channels,
        f'sources must have equal channels, got {sources[0].channels} and {sources[1].channels}',
    )
    return sources[0]
