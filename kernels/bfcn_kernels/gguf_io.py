"""Packed model files: GGUF v3, written by the `gguf` package, read here without any trust."""

import math
import mmap
import struct
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from bfcn_kernels.conv import BitConv
from bfcn_kernels.graph import MAX_OPS, Graph
from bfcn_kernels.records import decode, encode
from bfcn_kernels.thresholds import thresholds
from bfcn_kernels.values import GraphError

VERSION = 1
MAX_KEYS = 4096
MAX_TENSORS = 65536

# GGUF value types of metadata: code -> struct format; 8 is string, 9 array.
_SCALARS = dict(enumerate(['<B', '<b', '<H', '<h', '<I', '<i', '<f', '<?']))
_SCALARS |= {10: '<Q', 11: '<q', 12: '<d'}
_STRING, _ARRAY = 8, 9
# GGUF tensor types that this format uses.
_TENSORS = {0: '<f4', 24: 'u1', 26: '<i4', 27: '<u8'}


class FileError(ValueError):
    """The file is not a well-formed packed model; the message says where and why."""


@dataclass(frozen=True)
class Metadata:
    """What travels with a model beside its graph; all optional."""

    name: str = ''
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    weight_bits: int = 0
    activation_bits: int = 0
    train_config: str = ''


@dataclass(frozen=True)
class Model:
    """A validated graph and its metadata."""

    graph: Graph
    metadata: Metadata = field(default_factory=Metadata)


def write(path: str | Path, model: Model, store_thresholds: bool = False) -> None:
    """Write a model. Raises GraphError for an invalid graph; needs the `gguf` package."""
    try:
        import gguf
    except ImportError as err:
        raise RuntimeError('writing a model needs the gguf package: pip install gguf') from err
    words, tensors = encode(model.graph)
    if store_thresholds:
        tensors |= _all_thresholds(model.graph)
    out = gguf.GGUFWriter(str(path), 'bfcn')
    _write_metadata(out, model, gguf.GGUFValueType)
    out.add_tensor('bfcn.graph', words)
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        signed = {np.dtype('u1'): 'i1', np.dtype('u8'): 'i8'}.get(array.dtype)
        out.add_tensor(name, array.view(signed) if signed else array)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read(path: str | Path) -> Model:
    """Read and check a model. Raises OSError, FileError or GraphError."""
    with open(path, 'rb') as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as err:
            raise FileError(f'{path}: the file is empty') from err
    try:
        return parse(data)
    except (FileError, GraphError) as err:
        raise type(err)(f'{path}: {err}') from err


def parse(data: bytes | mmap.mmap) -> Model:
    """The model in the bytes of a file. Arrays of the graph are copies or unpacked."""
    keys, tensors = _parse_container(data)
    names = _check_keys(keys)
    if 'bfcn.graph' not in tensors:
        raise FileError("tensor 'bfcn.graph' is missing")
    words = tensors['bfcn.graph']
    if words.dtype != np.int32 or words.ndim != 1:
        raise FileError(f"tensor 'bfcn.graph' must be I32 [words], got {words.dtype} {words.shape}")

    def tensor(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        if name not in tensors:
            raise GraphError(f'tensor {name!r} is missing')
        array = tensors[name]
        if array.dtype != dtype or array.shape != shape:
            raise GraphError(
                f'tensor {name!r} must be {np.dtype(dtype).name} {shape}, '
                f'got {array.dtype} {array.shape}'
            )
        return array.copy()

    graph = decode(words, names, tensor)
    for name, expected in _all_thresholds(graph, only=tensors).items():
        if not np.array_equal(tensor(name, np.int32, expected.shape), expected):
            raise GraphError(f'tensor {name!r} must follow from A and B, and does not')
    return Model(graph, _metadata(keys))


def _all_thresholds(graph: Graph, only: dict | None = None) -> dict[str, np.ndarray]:
    values = graph.validate()
    found = {}
    for op in graph.ops:
        name = f'{op.name}.thresholds'
        if isinstance(op, BitConv) and op.has_thresholds and (only is None or name in only):
            term = op.terms[0]
            found[name] = thresholds(term.scale, op.bias, op.bits, term.bound(values[term.source]))
    return found


def _write_metadata(out, model: Model, types) -> None:
    meta = model.metadata
    if meta.name:
        out.add_name(meta.name)
    out.add_uint32('bfcn.version', VERSION)
    out.add_array('bfcn.op_names', [op.name for op in model.graph.ops])
    if meta.classes:
        out.add_array('bfcn.classes', list(meta.classes))
    arrays = {'palette': types.UINT8, 'mean': types.FLOAT32, 'std': types.FLOAT32}
    for key, kind in arrays.items():
        if values := np.ravel(getattr(meta, key)).tolist():
            out.add_key_value(f'bfcn.{key}', values, types.ARRAY, sub_type=kind)
    for key in ('weight_bits', 'activation_bits'):
        if getattr(meta, key):
            out.add_uint32(f'bfcn.{key}', getattr(meta, key))
    if meta.train_config:
        out.add_string('bfcn.train_config', meta.train_config)


def _check_keys(keys: dict) -> list[str]:
    if keys.get('general.architecture') != 'bfcn':
        raise FileError(
            f"general.architecture must be 'bfcn', got {keys.get('general.architecture')!r}"
        )
    if keys.get('bfcn.version') != VERSION:
        raise FileError(f'bfcn.version must be {VERSION}, got {keys.get("bfcn.version")!r}')
    names = keys.get('bfcn.op_names')
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileError('bfcn.op_names must be an array of strings')
    if not 1 <= len(names) <= MAX_OPS:
        raise FileError(f'bfcn.op_names must name 1..{MAX_OPS} ops, got {len(names)}')
    return names


def _metadata(keys: dict) -> Metadata:
    found = {f.name: keys.get(f'bfcn.{f.name}', f.default) for f in fields(Metadata)}
    found['name'] = keys.get('general.name', '')
    for name, default in ((f.name, f.default) for f in fields(Metadata)):
        if not isinstance(found[name], list if default == () else type(default)):
            key = 'general.name' if name == 'name' else f'bfcn.{name}'
            if found[name] != default:
                raise FileError(f'{key} has the wrong type, got {found[name]!r:.60}')
    palette = found['palette']
    if len(palette) % 3:
        raise FileError(f'bfcn.palette must hold r g b per class, got {len(palette)} numbers')
    found['palette'] = tuple(tuple(palette[i : i + 3]) for i in range(0, len(palette), 3))
    for key in ('classes', 'mean', 'std'):
        found[key] = tuple(found[key])
    return Metadata(**found)


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


def _parse_container(data: bytes | mmap.mmap) -> tuple[dict[str, object], dict[str, np.ndarray]]:
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
