"""Which line of source code calls a module: it tells apart the places of one activation."""

from __future__ import annotations

import os.path
import sys
import zlib
from types import CodeType, FrameType

import torch
import torch.utils.checkpoint
from torch import nn

# (name of the function, checksum of its code, position of the call in its source)
Site = tuple[str, int, tuple]

_MODULE = nn.Module.__call__.__code__.co_filename
_CHECKPOINT = torch.utils.checkpoint.checkpoint.__code__.co_filename
_IN_CHECKPOINT: Site = ('checkpoint', 0, ())

# By id. The code objects are kept, so that no id is used twice.
_known: dict[int, tuple[CodeType, int, list]] = {}


def calling_frame(depth: int) -> FrameType:
    """The frame that calls a module, seen from `depth` frames below the module's forward: the first one
    that does not belong to nn.Module's own __call__."""
    frame = sys._getframe(depth + 1).f_back
    while frame.f_back is not None and frame.f_code.co_filename == _MODULE:
        frame = frame.f_back
    return frame


def call_site(frame: FrameType) -> Site:
    """Where the frame is now. Equal in every process that runs the same source on the same Python.

    The checksum covers the bytecode and the names in it: code that torch.compile has rewritten is
    another site. All of torch.utils.checkpoint is one site, since it calls what it wraps from
    different lines in the forward and in the backward pass.
    """
    code = frame.f_code
    if code.co_filename == _CHECKPOINT:
        return _IN_CHECKPOINT
    known = _known.get(id(code))
    if known is None:
        text = f'{code.co_code!r}{code.co_names}{code.co_freevars}'
        known = _known[id(code)] = (code, zlib.crc32(text.encode()), _positions(code))
    _, checksum, positions = known
    return code.co_name, checksum, positions[frame.f_lasti // 2]


def _positions(code: CodeType) -> list[tuple]:
    """(line, end line, column, end column) of each instruction; before Python 3.11 its index."""
    if sys.version_info < (3, 11):
        return [(code.co_firstlineno, index) for index in range(len(code.co_code) // 2)]
    return list(code.co_positions())


def describe(frame: FrameType) -> str:
    """'file.py:12 (in forward)'."""
    code = frame.f_code
    return f'{os.path.basename(code.co_filename)}:{frame.f_lineno} (in {code.co_name})'


def checkpoint_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of torch.utils.checkpoint that leads to this one."""
    while frame is not None and frame.f_code.co_filename != _CHECKPOINT:
        frame = frame.f_back
    return frame


def inside_a_module(frame: FrameType | None) -> bool:
    """Whether some module's __call__ leads to this frame."""
    while frame is not None and frame.f_code.co_filename != _MODULE:
        frame = frame.f_back
    return frame is not None


def rewritten(frame: FrameType) -> bool:
    """Whether torch.compile made the frame's code: a graph break runs such code as plain Python."""
    dynamo = sys.modules.get('torch._dynamo.utils')
    if dynamo is None:
        return False
    code = frame.f_code
    return code.co_name.startswith('torch_dynamo_resume_in_') or code in dynamo.orig_code_map
