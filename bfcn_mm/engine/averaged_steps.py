"""Averages of weights (mmengine's EMAHook and its like) follow the grids of a quantized model."""

from __future__ import annotations

import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel
from mmengine.runner import Runner
from torch import nn

from ..convert import quantizers
from ..quantizers import Quantizer


def refuse_averages_of_buffers(runner: Runner) -> None:
    """Raise ValueError if a hook would average buffers: bits, zero points and where grids lie."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hook.ema_cfg.get('update_buffers'):
            raise ValueError(
                f'{type(hook).__name__}: update_buffers must be False with quant: bits and zero points '
                'are buffers and have no average; batch norm statistics are then those of the '
                'training model'
            )


class AveragedSteps:
    """Gives averaged models the learned step itself whenever a grid has been placed again.

    A learned step is stored relative to where its grid was placed. Averaging it over two placements,
    as when bits fall, mixes two units. So the average of a step starts again with each placement.
    """

    def __init__(self, runner: Runner, model: nn.Module) -> None:
        averages = [getattr(hook, 'ema_model', None) for hook in runner.hooks]
        self._averages = [
            dict(quantizers(a.module)) for a in averages if isinstance(a, BaseAveragedModel)
        ]
        learned = {n: q for n, q in quantizers(model) if next(q.parameters(), None) is not None}
        self._learned: dict[str, Quantizer] = learned if self._averages else {}
        self._placements = {name: q.placements for name, q in self._learned.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """To be called after each iteration."""
        for name, quantizer in self._learned.items():
            if quantizer.placements == self._placements[name]:
                continue
            self._placements[name] = quantizer.placements
            for average in self._averages:
                pairs = zip(average[name].parameters(), quantizer.parameters(), strict=True)
                for averaged, now in pairs:
                    averaged.copy_(now)
