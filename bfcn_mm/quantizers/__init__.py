"""Maths only: bits to levels, forward and straight-through gradient."""

from . import fused
from .activation import ActivationQuantizer
from .base import Quantizer, Run, give_up_stale
from .calibration import Calibration
from .fake_quant import quantize_activation, quantize_unit, quantize_weight
from .grids import WeightGrid, bipolar, round_half_up, twos_complement
from .weight import WEIGHT_QUANTIZERS, DoReFaWeight, LSQWeight, WeightQuantizer

METHODS = tuple(WEIGHT_QUANTIZERS)

__all__ = [
    'METHODS',
    'WEIGHT_QUANTIZERS',
    'ActivationQuantizer',
    'Calibration',
    'DoReFaWeight',
    'LSQWeight',
    'Quantizer',
    'Run',
    'WeightGrid',
    'WeightQuantizer',
    'bipolar',
    'fused',
    'give_up_stale',
    'quantize_activation',
    'quantize_unit',
    'quantize_weight',
    'round_half_up',
    'twos_complement',
]
