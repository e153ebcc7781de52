"""Averages of weights that know of bit-width decay."""

from __future__ import annotations

from mmengine.hooks import EMAHook
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from ..convert import quantizers


@HOOKS.register_module()
class StageEMAHook(EMAHook):
    """mmengine's EMAHook; the average starts anew where bits fall: old grids say nothing of new ones.

    Weights and learned steps are averaged, with a momentum that begins high and falls to `momentum`;
    bits, grids' states and batch norm's statistics are those of the training model. Validation and
    the weights of a checkpoint are the average; --resume goes on with the training weights, exactly,
    also from a checkpoint that Ctrl-C wrote in a validation. Keyword arguments as in EMAHook.
    """

    def __init__(self, ema_type: str = 'MomentumAnnealingEMA', **kwargs) -> None:
        if kwargs.get('update_buffers'):
            raise ValueError(
                'StageEMAHook: update_buffers must be False: bits are buffers, and an average of bits '
                'is none'
            )
        super().__init__(ema_type, **kwargs)
        self._swapped = False

    def before_run(self, runner: Runner) -> None:
        self.ema_model = None
        if isinstance(runner._train_loop, BaseLoop):  # a test has nothing to average
            super().before_run(runner)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._bits = self._bits_now()

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        bits = self._bits_now()
        if bits != self._bits:
            self._bits = bits
            self.ema_model.steps.zero_()
        super().after_train_iter(runner, *args, **kwargs)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._swapped:  # the model holds the average, which is what a checkpoint's weights are
            checkpoint['ema_state_dict'] = self.ema_model.state_dict()
        elif self.ema_model is not None:
            super().before_save_checkpoint(runner, checkpoint)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self.ema_model is not None:
            super().after_load_checkpoint(runner, checkpoint)

    def _swap_ema_parameters(self) -> None:
        if self.ema_model is not None:
            super()._swap_ema_parameters()
            self._swapped = not self._swapped

    def _bits_now(self) -> list[int]:
        return [quantizer.bits for _, quantizer in quantizers(self.src_model)]
