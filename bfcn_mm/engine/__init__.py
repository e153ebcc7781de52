"""Hooks: each says when, the modules say what."""

from .bit_width_decay_hook import BitWidthDecayHook
from .calibration_hook import CalibrationHook
from .collapse_guard_hook import CollapseGuardHook
from .distill_hook import DistillHook
from .exact_resume_hook import ExactResumeHook
from .optim_wrapper_constructor import QuantOptimWrapperConstructor
from .stage_ema_hook import StageEMAHook
from .stage_loss_hook import StageLossHook

__all__ = [
    'BitWidthDecayHook',
    'CalibrationHook',
    'CollapseGuardHook',
    'DistillHook',
    'ExactResumeHook',
    'QuantOptimWrapperConstructor',
    'StageEMAHook',
    'StageLossHook',
]
