"""What a node of the float graph is, seen from the integers: exact until something rounds it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bfcn_kernels.ops import Term


class ExportError(ValueError):
    """The model cannot be packed; the message names the op, the layer and the way out."""


@dataclass(frozen=True)
class Image:
    """The preprocessed image, float."""


@dataclass(frozen=True)
class Codes:
    """A value of the integer graph; its numbers are (q - zero_point) * step."""

    name: str
    channels: int
    bits: int
    zero_point: int
    step: float

    @property
    def grid(self) -> tuple[int, int, float]:
        return self.bits, self.zero_point, self.step


@dataclass(frozen=True, eq=False)
class Linear:
    """sum of convolutions * their scale + sum of codes * their step + bias, not rounded yet.

    terms: (Term with scale 1, its true scale, float64 (channels,)). joined: codes that are added as they
    are. bias: float64 (channels,). layer: of the first convolution. unsigned: a ReLU has been applied.
    """

    terms: tuple[tuple[Term, np.ndarray], ...]
    joined: tuple[Codes, ...]
    bias: np.ndarray
    layer: str
    unsigned: bool = False

    def __add__(self, other: Linear) -> Linear:
        return replace(
            self,
            terms=self.terms + other.terms,
            joined=self.joined + other.joined,
            bias=self.bias + other.bias,
            layer=self.layer or other.layer,
        )

    def affine(self, scale: np.ndarray, bias: np.ndarray) -> Linear:
        """self * scale + bias, by channel; joined codes become 1x1 depthwise convolutions."""
        terms = self.terms + tuple(identity(codes) for codes in self.joined)
        scaled = tuple((term, s * scale) for term, s in terms)
        return replace(self, terms=scaled, joined=(), bias=self.bias * scale + bias)


@dataclass(frozen=True)
class Averaged:
    """A mean of codes, not rounded yet. size: of adaptive pooling; window: kernel etc. of others."""

    source: Codes
    size: tuple[int, int] | None
    window: dict


@dataclass(frozen=True)
class Resized:
    """Interpolated codes, not rounded yet. target: like, size or factor of ops.Resize."""

    source: Codes
    mode: str
    target: dict


@dataclass(frozen=True)
class Parts:
    """Signals side by side along channels."""

    parts: tuple


@dataclass(frozen=True)
class Scores:
    """float32 scores of the integer graph."""

    name: str


@dataclass(frozen=True)
class Sum:
    """Scores that are added: up + fine."""

    up: Scores
    fine: Scores


@dataclass(frozen=True)
class Labels:
    """First largest channel of scores, and what boundary masking makes of it.

    stage: 'label', 'high' (3x3 maximum), 'minus' (-label), 'minus_low', 'low', 'edge'; reach: by how
    many pixels the edge is dilated.
    """

    scores: Scores
    stage: str = 'label'
    reach: int = 0


def linear(codes: Codes) -> Linear:
    """Codes as an addend."""
    return Linear((), (codes,), np.zeros(codes.channels), '')


def identity(codes: Codes) -> tuple[Term, np.ndarray]:
    """Codes as a 1x1 depthwise convolution with weights 1."""
    weight = np.ones((codes.channels, 1, 1, 1), np.uint8)
    term = Term(codes.name, weight, np.ones(codes.channels, np.float32), 1, groups=codes.channels)
    return term, np.full(codes.channels, codes.step)
