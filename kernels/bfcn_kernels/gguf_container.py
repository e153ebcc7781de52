"""The GGUF v3 container: keys and tensors out of bytes that nobody vouches for."""

import math
import mmap
import struct

import numpy as np

MAX_KEYS = 4096
MAX_TENSORS = 65536

# Value types of metadata by number, as struct formats; 8 is a string, 9 an array.
_SCALARS = dict(enumerate(['<B', '<b', '<H', '<h', '<I', '<i', '<f', '<?']))
_SCALARS |= {10: '<Q', 11: '<q', 12: '<d'}
_STRING, _ARRAY = 8, 9
# Tensor types of packed models by number: F32, I8 (holding uint8), I32, I64 (holding words).
_TENSORS = {0: '<f4', 24: 'u1', 26: '<i4', 27: '<u8'}


class FileError(ValueError):
    """The file is not a well-formed packed model; the message says where and why."""


def parse_container(data: bytes | mmap.mmap) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Metadata by key and tensors by name (views into data) of any GGUF v3 file."""
    cursor = _Cursor(data)
    if (magic := cursor.take(4, 'magic')) != b'GGUF':
        raise FileError(f"magic must be b'GGUF', got {magic!r}")
    if (version := cursor.number('<I', 'GGUF version')) != 3:
        raise FileError(f'GGUF version must be 3, got {version}')
    tensor_count = cursor.count('<Q', 'tensor count', MAX_TENSORS)
    key_count = cursor.count('<Q', 'key count', MAX_KEYS)
    keys = {}
    for _ in range(key_count):
        key = cursor.string('a key')
        if key in keys:
            raise FileError(f'key {key!r} must appear once')
        keys[key] = cursor.value(cursor.number('<I', f'type of {key!r}'), f'value of {key!r}')
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = keys.get('general.alignment', 32)
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
        raise FileError(f'general.alignment must be a power of two from 8, got {alignment!r}')
    start = -(-cursor.position // alignment) * alignment
    return keys, _tensors(data, infos, start, alignment)


class _Cursor:
    """Reads little-endian numbers and strings, never past the end."""

    def __init__(self, data: bytes | mmap.mmap):
        self.data, self.position = data, 0

    def take(self, count: int, what: str) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise FileError(
                f'truncated: {what} needs {count} bytes at {self.position}, {left} are left'
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, form: str, what: str) -> int | float | bool:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, form: str, what: str, limit: int) -> int:
        count = self.number(form, what)
        if count > limit:
            raise FileError(f'{what} must be at most {limit}, got {count}')
        return count

    def string(self, what: str) -> str:
        raw = self.take(self.number('<Q', f'length of {what}'), what)
        try:
            return raw.decode('utf-8')
        except UnicodeDecodeError as err:
            raise FileError(f'{what} must be UTF-8, got {raw[:20]!r}') from err

    def value(self, kind: int, what: str) -> object:
        if kind == _STRING:
            return self.string(what)
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind != _ARRAY:
            raise FileError(f'{what} has the unknown value type {kind}')
        inner = self.number('<I', f'type of {what}')
        if inner == _ARRAY:
            raise FileError(f'{what} is an array of arrays, which no key here is')
        left = len(self.data) - self.position
        return [self.value(inner, what) for _ in range(self.count('<Q', f'length of {what}', left))]


def _tensor_info(cursor: _Cursor) -> tuple[str, list[int], int, int]:
    name = cursor.string('a tensor name')
    rank = cursor.count('<I', f'rank of tensor {name!r}', 4)
    dims = [cursor.number('<Q', f'dimensions of tensor {name!r}') for _ in range(rank)]
    kind = cursor.number('<I', f'type of tensor {name!r}')
    return name, dims, kind, cursor.number('<Q', f'offset of tensor {name!r}')


def _tensors(
    data: bytes | mmap.mmap, infos: list[tuple], start: int, alignment: int
) -> dict[str, np.ndarray]:
    tensors, end = {}, start
    for name, dims, kind, offset in sorted(infos, key=lambda info: info[3]):
        if name in tensors:
            raise FileError(f'tensor {name!r} must appear once')
        if kind not in _TENSORS:
            raise FileError(f'tensor {name!r} must be F32, I8, I32 or I64, got type {kind}')
        dtype = np.dtype(_TENSORS[kind])
        size = math.prod(dims) * dtype.itemsize
        if not dims or size == 0:
            raise FileError(f'tensor {name!r} must not be empty, got dimensions {dims}')
        if offset % alignment:
            raise FileError(f'tensor {name!r} must be aligned to {alignment}, got offset {offset}')
        if start + offset < end:
            raise FileError(f'tensor {name!r} overlaps the one before it at offset {offset}')
        end = start + offset + size
        if end > len(data):
            raise FileError(f'truncated: tensor {name!r} ends at {end} of {len(data)} bytes')
        flat = np.frombuffer(data, dtype, math.prod(dims), start + offset)
        tensors[name] = flat.reshape(dims[::-1])
    return tensors
