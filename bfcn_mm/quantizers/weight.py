"""Weights: `lsq` learns a step a channel, `dorefa` derives the scale from the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import Quantizer
from .calibration import weight_step
from .fake_quant import learned_step, quantize_weight, straight_through, weight_codes
from .fused import fused_for
from .grids import WeightGrid, bipolar, round_half_up, twos_complement


class WeightQuantizer(Quantizer):
    """Values (k * b - z) * step of weight codes b in [0, 2**bits - 1].

    shape: of the weight; axis: its output channels. per_channel gives a step an output channel,
    else one for the layer.
    """

    def __init__(self, bits: int, shape: tuple[int, ...], axis: int, per_channel: bool) -> None:
        super().__init__(bits)
        self.dims = tuple(d for d in range(len(shape)) if not (per_channel and d == axis))
        self.step_shape = tuple(1 if d in self.dims else n for d, n in enumerate(shape))

    @property
    def grid(self) -> WeightGrid:
        raise NotImplementedError

    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(b, step): the codes, uint8, and the step they stand for, broadcastable against w."""
        raise NotImplementedError


class LSQWeight(WeightQuantizer):
    """A learned step (Esser et al., 2020), the gradient scaled by 1 / sqrt(weights * high).

    Bipolar up to 3 bits (four or eight levels without a zero fit bell-shaped weights better than a
    grid that spends a level on one side), two's complement from 4 bits on. The step starts at the
    least squared error, and again whenever the bits change.
    """

    def __init__(self, bits: int, shape: tuple[int, ...], axis: int, per_channel: bool) -> None:
        super().__init__(bits, shape, axis, per_channel)
        self.register_buffer('placed', torch.ones(self.step_shape))
        self.drift = nn.Parameter(torch.zeros(self.step_shape))

    @property
    def step(self) -> Tensor:
        """Learned, positive; broadcastable against the weight."""
        return learned_step(self.placed, self.drift)

    @property
    def grid(self) -> WeightGrid:
        return bipolar(self.bits) if self.bits <= 3 else twos_complement(self.bits)

    def forward(self, w: Tensor) -> Tensor:
        grid = self.grid
        scale = 1 / math.sqrt(w.numel() / self.placed.numel() * grid.high)
        return quantize_weight(w, self._step(w), grid, scale)

    @torch.no_grad()
    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        step = self._step(w)
        return weight_codes(w, step, self.grid).to(torch.uint8), step

    def _step(self, w: Tensor) -> Tensor:
        """The step in force. Only training stores one: evaluation (and tracing) changes no state."""
        if not self.initialized:
            placed = weight_step(w, self.grid, self.dims)
            if not self.training:
                return placed
            with torch.no_grad():
                self.placed.copy_(placed)
                self.drift.zero_()
            self._set(self.bits, True)
        return self.step.clamp(min=1e-8)


class DoReFaWeight(WeightQuantizer):
    """The paper's weights (DoReFa-Net, Zhou et al., 2016, eq. 7 and 9), scaled back to their size.

    1 bit:  sign(w) * mean|w|;  gradient 1.
    else:   T * (2 * quantize_unit(tanh(w) / (2 T) + 1/2) - 1),  T = max|tanh(w)|, no gradient
            through T. The factor T keeps a float checkpoint's scale; batch norm absorbs it.
    The grid is bipolar, step = T / (2**bits - 1).
    """

    @property
    def grid(self) -> WeightGrid:
        return bipolar(self.bits)

    def forward(self, w: Tensor) -> Tensor:
        self._mark_placed()
        if fused := fused_for(w):
            with torch.no_grad():
                t = self._bounded(w.float())
                step = self._step(t)
            return fused.quantize_dorefa(w, t, step, self.bits)
        b, step = self._float_codes(w)
        v = w.float()
        values = (self.grid.k * b - self.grid.z) * step
        return straight_through(values, self._bounded(v)).to(w.dtype)

    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        b, step = self._float_codes(w)
        return b.to(torch.uint8), step

    @torch.no_grad()
    def _float_codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        t = self._bounded(w.float())
        step = self._step(t)
        if self.bits == 1:
            return (t >= 0).float(), step
        unit = t / (2 * step * self.grid.high) + 0.5
        return round_half_up(unit * (2**self.bits - 1)), step

    def _bounded(self, v: Tensor) -> Tensor:
        """tanh(v), v itself at 1 bit."""
        return v if self.bits == 1 else torch.tanh(v)

    def _step(self, t: Tensor) -> Tensor:
        if self.bits == 1:
            return t.abs().mean(self.dims, keepdim=True).clamp_(min=1e-8)
        return t.abs().amax(self.dims, keepdim=True).clamp_(min=1e-8) / self.grid.high

    def _mark_placed(self) -> None:
        if self.training and not self.initialized:
            self._set(self.bits, True)


WEIGHT_QUANTIZERS = {'lsq': LSQWeight, 'dorefa': DoReFaWeight}
