"""Files: written and read back, shown by gguf's own reader, and refused by name when damaged."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from bfcn_kernels import gguf_io
from bfcn_kernels.builder import random_image
from bfcn_kernels.fast import bit_conv_accumulate
from bfcn_kernels.gguf_container import FileError
from bfcn_kernels.gguf_io import Metadata, Model, parse, read, write
from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.reference import run
from bfcn_kernels.testing import random_graph
from bfcn_kernels.values import GraphError

gguf = pytest.importorskip('gguf')

METADATA = Metadata(
    name='toy street',
    classes=('road', 'Gebäude', 'sky'),
    palette=((128, 64, 128), (70, 70, 70), (0, 255, 1)),
    mean=(123.5, 116.25, 103.75),
    std=(58.0, 57.0, 57.5),
    weight_bits=1,
    activation_bits=2,
    train_config='model = dict(\n    quant=dict(w=1, a=2))\n',
)


@pytest.fixture(scope='module')
def small_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp('small') / 'small.gguf'
    write(path, Model(random_graph(12, length=4), Metadata(classes=('a', 'b'))))
    return path.read_bytes()


@pytest.mark.parametrize('seed', range(5))
def test_a_read_model_is_the_written_one(tmp_path, seed):
    graph = toy(channels=63) if seed == 0 else random_graph(seed)
    write(tmp_path / 'm.gguf', Model(graph, METADATA))
    model = read(tmp_path / 'm.gguf')
    assert model.metadata == METADATA
    image = random_image(21, 34, seed)
    expected = run(graph, image, bit_conv_accumulate)
    got = run(model.graph, image, bit_conv_accumulate)
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_metadata_may_be_left_out(tmp_path):
    write(tmp_path / 'm.gguf', Model(toy()))
    assert read(tmp_path / 'm.gguf').metadata == Metadata()


def test_the_gguf_package_reads_it(tmp_path):
    write(tmp_path / 'm.gguf', Model(toy(), METADATA), store_thresholds=True)
    reader = gguf.GGUFReader(tmp_path / 'm.gguf')
    assert reader.get_field('general.architecture').contents() == 'bfcn'
    assert reader.get_field('bfcn.version').contents() == 1
    assert reader.get_field('bfcn.classes').contents() == list(METADATA.classes)
    assert reader.get_field('bfcn.palette').types[-1] == gguf.GGUFValueType.UINT8
    shapes = {t.name: (t.tensor_type.name, t.shape.tolist()) for t in reader.tensors}
    assert shapes['stem.weight'] == ('I64', [1, 8, 63])
    assert shapes['stem.A'] == ('F32', [63])
    assert shapes['fused:1.R'] == ('F32', [24])
    assert shapes['pixels.table'] == ('I8', [256, 3])
    assert shapes['stem.thresholds'] == ('I32', [15, 63])
    assert shapes['bfcn.graph'][0] == 'I32'


def test_stored_thresholds_must_follow_from_the_coefficients(tmp_path):
    path = tmp_path / 'm.gguf'
    write(path, Model(toy()), store_thresholds=True)
    plain = tmp_path / 'plain.gguf'
    write(plain, Model(toy()))
    read(path)
    data = bytearray(path.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == 'stem.thresholds')
    assert b'stem.thresholds' not in plain.read_bytes()
    data[tensor.data_offset] ^= 1
    with pytest.raises(GraphError, match=r"'stem\.thresholds' must follow from A and B, and does"):
        parse(bytes(data))


def test_weights_cost_their_bits(tmp_path):
    """ResNet-18 BFCN at 1 and 2 bits: the file is its weight bits and a few per cent."""
    sizes = {}
    for bits in (1, 2):
        graph = resnet_bfcn(18, w=bits, a=2, width=16)
        path = tmp_path / f'{bits}.gguf'
        write(path, Model(graph))
        sizes[bits] = path.stat().st_size
    weights = sum(term.weight.size for op in graph.ops for term in getattr(op, 'terms', ()))
    assert weights / 8 < sizes[2] - sizes[1] < 1.02 * weights / 8


def test_truncation_is_told_wherever_it_happens(small_file):
    for end in [*range(0, len(small_file) - 32, 7), len(small_file) - 33]:
        with pytest.raises((FileError, GraphError)):
            parse(small_file[:end])
    with pytest.raises(FileError, match='truncated: magic needs 4 bytes at 0, 2 are left'):
        parse(small_file[:2])
    with pytest.raises(FileError, match=r"truncated: tensor '.*' ends at \d+ of \d+ bytes"):
        parse(small_file[: len(small_file) - 64])


def test_an_empty_or_absent_file_is_told(tmp_path):
    (tmp_path / 'empty.gguf').write_bytes(b'')
    with pytest.raises(FileError, match=r'empty\.gguf: the file is empty'):
        read(tmp_path / 'empty.gguf')
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'absent.gguf')


@pytest.mark.parametrize('seed', range(3))
def test_damage_gives_a_named_error_or_a_valid_model(small_file, seed):
    """Changed bytes, most of them where structure is, give nothing but named errors."""
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(400):
        data = bytearray(small_file)
        limit = len(data) if rng.random() < 0.2 else len(data) * 2 // 3
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(limit)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        try:
            graph = parse(bytes(data)).graph
            graph.validate()
        except (FileError, GraphError):
            refused += 1
    assert refused > 100


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


def u32(number: int) -> bytes:
    return struct.pack('<I', number)


def u64(number: int) -> bytes:
    return struct.pack('<Q', number)


def key(name: str) -> bytes:
    return u64(len(name)) + name.encode()


DAMAGE = {
    'magic': (b'GGUF', b'GGML', r"magic must be b'GGUF', got b'GGML'"),
    'GGUF version': (b'GGUF' + u32(3), b'GGUF' + u32(2), 'GGUF version must be 3, got 2'),
    'architecture': (u64(4) + b'bfcn', u64(4) + b'bert', "architecture must be 'bfcn', got 'bert'"),
    'version': (
        key('bfcn.version') + u32(4) + u32(1),
        key('bfcn.version') + u32(4) + u32(2),
        r'bfcn\.version must be 1, got 2',
    ),
    'value type': (
        key('bfcn.version') + u32(4),
        key('bfcn.version') + u32(99),
        r"value of 'bfcn\.version' has the unknown value type 99",
    ),
    'string length': (
        key('bfcn.version'),
        u64(2**63) + b'bfcn.version',
        'truncated: a key needs 9223372036854775808 bytes',
    ),
    'array length': (
        key('bfcn.classes') + u32(9) + u32(8) + u64(2),
        key('bfcn.classes') + u32(9) + u32(8) + u64(2**60),
        r"length of value of 'bfcn\.classes' must be at most \d+, got 1152921504606846976",
    ),
    'nested arrays': (
        key('bfcn.classes') + u32(9) + u32(8),
        key('bfcn.classes') + u32(9) + u32(9),
        'is an array of arrays',
    ),
    'names': (
        key('bfcn.op_names') + u32(9) + u32(8),
        key('bfcn.op_namez') + u32(9) + u32(8),
        r'bfcn\.op_names must be an array of strings',
    ),
    'not UTF-8': (
        key('bfcn.classes'),
        u64(12) + b'bfcn.\xff\xffasses',
        'a key must be UTF-8',
    ),
    'type of a key': (
        key('bfcn.classes') + u32(9) + u32(8),
        key('bfcn.palette') + u32(9) + u32(8),
        r"bfcn\.palette must be an array of int, got \('a', 'b'\)|\['a', 'b'\]",
    ),
    'no graph': (b'bfcn.graph', b'bfcn.grasp', r"tensor 'bfcn\.graph' is missing"),
    'twice': (b'op0.table', b'op1.table', "tensor 'op1.table' must appear once|is missing"),
    'tensor rank': (
        key('bfcn.graph') + u32(1),
        key('bfcn.graph') + u32(5),
        r"rank of tensor 'bfcn\.graph' must be at most 4, got 5",
    ),
    'tensor type': (
        key('op0.table') + u32(2) + u64(256) + u64(3) + u32(24),
        key('op0.table') + u32(2) + u64(256) + u64(3) + u32(1),
        r"tensor 'op0\.table' must be F32, I8, I32 or I64, got type 1",
    ),
    'tensor shape': (
        key('op0.table') + u32(2) + u64(256) + u64(3),
        key('op0.table') + u32(2) + u64(128) + u64(6),
        r"layer 'op0': tensor 'op0\.table' must be uint8 \(3, 256\), got uint8 \(6, 128\)",
    ),
    'huge tensor': (
        key('op0.table') + u32(2) + u64(256) + u64(3),
        key('op0.table') + u32(2) + u64(2**40) + u64(2**40),
        r"truncated: tensor 'op0\.table' ends at",
    ),
    'empty tensor': (
        key('op0.table') + u32(2) + u64(256) + u64(3),
        key('op0.table') + u32(2) + u64(256) + u64(0),
        r"tensor 'op0\.table' must not be empty, got dimensions \[256, 0\]",
    ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damage_is_named(small_file, damage):
    old, new, message = DAMAGE[damage]
    with pytest.raises((FileError, GraphError), match=message):
        parse(patched(small_file, old, new))


def test_tensors_may_neither_overlap_nor_be_misaligned(small_file):
    info = key('op0.table') + u32(2) + u64(256) + u64(3) + u32(24)
    start = small_file.index(info) + len(info)
    for offset, message in ((0, 'overlaps the one before'), (9, 'must be aligned to 32')):
        data = small_file[:start] + u64(offset) + small_file[start + 8 :]
        with pytest.raises(FileError, match=message):
            parse(data)


def test_unknown_keys_and_tensors_are_skipped(tmp_path, small_file, monkeypatch):
    original = gguf.GGUFWriter.write_header_to_file

    def with_more(self, *args, **kwargs):
        self.add_float64('someone.else', 1.5)
        self.add_tensor('someone.tensor', np.zeros((2, 3), np.float32))
        original(self, *args, **kwargs)

    monkeypatch.setattr(gguf.GGUFWriter, 'write_header_to_file', with_more)
    write(tmp_path / 'm.gguf', Model(toy(), METADATA))
    assert read(tmp_path / 'm.gguf').metadata == METADATA


def test_a_palette_has_one_colour_per_class():
    with pytest.raises(FileError, match='one colour per class, got 1 for 2 classes'):
        Metadata(classes=('a', 'b'), palette=((1, 2, 3),))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_is_written(tmp_path, value):
    path = tmp_path / 'm.gguf'
    with pytest.raises(FileError, match='std must be finite, got'):
        write(path, Model(toy(), replace(METADATA, std=(1.0, value, 1.0))))
    graph = toy()
    for op in graph.ops:
        for field in ('A', 'B', 'bias'):
            if not isinstance(getattr(op, field, None), (float, np.ndarray)):
                continue
            bad = getattr(op, field) * np.float32(0) + np.float32(value)
            others = [replace(o, **{field: bad}) if o is op else o for o in graph.ops]
            with pytest.raises(
                GraphError, match=f"layer '{op.name}': (a resize of scores|A|B) must"
            ):
                write(path, Model(Graph(tuple(others))))
    assert not path.exists()


def test_writing_an_invalid_graph_leaves_no_file(tmp_path):
    graph = toy()
    broken = type(graph)(graph.ops[1:])
    with pytest.raises(GraphError, match="layer 'stem': source 'pixels' must be written by"):
        write(tmp_path / 'm.gguf', Model(broken))
    assert not (tmp_path / 'm.gguf').exists()


def test_without_the_gguf_package_writing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'gguf', None)
    with pytest.raises(RuntimeError, match='pip install gguf'):
        gguf_io.write(tmp_path / 'm.gguf', Model(toy()))
