"""What a hostile file is, and ways to make one from a good file."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from packed_file import PackedFile, Tensor, every_op, tiny

SIDE = 8  # accepted files are run on an image of SIDE x SIDE
# Kinds of verdict. The first two are given when a file is loaded, the next three for an image's size.
FILE, GRAPH, SHAPE, MEMORY, WORK = 'FileError', 'GraphError', 'shape', 'MemoryError', 'WorkError'
ACCEPTED = 'accepted'


@dataclass(frozen=True)
class Hostile:
    """data: the file. verdict: ACCEPTED or the kind of error, of which `says` is part."""

    title: str
    group: str
    data: bytes
    verdict: str = ACCEPTED
    says: str = ''


def cases(group: str) -> Callable[..., Hostile]:
    """Makes files of one group: (title, data, verdict, says)."""
    return lambda title, *rest: Hostile(title, group, *rest)


def u32(value: int) -> bytes:
    return struct.pack('<I', value)


Change = Callable[[PackedFile], None]


def with_change(change: Change, base: Callable[[], PackedFile] = tiny) -> bytes:
    file = base()
    change(file)
    return file.bytes()


def with_word(op: str, index: int, value: int, base: Callable[[], PackedFile] = every_op) -> bytes:
    """One word of one record changed; index 0 is the opcode."""
    return with_change(lambda file: file.ops[op].__setitem__(index, value), base)


def with_key(name: str, kind: int, value: bytes) -> bytes:
    return with_change(lambda file: file.keys.__setitem__(name.encode(), (kind, value)))


def with_tensor(name: str, **changes) -> bytes:
    return with_change(lambda file: vars(file.tensors[name]).update(changes), every_op)


def with_extra(name: str | bytes, *tensor) -> bytes:
    return with_change(lambda file: file.more_tensors.append((name, Tensor(*tensor))))


def with_attributes(**changes) -> bytes:
    return with_change(lambda file: vars(file).update(changes))
