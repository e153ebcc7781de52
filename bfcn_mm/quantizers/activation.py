"""Activations: a scalar step, learned (LSQ) or fixed after calibration (DoReFa)."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from .base import Quantizer
from .calibration import LEAST_ERROR, TINIEST_STEP, Calibration, activation_bounds, mean_of_widths
from .fake_quant import activation_codes, learned_step, quantize_activation


class ActivationQuantizer(Quantizer):
    """Values (q - zero_point) * step, q = clip(floor(x / step + zero_point + 0.5), 0, 2**bits - 1).

    method='lsq' learns the step by gradient, scaled by 1 / sqrt(features of one image * (2**bits - 1))
    (Esser et al., 2020, section 2.2); 'dorefa' keeps the calibrated bound
    step * (2**bits - 1), the paper's [0, 1] scaled (Zhou et al., 2016, eq. 12). Unsigned: zero_point
    is 0. Signed (after GELU, LayerNorm or no activation): an integer zero_point, fixed at calibration.

    The grid is placed by `calibrate()` ... `finish_calibration()` around some batches, or by the first
    training batch, by the given rule; the range is averaged over batches and processes. Before that,
    evaluation lets values pass in float and says so once.
    """

    def __init__(
        self,
        bits: int,
        signed: bool = False,
        method: str = 'lsq',
        rule: Calibration = LEAST_ERROR,
    ) -> None:
        super().__init__(bits)
        self.signed, self.rule = signed, rule
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
        return ActivationQuantizer(self.bits, self.signed, method, self.rule).to(self.placed.device)

    def forward(self, x: Tensor) -> Tensor:
        if self._seen is not None:
            self._seen.append(self._bounds(x, len(self._seen)))
            return x
        if not self.initialized and not self._place_on_first_batch(x):
            return x
        high = 2**self.bits - 1
        scale = 1 / math.sqrt(max(1, x.shape[1:].numel() * high))
        zero_point = self._zero_point if self.signed else None
        return quantize_activation(x, self.step, zero_point, self.bits, scale)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The codes of x, uint8, same shape."""
        zero_point = self._zero_point if self.signed else None
        return activation_codes(x, self.step, zero_point, self.bits).to(torch.uint8)

    def calibrate(self) -> None:
        """From now on watch the values that pass, in float, until finish_calibration()."""
        self._seen = []

    def finish_calibration(self) -> bool:
        """Place the grid by what was seen since calibrate(); False if nothing passed."""
        seen, self._seen = self._seen, None
        if seen:
            self._place(torch.stack(seen))
        return bool(seen)

    def _place_on_first_batch(self, x: Tensor) -> bool:
        if self.may_place:
            self._place(self._bounds(x, 0)[None])
        else:
            warnings.warn(
                'quantizers are not calibrated, activations pass in float: load a trained checkpoint, '
                'train, or call bfcn_mm.calibrate(model, batches)'
            )
        return self.initialized

    def _bounds(self, x: Tensor, seed: int) -> Tensor:
        return torch.stack(activation_bounds(x, self.bits, self.signed, self.rule, seed))

    @torch.no_grad()
    def _place(self, bounds: Tensor) -> None:
        """bounds: (batches, 2). Batches in which the map has one value only have no say."""
        low, high = mean_of_widths(bounds, self.signed)
        if not torch.isfinite(high - low):
            raise RuntimeError(
                f'values that are not finite reach {self.name or "an activation quantizer"}: no grid can '
                'be placed. Check the checkpoint and the images, or train with a lower learning rate'
            )
        top = 2**self.bits - 1
        step = ((high - low) / top).clamp(min=TINIEST_STEP)
        self.placed.copy_(step)
        if self.drift is not None:
            self.drift.zero_()
        self._zero_point.copy_(torch.floor(-low / step + 0.5).clamp(0, top))
        self._set(self.bits, True)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, signed={self.signed}'
