"""`quant=` -> spec -> plan -> walk the model, swap classes, keep names."""

from . import config, other_bits
from .other_bits import forget_other_bits
from .quantize import calibrate, convert_, quantize_, quantizers, set_cap
from .segmentor import QuantSegmentor
from .spec import FLOAT, Bits, Decay, QuantSpec
from .summary import bits_now, summarize

__all__ = [
    'FLOAT',
    'Bits',
    'Decay',
    'QuantSegmentor',
    'QuantSpec',
    'bits_now',
    'calibrate',
    'config',
    'convert_',
    'forget_other_bits',
    'other_bits',
    'quantize_',
    'quantizers',
    'set_cap',
    'summarize',
]
