"""Weights: `lsq` learns a step a channel, `dorefa` derives the scale from the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import Quantizer
from .calibration import TINIEST_WEIGHT_STEP, normal_step, weight_step
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
        self._weights_come: bool | None = None  # with the file that is being loaded

    @property
    def grid(self) -> WeightGrid:
        raise NotImplementedError

    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(b, step): the codes, uint8, and the step they stand for, broadcastable against w."""
        raise NotImplementedError

    def expect(self, weights_come: bool) -> None:
        """Its layer reports, before this quantizer loads, whether the file brings the layer's weights."""
        self._weights_come = weights_come

    def _refusal(self, state_dict: dict, prefix: str) -> str:
        come, self._weights_come = self._weights_come, None
        if come is False:
            return 'the file brings grids without the weights they belong to'
        return super()._refusal(state_dict, prefix)


class LSQWeight(WeightQuantizer):
    """A learned step (Esser et al., 2020), the gradient scaled by 1 / sqrt(weights * high).

    step = placed * growth(drift), see learned_step, and `placed` follows the size of the weights, mean
    |w|: when that has changed by a factor since the last forward, so does `placed`. So a grid never
    belongs to other weights than those that it rounds. It fits weights that grow from a small start or
    from zero, and weights that batch norm was fused into; the gradient learns how wide it is beside them.

    Bipolar up to 3 bits (four or eight levels without a zero fit bell-shaped weights better than a
    grid that spends a level on one side), two's complement from 4 bits on. The step starts at the
    least squared error, and again whenever the bits change.
    """

    optional = ('_size',)

    def __init__(self, bits: int, shape: tuple[int, ...], axis: int, per_channel: bool) -> None:
        super().__init__(bits, shape, axis, per_channel)
        self.register_buffer('placed', torch.ones(self.step_shape))
        self.register_buffer('_size', torch.ones(self.step_shape))
        self.drift = nn.Parameter(torch.zeros(self.step_shape))
        self._size_known = True

    @property
    def step(self) -> Tensor:
        """As of the last training forward: learned, positive, broadcastable against the weight."""
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
        """The step for these weights. Only training stores it: evaluation and tracing change no state."""
        if not self.initialized:
            if not self.may_place:
                return weight_step(w, self.grid, self.dims)
            self._place(w)
        return learned_step(self._followed(w), self.drift)

    @torch.no_grad()
    def _place(self, w: Tensor) -> None:
        """At the least squared error; for channels of zeros, at that of a normal distribution."""
        size = self._mean(w)
        empty = size == 0
        ratio = normal_step(self.grid) * math.sqrt(math.pi / 2)  # a deviation is 1.25 mean |w|
        self.placed.copy_(weight_step(w, self.grid, self.dims).masked_fill_(empty, ratio))
        self._size.copy_(size.masked_fill_(empty, 1))
        self.drift.zero_()
        self._size_known = True
        self._set(self.bits, True)

    @torch.no_grad()
    def _followed(self, w: Tensor) -> Tensor:
        """`placed` for the weights as they are now; stored in training, except for a size of 0."""
        size = self._mean(w)
        if not self._size_known:  # a file of an earlier version: its steps are those of its weights
            self._size.copy_(size.masked_fill(size == 0, 1))
            self._size_known = True
        placed = self.placed * (size / self._size)
        if self.training:
            self.placed.copy_(torch.where(size > 0, placed, self.placed))
            self._size.copy_(torch.where(size > 0, size, self._size))
        return placed.clamp_(min=TINIEST_WEIGHT_STEP)

    def _mean(self, w: Tensor) -> Tensor:
        return w.detach().float().abs().mean(self.dims, keepdim=True)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + '_bits' in state_dict:
            self._size_known = prefix + '_size' in state_dict


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
            return t.abs().mean(self.dims, keepdim=True).clamp_(min=TINIEST_WEIGHT_STEP)
        largest = t.abs().amax(self.dims, keepdim=True)
        return largest.clamp_(min=TINIEST_WEIGHT_STEP) / self.grid.high

    def _mark_placed(self) -> None:
        if self.may_place and not self.initialized:
            self._set(self.bits, True)


WEIGHT_QUANTIZERS = {'lsq': LSQWeight, 'dorefa': DoReFaWeight}
