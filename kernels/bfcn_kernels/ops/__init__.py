"""The ops of the integer graph, one file each: fields, rules, record in the file, size and oracle.

docs/format.md gives each op's arithmetic. kernels/tests/test_ops.py adds one.
"""

from bfcn_kernels.ops.adaptive_avg_pool import AdaptiveAvgPool
from bfcn_kernels.ops.add import Add
from bfcn_kernels.ops.argmax import ArgMax
from bfcn_kernels.ops.avg_pool import AvgPool
from bfcn_kernels.ops.bit_conv import BitConv, Residual, Term
from bfcn_kernels.ops.concat import Concat
from bfcn_kernels.ops.image_codes import ImageCodes
from bfcn_kernels.ops.interpolation import RESIZE_MODES
from bfcn_kernels.ops.mask import Mask
from bfcn_kernels.ops.max_pool import MaxPool
from bfcn_kernels.ops.op import BY_OPCODE, Op, register
from bfcn_kernels.ops.resize import Resize
from bfcn_kernels.ops.table import Table

__all__ = [
    'BY_OPCODE',
    'RESIZE_MODES',
    'AdaptiveAvgPool',
    'Add',
    'ArgMax',
    'AvgPool',
    'BitConv',
    'Concat',
    'ImageCodes',
    'Mask',
    'MaxPool',
    'Op',
    'Residual',
    'Resize',
    'Table',
    'Term',
    'register',
]
