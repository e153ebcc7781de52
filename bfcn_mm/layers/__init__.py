"""A layer and its quantizers."""

from .activation import CallsActivations, Places, QuantActivation, count_calls
from .attention import QuantAttention, forbid_fused_encoders
from .base import QuantizedLayer, derive
from .linear import QuantAdaptiveConv, QuantConv, QuantConvTranspose2d, QuantLinear
from .snapshot import Snapshot

__all__ = [
    'CallsActivations',
    'Places',
    'QuantActivation',
    'QuantAdaptiveConv',
    'QuantAttention',
    'QuantConv',
    'QuantConvTranspose2d',
    'QuantLinear',
    'QuantizedLayer',
    'Snapshot',
    'count_calls',
    'derive',
    'forbid_fused_encoders',
]
