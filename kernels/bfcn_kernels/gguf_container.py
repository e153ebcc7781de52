"""The GGUF v3 container: parse keys and tensors from untrusted bytes."""

import math
import struct
from typing import NamedTuple

import numpy as np

MAX_KEYS = 4096
MAX_TENSORS = 65536
MAX_RANK = 4

# Types of metadata by number: name and numpy type; a bool is read as a byte. 8 is a string, 9 an array.
_SCALARS = {
    0: ('uint8', 'u1'), 1: ('int8', 'i1'), 2: ('uint16', '<u2'), 3: ('int16', '<i2'),
    4: ('uint32', '<u4'), 5: ('int32', '<i4'), 6: ('float32', '<f4'), 7: ('bool', 'u1'),
    10: ('uint64', '<u8'), 11: ('int64', '<i8'), 12: ('float64', '<f8'),
}  # fmt: skip
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Tensor types of packed models by number: F32, I8 (holding uint8), I32, I64 (holding words).
_TENSORS = {0: '<f4', 24: 'u1', 26: '<i4', 27: '<u8'}


class FileError(ValueError):
    """The file is not a well-formed packed model; the message says where and why."""


class Key(NamedTuple):
    """A value of the metadata and its type: 'uint32', 'string', 'array of float32' etc."""

    type: str
    value: int | float | bool | str | list[str] | np.ndarray


def parse_container(data: bytes) -> tuple[dict[str, Key], dict[str, np.ndarray]]:
    """Keys and tensors by name of a GGUF v3 file; tensors are views into data.

    Raises FileError for anything that docs/format.md does not allow in a container.
    """
    if not data:
        raise FileError('the file is empty')
    cursor = _Cursor(data)
    if (magic := cursor.take(4, 'magic')) != b'GGUF':
        raise FileError(f"magic must be b'GGUF', got {magic!r}")
    if (version := cursor.number('<I', 'GGUF version')) != 3:
        raise FileError(f'GGUF version must be 3, got {version}')
    tensor_count = cursor.count('<Q', 'tensor count', MAX_TENSORS)
    key_count = cursor.count('<Q', 'key count', MAX_KEYS)
    keys = {}
    for _ in range(key_count):
        name = cursor.string('a key')
        if name in keys:
            raise FileError(f'key {_shown(name)} must appear once')
        keys[name] = cursor.key(name)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = _alignment(keys)
    start = -(-cursor.position // alignment) * alignment
    return keys, _tensors(data, infos, start, alignment)


def _alignment(keys: dict[str, Key]) -> int:
    kind, value = keys.get('general.alignment', Key('uint32', 32))
    if kind != 'uint32' or value < 8 or value & (value - 1):
        raise FileError(
            f'general.alignment must be a uint32, a power of two from 8, got {kind} {value!r:.20}'
        )
    return value


class _Cursor:
    """Reads little-endian numbers and strings, never past the end."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def take(self, count: int, what: str) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise FileError(
                f'truncated: {what} needs {count} bytes at {self.position}, {left} are left'
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, form: str, what: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, form: str, what: str, limit: int) -> int:
        count = self.number(form, what)
        if count > limit:
            raise FileError(f'{what} must be at most {limit}, got {count}')
        return count

    def string(self, what: str) -> str:
        """Text of strict UTF-8 without NUL, so that a C string can hold it."""
        raw = self.take(self.number('<Q', f'the length of {what}'), what)
        try:
            text = raw.decode('utf-8')
        except UnicodeDecodeError as err:
            raise FileError(f'{what} must be UTF-8 without NUL, got {raw[:20]!r}') from err
        if '\0' in text:
            raise FileError(f'{what} must be UTF-8 without NUL, got {raw[:20]!r}')
        return text

    def key(self, name: str) -> Key:
        what = f'key {_shown(name)}'
        kind = self.number('<I', f'the type of {what}')
        if kind != _ARRAY:
            title, values = self.values(kind, 1, what)
            return Key(title, values[0] if kind == _STRING else values[0].item())
        inner = self.number('<I', f'the type of {what}')
        title, values = self.values(inner, self.number('<Q', f'the length of {what}'), what)
        return Key(f'array of {title}', values)

    def values(self, kind: int, count: int, what: str) -> tuple[str, list[str] | np.ndarray]:
        """The name of a type and `count` values of it."""
        if kind == _STRING:
            left = len(self.data) - self.position
            if count > left // 8:  # each has a length, of 8 bytes
                raise FileError(f'truncated: {what} holds {count} strings, {left} bytes are left')
            return 'string', [self.string(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise FileError(f'{what} must be of a scalar type of GGUF, got type {kind}')
        title, dtype = _SCALARS[kind]
        values = np.frombuffer(self.take(count * np.dtype(dtype).itemsize, what), dtype)
        if kind == _BOOL:
            if (values > 1).any():
                raise FileError(f'{what} must hold bools of 0 or 1, got {values.max()}')
            values = values.astype(bool)
        return title, values


def _tensor_info(cursor: _Cursor) -> tuple[str, list[int], str, int]:
    """Name, dimensions (fastest first), numpy type and offset of a tensor."""
    name = cursor.string('a tensor name')
    what = f'tensor {_shown(name)}'
    rank = cursor.count('<I', f'rank of {what}', MAX_RANK)
    dims = [cursor.number('<Q', f'the dimensions of {what}') for _ in range(rank)]
    kind = cursor.number('<I', f'the type of {what}')
    offset = cursor.number('<Q', f'the offset of {what}')
    if kind not in _TENSORS:
        raise FileError(f'{what} must be F32, I8, I32 or I64, got type {kind}')
    if not dims or math.prod(dims) == 0:
        raise FileError(f'{what} must not be empty, got dimensions {dims}')
    return name, dims, _TENSORS[kind], offset


def _tensors(data: bytes, infos: list[tuple], start: int, alignment: int) -> dict[str, np.ndarray]:
    tensors, end, before = {}, start, ''
    for name, dims, dtype, offset in sorted(infos, key=lambda info: info[3]):
        what = f'tensor {_shown(name)}'
        if name in tensors:
            raise FileError(f'{what} must appear once')
        if offset % alignment:
            raise FileError(f'{what} must be aligned to {alignment}, got offset {offset}')
        if start + offset < end:
            raise FileError(f'{what} overlaps {before} at offset {offset}')
        end, before = start + offset + math.prod(dims) * np.dtype(dtype).itemsize, what
        if end > len(data):
            raise FileError(f'truncated: {what} ends at {end} of {len(data)} bytes')
        flat = np.frombuffer(data, dtype, math.prod(dims), start + offset)
        tensors[name] = flat.reshape(dims[::-1])
    return tensors


def _shown(name: str) -> str:
    """A name as messages show it: whole unless it is absurdly long."""
    return repr(name if len(name) <= 64 else f'{name[:64]}...')
