"""Low-bit segmentation networks for MMSegmentation.

Importing the package registers its modules with mmseg and makes configs understand `quant=dict(...)`.
"""

from . import compat

compat.apply()

from . import convert, datasets, engine, models, quantizers  # noqa: E402
from .convert import QuantSpec, calibrate, quantize_  # noqa: E402

convert.config.install()
convert.other_bits.install()
datasets.check.install()


def _kernels():
    from bfcn_kernels.triton import fake_quant

    return fake_quant


quantizers.fused.provide(_kernels)

__version__ = '0.1.0'

__all__ = ['QuantSpec', 'calibrate', 'convert', 'datasets', 'engine', 'models', 'quantize_']
