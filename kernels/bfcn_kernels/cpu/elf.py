"""What must be known of a shared library before it is loaded: a cut one ends the process with SIGBUS."""

import struct
from pathlib import Path

_LOAD = 1  # PT_LOAD


def trouble(path: Path) -> str | None:
    """Why this process cannot load a library, in a few words; None if nothing speaks against it, or where
    programs are no ELF files."""
    own, data = _identity(Path('/proc/self/exe')), path.read_bytes()
    if own is None:
        return None
    if data[:4] != b'\x7fELF':
        return 'is not an ELF file'
    if own != _identity(path):
        return 'is for another machine'
    try:
        ends = _segment_ends(data)
    except struct.error:
        return 'is cut off'
    if not ends or max(ends) > len(data):
        return 'is cut off'
    return None


def _identity(path: Path) -> tuple[int, ...] | None:
    """Class, byte order and machine; None where the system shows no such file."""
    try:
        with path.open('rb') as file:
            head = file.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != b'\x7fELF':
        return None
    return head[4], head[5], head[18], head[19]


def _segment_ends(data: bytes) -> list[int]:
    """Where in the file each loaded segment ends."""
    wide, order = data[4] == 2, '<' if data[5] == 1 else '>'
    table = struct.unpack_from(order + ('Q' if wide else 'I'), data, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + 'HH', data, 54 if wide else 42)
    ends = []
    for at in range(table, table + size * count, size or 1):
        if wide:
            kind, _, offset, _, _, length = struct.unpack_from(order + 'IIQQQQ', data, at)
        else:
            kind, offset, _, _, length = struct.unpack_from(order + 'IIIII', data, at)
        if kind == _LOAD:
            ends.append(offset + length)
    return ends
