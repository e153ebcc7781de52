"""Fused kernels for the formulas of fake_quant, where someone provides them; this part knows none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

DEVICES = {'cuda'}  # device types that fused kernels serve
DTYPES = {torch.float16, torch.bfloat16, torch.float32}

_provider: Callable[[], ModuleType] | None = None
_loaded: dict[str, ModuleType | None] = {}


def provide(importer: Callable[[], ModuleType]) -> None:
    """Name who has quantize_activation and quantize_weight; called when the first tensor needs them."""
    global _provider
    _provider = importer
    _loaded.clear()


def fused_for(x: Tensor) -> ModuleType | None:
    """The module with fused kernels for x's device and type, or None: then torch ops do the formulas.

    BFCN_FUSED=0 asks for that too. Where kernels should be and are not, a warning says why, once.
    """
    if _provider is None or x.device.type not in DEVICES or x.dtype not in DTYPES:
        return None
    if 'module' not in _loaded:
        _loaded['module'] = _load()
    return _loaded['module']


def _load() -> ModuleType | None:
    if os.environ.get('BFCN_FUSED') == '0':
        return None
    try:
        return _provider()
    except (ImportError, RuntimeError, AttributeError) as err:
        warnings.warn(f'fake quantization runs in separate torch ops, slower: {err}')
        return None
