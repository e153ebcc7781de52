"""Low-bit segmentation networks for MMSegmentation.

Importing the package registers its modules with mmseg and makes configs understand `quant=dict(...)`.
"""

from . import compat

compat.apply()

from . import convert, datasets, engine, models  # noqa: E402
from .convert import QuantSpec, calibrate, quantize_  # noqa: E402

convert.config.install()

__version__ = '0.1.0'

__all__ = ['QuantSpec', 'calibrate', 'convert', 'datasets', 'engine', 'models', 'quantize_']
