"""Packed low-bit segmentation networks: the format, its oracle and the engines that run it."""

from bfcn_kernels.engine import load
from bfcn_kernels.gguf_container import FileError
from bfcn_kernels.gguf_io import Metadata, Model, read, write
from bfcn_kernels.graph import Graph
from bfcn_kernels.limits import WorkError
from bfcn_kernels.packing import pack, unpack
from bfcn_kernels.thresholds import thresholds
from bfcn_kernels.values import GraphError

__all__ = [
    'FileError',
    'Graph',
    'GraphError',
    'Metadata',
    'Model',
    'WorkError',
    'load',
    'pack',
    'read',
    'thresholds',
    'unpack',
    'write',
]
