"""Trained segmentor -> torch.export graph -> integer graph -> file; and its exact run in torch."""

from . import verify
from .pack import Packed, pack
from .signals import ExportError
from .torch_engine import TorchEngine

__all__ = ['ExportError', 'Packed', 'TorchEngine', 'pack', 'verify']
