"""A layer and its quantizers."""

from .activation import QuantActivation
from .attention import QuantAttention
from .base import QuantizedLayer, derive
from .linear import QuantAdaptiveConv, QuantConv, QuantConvTranspose2d, QuantLinear

__all__ = [
    'QuantActivation',
    'QuantAdaptiveConv',
    'QuantAttention',
    'QuantConv',
    'QuantConvTranspose2d',
    'QuantLinear',
    'QuantizedLayer',
    'derive',
]
