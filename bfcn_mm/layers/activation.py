"""Activation functions that store what they compute as codes."""

from __future__ import annotations

from torch import Tensor, nn

from ..quantizers import ActivationQuantizer


class QuantActivation:
    """Mixin of activation functions: the output is quantized.

    One module may be called at several places of its parent (the three ReLUs of a ResNet block are
    one module): each place, in the order of execution, has a quantizer of its own in `quants`. An
    entry is None where the map stays in float. The parent rewinds the count when its forward starts,
    so that an interrupted forward does no harm; activation checkpointing, which runs the first places
    again, finds the count back at 0 because it wraps.
    """

    quants: nn.ModuleList

    def attach(self, quants: list[ActivationQuantizer | None]) -> None:
        self.quants = nn.ModuleList(quants)
        self._place = 0

    def rewind(self, *_) -> None:
        self._place = 0

    def forward(self, x: Tensor) -> Tensor:
        quant = self.quants[self._place]
        if len(self.quants) > 1:
            self._place = (self._place + 1) % len(self.quants)
        if quant is None:
            return super().forward(x)
        if isinstance(self, nn.ReLU) and quant.ready:
            return quant(x)
        return quant(super().forward(x))
