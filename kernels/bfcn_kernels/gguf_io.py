"""Packed model files: GGUF v3, written by the `gguf` package, read here without any trust."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bfcn_kernels.conv import BitConv
from bfcn_kernels.files import read_bytes
from bfcn_kernels.gguf_container import FileError, parse_container
from bfcn_kernels.graph import MAX_OPS, Graph
from bfcn_kernels.records import decode, encode
from bfcn_kernels.thresholds import thresholds
from bfcn_kernels.values import GraphError

VERSION = 1


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

    def __post_init__(self) -> None:
        if self.palette and self.classes and len(self.palette) != len(self.classes):
            raise FileError(
                f'palette must have one colour per class, got {len(self.palette)} '
                f'for {len(self.classes)} classes'
            )


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
        tensors |= {name: _thresholds(*rest) for name, *rest in _thresholded(model.graph)}
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
    """Read and check a model. Raises FileError (also where there is no file) or GraphError."""
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
    palette = _array(keys, 'bfcn.palette', int)
    if len(palette) % 3:
        raise FileError(f'bfcn.palette must hold r g b per class, got {len(palette)} numbers')
    return Metadata(
        name=_scalar(keys, 'general.name', ''),
        classes=_array(keys, 'bfcn.classes', str),
        palette=tuple(palette[i : i + 3] for i in range(0, len(palette), 3)),
        mean=_array(keys, 'bfcn.mean', float),
        std=_array(keys, 'bfcn.std', float),
        weight_bits=_scalar(keys, 'bfcn.weight_bits', 0),
        activation_bits=_scalar(keys, 'bfcn.activation_bits', 0),
        train_config=_scalar(keys, 'bfcn.train_config', ''),
    )


def _scalar(keys: dict, key: str, default: str | int) -> str | int:
    value = keys.get(key, default)
    if type(value) is not type(default):
        raise FileError(f'{key} must be a {type(default).__name__}, got {value!r:.60}')
    return value


def _array(keys: dict, key: str, element: type) -> tuple:
    values = keys.get(key, [])
    if not isinstance(values, list) or any(type(value) is not element for value in values):
        raise FileError(f'{key} must be an array of {element.__name__}, got {values!r:.60}')
    return tuple(values)
