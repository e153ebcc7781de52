"""Files: written and read back, shown by gguf's own reader, and refused by name when damaged."""

import os
import stat
from dataclasses import replace

import numpy as np
import pytest

from bfcn_kernels import gguf_io, load
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


@pytest.mark.parametrize('engine', ['numpy', 'cpu'])
def test_what_is_no_file_is_one_clear_error(tmp_path, engine):
    """The same for every engine; a pipe is not waited for."""
    (tmp_path / 'empty.gguf').write_bytes(b'')
    os.mkfifo(tmp_path / 'pipe.gguf')
    with pytest.raises(FileError, match=r'empty\.gguf: the file is empty'):
        load(tmp_path / 'empty.gguf', engine)
    with pytest.raises(FileError, match=r'pipe\.gguf: this is no regular file'):
        load(tmp_path / 'pipe.gguf', engine)
    with pytest.raises(FileNotFoundError, match=r'absent\.gguf'):
        load(tmp_path / 'absent.gguf', engine)
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        load(f'{tmp_path}/', engine)
    (tmp_path / 'bad.gguf').write_bytes(b'not a model')
    with pytest.raises(FileError, match='magic must be'):
        load(tmp_path / 'bad.gguf', engine)


@pytest.mark.parametrize('engine', ['numpy', 'cpu'])
def test_a_file_that_is_cut_after_loading_is_not_missed(tmp_path, engine):
    """Nothing is mapped: a process that reads past the end of a mapping dies."""
    path, image = tmp_path / 'm.gguf', random_image(20, 30)
    write(path, Model(toy()))
    loaded = load(path, engine)
    expected = loaded(image)
    os.truncate(path, 10)
    np.testing.assert_array_equal(loaded(image), expected)
    loaded(image[:17])


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / 'm.gguf'
    write(path, Model(toy()))
    old = path.read_bytes()
    for error in (OSError('disk full'), KeyboardInterrupt()):

        def fail(self, error=error, **_):
            self.fout[0].write(b'half')
            raise error

        monkeypatch.setattr(gguf.GGUFWriter, 'write_tensors_to_file', fail)
        with pytest.raises(type(error)):
            write(path, Model(random_graph(3, length=3)))
        with pytest.raises(type(error)):
            write(tmp_path / 'new.gguf', Model(toy()))
        assert [file.name for file in tmp_path.iterdir()] == ['m.gguf']
        assert path.read_bytes() == old


def test_a_written_file_replaces_the_old_one_whole(tmp_path):
    """A reader that has the old one open keeps it; links and permissions stay."""
    path, link = tmp_path / 'm.gguf', tmp_path / 'link.gguf'
    write(path, Model(toy()))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(0o640)
    link.symlink_to('m.gguf')
    old = path.read_bytes()
    with open(path, 'rb') as opened:
        write(link, Model(random_graph(3, length=3)))
        assert opened.read() == old
    assert link.is_symlink()
    assert path.read_bytes() != old
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(OSError, match='must be a regular file or absent to be written'):
        write(tmp_path, Model(toy()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
