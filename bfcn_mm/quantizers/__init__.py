"""Maths only: bits to levels, forward and straight-through gradient."""

from . import fused
from .activation import ActivationQuantizer
from .base import Quantizer
from .fake_quant import quantize_activation, quantize_unit, quantize_weight
from .grids import WeightGrid, bipolar, round_half_up, twos_complement
from .weight import WEIGHT_QUANTIZERS, DoReFaWeight, LSQWeight, WeightQuantizer

METHODS = tuple(WEIGHT_QUANTIZERS)

__all__ = [
    'METHODS',
    'WEIGHT_QUANTIZERS',
    'ActivationQuantizer',
    'DoReFaWeight',
    'LSQWeight',
    'Quantizer',
    'WeightGrid',
    'WeightQuantizer',
    'bipolar',
    'fused',
    'quantize_activation',
    'quantize_unit',
    'quantize_weight',
    'round_half_up',
    'twos_complement',
]
