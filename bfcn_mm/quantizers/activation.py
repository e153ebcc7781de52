"""Activations: a scalar step, learned (LSQ) or fixed after calibration (DoReFa)."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from .base import Quantizer
from .calibration import activation_bounds, mean_over_ranks
from .fake_quant import activation_codes, learned_step, quantize_activation

_SMALLEST_STEP = 1e-6


class ActivationQuantizer(Quantizer):
    """Values (q - zero_point) * step, q = clip(floor(x / step + zero_point + 0.5), 0, 2**bits - 1).

    method='lsq' learns the step by gradient, scaled by 1 / sqrt(features of one image * (2**bits - 1))
    (Esser et al., 2020, section 2.2); 'dorefa' keeps the calibrated bound
    step * (2**bits - 1), the paper's [0, 1] scaled (Zhou et al., 2016, eq. 12). Unsigned: zero_point
    is 0. Signed (after GELU, LayerNorm or no activation): an integer zero_point, fixed at calibration.

    The grid is placed by `calibrate()` ... `finish_calibration()` around some batches, or by the first
    training batch; the range is averaged over batches and processes. Before that, evaluation lets
    values pass in float and says so once.
    """

    def __init__(self, bits: int, signed: bool = False, method: str = 'lsq') -> None:
        super().__init__(bits)
        self.signed = signed
        self.register_buffer('placed', torch.ones(()))
        self.drift = nn.Parameter(torch.zeros(())) if method == 'lsq' else None
        self.register_buffer('_zero_point', torch.zeros(()))
        self._seen: list[Tensor] | None = None

    @property
    def step(self) -> Tensor:
        """Learned by 'lsq', as placed for 'dorefa'; a positive scalar."""
        return self.placed if self.drift is None else learned_step(self.placed, self.drift)

    @property
    def zero_point(self) -> int:
        return int(self._zero_point)

    @property
    def ready(self) -> bool:
        """Whether values that pass now are quantized."""
        return self.initialized and self._seen is None

    def twin(self) -> ActivationQuantizer:
        """A fresh quantizer of the same kind, on the same device."""
        method = 'dorefa' if self.drift is None else 'lsq'
        return ActivationQuantizer(self.bits, self.signed, method).to(self.placed.device)

    def forward(self, x: Tensor) -> Tensor:
        if self._seen is not None:
            self._seen.append(torch.stack(activation_bounds(x, self.bits, self.signed)))
            return x
        if not self.initialized and not self._place_on_first_batch(x):
            return x
        high = 2**self.bits - 1
        scale = 1 / math.sqrt(max(1, x.shape[1:].numel() * high))
        zero_point = self._zero_point if self.signed else None
        step = self.step.clamp(min=_SMALLEST_STEP)
        return quantize_activation(x, step, zero_point, self.bits, scale)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The codes of x, uint8, same shape."""
        zero_point = self._zero_point if self.signed else None
        step = self.step.clamp(min=_SMALLEST_STEP)
        return activation_codes(x, step, zero_point, self.bits).to(torch.uint8)

    def calibrate(self) -> None:
        """From now on watch the values that pass, in float, until finish_calibration()."""
        self._seen = []

    def finish_calibration(self) -> bool:
        """Place the grid by what was seen since calibrate(); False if nothing passed."""
        seen, self._seen = self._seen, None
        if seen:
            self._place(torch.stack(seen).mean(0))
        return bool(seen)

    def _place_on_first_batch(self, x: Tensor) -> bool:
        if self.training:
            self._place(torch.stack(activation_bounds(x, self.bits, self.signed)))
        else:
            warnings.warn(
                'quantizers are not calibrated, activations pass in float: load a trained checkpoint, '
                'train, or call bfcn_mm.calibrate(model, batches)'
            )
        return self.initialized

    @torch.no_grad()
    def _place(self, bounds: Tensor) -> None:
        low, high = mean_over_ranks(bounds)
        top = 2**self.bits - 1
        step = ((high - low) / top).clamp(min=_SMALLEST_STEP)
        self.placed.copy_(step)
        if self.drift is not None:
            self.drift.zero_()
        self._zero_point.copy_(torch.floor(-low / step + 0.5).clamp(0, top))
        self._set(self.bits, True)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, signed={self.signed}'
