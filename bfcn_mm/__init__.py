"""Low-bit segmentation networks for MMSegmentation.

Importing the package registers its modules with mmseg and makes configs understand `quant=dict(...)`.
The command `bfcn` imports it without that, so that it starts at once; a command that needs mmseg calls
register().
"""

import sys

__version__ = '0.1.0'

__all__ = [
    'QuantSpec',
    'calibrate',
    'convert',
    'datasets',
    'engine',
    'models',
    'quantize_',
    'register',
]


def register() -> None:
    """Import everything and register it. Calling it again changes nothing."""
    from . import registration  # noqa: F401
    from .convert import QuantSpec, calibrate, quantize_

    globals().update(QuantSpec=QuantSpec, calibrate=calibrate, quantize_=quantize_)


def _is_command() -> bool:
    """Whether this process is the command: `bfcn`, tools/*.py or `python -m bfcn_mm`."""
    if '_bfcn_command' in sys.modules:
        return True
    words = sys.orig_argv
    as_module = '-m' in words and words[words.index('-m') + 1 :][:1] == ['bfcn_mm']
    return as_module and sys.argv[:1] == ['-m']  # which runpy replaces once it has found the module


if not _is_command():
    register()
