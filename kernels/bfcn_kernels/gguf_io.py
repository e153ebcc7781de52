"""Packed model files: GGUF v3, written by the `gguf` package, read here without any trust."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bfcn_kernels.files import read_bytes, replacing
from bfcn_kernels.gguf_container import FileError, Key, parse_container
from bfcn_kernels.graph import MAX_OPS, Graph
from bfcn_kernels.ops import BitConv
from bfcn_kernels.records import decode, encode
from bfcn_kernels.thresholds import thresholds
from bfcn_kernels.values import GraphError

VERSION = 1
# Types of the keys that a model may have; others are skipped.
KEYS = {
    'general.architecture': 'string',
    'general.name': 'string',
    'bfcn.version': 'uint32',
    'bfcn.op_names': 'array of string',
    'bfcn.classes': 'array of string',
    'bfcn.palette': 'array of uint8',
    'bfcn.mean': 'array of float32',
    'bfcn.std': 'array of float32',
    'bfcn.weight_bits': 'uint32',
    'bfcn.activation_bits': 'uint32',
    'bfcn.train_config': 'string',
}


@dataclass(frozen=True)
class Metadata:
    """What travels with a model beside its graph; all optional.

    Raises FileError for more or fewer colours than classes, mean or std of other than 3 finite numbers,
    and NUL in text.
    """

    name: str = ''
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    weight_bits: int = 0
    activation_bits: int = 0
    train_config: str = ''

    def __post_init__(self) -> None:
        if self.palette and self.classes and len(self.palette) != len(self.classes):
            raise FileError(
                f'bfcn.palette must have one colour per class, got {len(self.palette)} '
                f'for {len(self.classes)} classes'
            )
        for key in ('mean', 'std'):
            if len(values := getattr(self, key)) not in (0, 3):
                raise FileError(f'bfcn.{key} must be 3 numbers, got {len(values)}')
            for value in values:
                if not math.isfinite(value):
                    raise FileError(f'bfcn.{key} must be finite, got {value}')
        for text in (self.name, self.train_config, *self.classes):
            if '\0' in text:
                raise FileError(f'text must have no NUL, got {text[:60]!r}')


@dataclass(frozen=True)
class Model:
    """A validated graph and its metadata."""

    graph: Graph
    metadata: Metadata = field(default_factory=Metadata)


def write(path: str | Path, model: Model, store_thresholds: bool = False) -> None:
    """Write a model; a file that is there is replaced at the end, whole, or left as it is.

    Raises GraphError for an invalid graph, OSError; RuntimeError without the `gguf` package.
    """
    try:
        import gguf
    except ImportError as err:
        raise RuntimeError('writing a model needs the gguf package: pip install gguf') from err
    words, tensors = encode(model.graph)
    if store_thresholds:
        tensors |= {name: _thresholds(*rest) for name, *rest in _thresholded(model.graph)}
    with replacing(path) as temporary:
        out = gguf.GGUFWriter(str(temporary), 'bfcn')
        try:
            _write_metadata(out, model, gguf.GGUFValueType)
            out.add_tensor('bfcn.graph', words)
            for name, array in tensors.items():
                array = np.ascontiguousarray(array)
                signed = {np.dtype('u1'): 'i1', np.dtype('u8'): 'i8'}.get(array.dtype)
                out.add_tensor(name, array.view(signed) if signed else array)
            out.write_header_to_file()
            out.write_kv_data_to_file()
            out.write_tensors_to_file()
        finally:
            out.close()


def read(path: str | Path) -> Model:
    """Read and check a model. Raises FileError, also where there is no file, or GraphError."""
    data = read_bytes(path)
    try:
        return parse(data)
    except (FileError, GraphError) as err:
        raise type(err)(f'{path}: {err}') from err


def parse(data: bytes) -> Model:
    """The model in the bytes of a file. Arrays of the graph are copies or unpacked."""
    keys, tensors = parse_container(data)
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
    for name, op, bound in _thresholded(graph):
        if name in tensors:
            stored = tensor(name, np.int32, (len(op.bias), 2**op.bits - 1))
            if not np.array_equal(stored, _thresholds(op, bound)):
                raise GraphError(f'tensor {name!r} must follow from A and B, and does not')
    return Model(graph, _metadata(keys))


def _thresholded(graph: Graph) -> Iterator[tuple[str, BitConv, int]]:
    """Tensor name, op and accumulator bound of every op that thresholds can describe."""
    values = graph.validate()
    for op in graph.ops:
        if isinstance(op, BitConv) and op.has_thresholds:
            yield f'{op.name}.thresholds', op, op.terms[0].bound(values[op.terms[0].source])


def _thresholds(op: BitConv, bound: int) -> np.ndarray:
    return thresholds(op.terms[0].scale, op.bias, op.bits, bound)


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


def _check_keys(keys: dict[str, Key]) -> list[str]:
    """Types of all known keys, presence and values of the required ones. Returns the ops' names."""
    for name, kind in KEYS.items():
        if name in keys and keys[name].type != kind:
            raise FileError(f'{name} must be of type {kind}, got {keys[name].type}')
    if (architecture := _value(keys, 'general.architecture', '')) != 'bfcn':
        raise FileError(f"general.architecture must be 'bfcn', got {architecture!r:.60}")
    if (version := _value(keys, 'bfcn.version', None)) != VERSION:
        raise FileError(f'bfcn.version must be {VERSION}, got {version}')
    names = _value(keys, 'bfcn.op_names', [])
    if not 1 <= len(names) <= MAX_OPS:
        raise FileError(f'bfcn.op_names must name 1..{MAX_OPS} ops, got {len(names)}')
    return names


def _metadata(keys: dict[str, Key]) -> Metadata:
    palette = _numbers(keys, 'bfcn.palette')
    if len(palette) % 3:
        raise FileError(f'bfcn.palette must hold r g b per class, got {len(palette)} numbers')
    return Metadata(
        name=_value(keys, 'general.name', ''),
        classes=tuple(_value(keys, 'bfcn.classes', ())),
        palette=tuple(palette[i : i + 3] for i in range(0, len(palette), 3)),
        mean=_numbers(keys, 'bfcn.mean'),
        std=_numbers(keys, 'bfcn.std'),
        weight_bits=_value(keys, 'bfcn.weight_bits', 0),
        activation_bits=_value(keys, 'bfcn.activation_bits', 0),
        train_config=_value(keys, 'bfcn.train_config', ''),
    )


def _value(keys: dict[str, Key], name: str, default):
    return keys[name].value if name in keys else default


def _numbers(keys: dict[str, Key], name: str) -> tuple:
    return tuple(keys[name].value.tolist()) if name in keys else ()
