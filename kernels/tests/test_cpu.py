"""The C runtime equals the numpy oracle, bit for bit, on every value of many graphs."""

import threading
from pathlib import Path

import numpy as np
import pytest

from bfcn_kernels import FileError, GraphError, Model, load, reference, write
from bfcn_kernels.builder import Builder, random_image
from bfcn_kernels.cpu import Engine, isas
from bfcn_kernels.gguf_io import Metadata
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.ops import RESIZE_MODES, ArgMax, MaxPool, Resize
from bfcn_kernels.testing import random_graph


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    write(path, Model(toy(), Metadata('toy')))
    return path


def _write(tmp_path: Path, graph) -> Path:
    path = tmp_path / 'model.gguf'
    write(path, Model(graph, Metadata('test')))
    return path


def _assert_equal(path: Path, image: np.ndarray, **options) -> None:
    """Every value, in a session that keeps all; output and logits, in one where values share memory."""
    oracle, engine = load(path), Engine(path, **options)
    expected, got = oracle.trace(image), engine.trace(image)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        _assert_same_bits(got[name], value, f'{name} {options}')
    for _ in range(2):  # the second run finds what the first left behind
        _assert_same_bits(engine(image), oracle(image), f'output {options}')
    if oracle.logits is not None and oracle.logits.dtype == np.float32:
        _assert_same_bits(engine.logits, oracle.logits, f'logits {options}')


def _assert_same_bits(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert got.dtype == expected.dtype
    bits = (got, expected) if got.dtype == np.uint8 else (got.view('u4'), expected.view('u4'))
    np.testing.assert_array_equal(*bits, err_msg=what)


@pytest.mark.parametrize('isa', ['amx', 'avx512', 'avx2', 'portable'])
@pytest.mark.parametrize('threads', [1, 2])
def test_toy_equals_oracle(toy_file, isa, threads):
    if isa not in isas():
        pytest.skip(f'this CPU has {isas()}')
    for shape in [(24, 36), (33, 17)]:
        _assert_equal(toy_file, random_image(*shape), isa=isa, threads=threads)


@pytest.mark.parametrize('seed', range(8))
def test_random_graphs_equal_oracle(tmp_path, seed):
    path = _write(tmp_path, random_graph(seed))
    for shape, isa in zip([(1, 1), (12, 17), (30, 9)], isas() + isas(), strict=False):
        _assert_equal(path, random_image(*shape, seed), isa=isa)


@pytest.mark.parametrize(('w', 'a'), [(1, 1), (1, 2), (2, 2), (4, 4)])
def test_residual_network_equals_oracle(tmp_path, w, a):
    path = _write(tmp_path, resnet_bfcn(18, w, a, classes=5, width=16))
    for isa in isas():
        _assert_equal(path, random_image(33, 65), isa=isa, threads=2)


@pytest.mark.parametrize('bits', [1, 2, 3, 8])
def test_max_pools_equal_oracle(tmp_path, bits):
    """More channels than a word has, windows past every edge."""
    net = Builder(6)
    net.image_codes('pixels')
    net.conv('codes', [net.term('pixels', 130, 3, bits=8, form=1)], bits)
    net.add(MaxPool('pooled', 'codes', (3, 3), (2, 2), (1, 1)))
    net.add(MaxPool('wide', 'pooled', (2, 5), (1, 3), (1, 2), (3, 2), ceil=True))
    path = _write(tmp_path, net.graph())
    for isa in isas():
        _assert_equal(path, random_image(13, 22), isa=isa, threads=2)


@pytest.mark.parametrize('mode', RESIZE_MODES)
@pytest.mark.parametrize('classes', [1, 19, 97])
def test_scores_are_interpolated_up_and_down(tmp_path, mode, classes):
    net = Builder(5)
    net.image_codes('pixels')
    net.conv('scores', [net.term('pixels', classes, 3, bits=8, form=1, stride=2)], None)
    net.add(Resize('resized', 'scores', mode, size=(23, 41)))
    net.add(ArgMax('labels', 'resized', mode))
    path = _write(tmp_path, net.graph())
    for shape in [(1, 1), (3, 7), (9, 16), (24, 40), (47, 83), (60, 35), (46, 200), (5, 530)]:
        for isa in isas():
            _assert_equal(path, random_image(*shape), isa=isa, threads=2)


@pytest.mark.parametrize(
    ('isa', 'expected'),
    [('amx', 'int2_gemm_16x32s16__amx'), ('avx512', 'lut6_gemm_a2_4x128k3__avx512')],
)
def test_planner_takes_the_fast_kernels(tmp_path, isa, expected):
    if isa not in isas():
        pytest.skip(f'this CPU has {isas()}')
    engine = Engine(_write(tmp_path, resnet_bfcn(18, 1, 2, classes=5)), isa=isa)
    kernels = {op.name.decode(): op.kernel.decode() for op in engine.ops(160, 256)}
    assert kernels['layer2.1.conv1'] == expected
    assert kernels['stem'].startswith('int8_gemm')


@pytest.mark.parametrize(
    'name',
    ['int2_gemm_16x32s16__amx', 'bits_gemm_a2_4x16__avx512', 'lut4_gemm_a2_4x64__avx2'],
)
def test_forced_kernel_runs_and_equals_oracle(tmp_path, name):
    if name.rpartition('__')[2] not in isas():
        pytest.skip(f'this CPU has {isas()}')
    net = Builder(3)
    net.image_codes('pixels', zero_point=128)
    x = net.conv('stem', [net.term('pixels', 70, 3, bits=8, form=1)], 2)
    net.conv('layer', [net.term(x, 96, 3, 1)], 2)
    path = _write(tmp_path, net.graph())
    _assert_equal(path, random_image(20, 31), kernel=name)
    op = Engine(path, kernel=name).ops(20, 31)[-1]
    assert (op.name, op.kernel) == (b'layer', name.encode())


def test_any_row_stride(toy_file):
    wide = random_image(24, 50)
    engine = load(toy_file, engine='cpu')
    np.testing.assert_array_equal(engine(wide[:, :36]), engine(wide[:, :36].copy()))
    np.testing.assert_array_equal(engine(wide[::2, :36]), engine(wide[::2, :36].copy()))


def test_interface(toy_file):
    image = random_image(24, 36)
    engine, oracle = load(toy_file, engine='cpu', threads=2), load(toy_file)
    np.testing.assert_array_equal(engine(image), oracle(image))
    np.testing.assert_array_equal(engine.logits, oracle.logits)
    assert [entry[:2] for entry in engine.profile] == [
        (op.name, entry[1])
        for op, entry in zip(oracle.model.graph.ops, engine.profile, strict=True)
    ]
    assert all(seconds >= 0 for _, _, seconds in engine.profile)
    assert engine.peak_bytes > oracle.model.graph.peak_bytes(24, 36)


def test_two_sessions_in_threads_give_what_one_gives(toy_file):
    images = [random_image(24, 36, seed) for seed in range(2)]
    expected = [Engine(toy_file)(image) for image in images]
    wrong = []

    def work(index: int) -> None:
        engine = Engine(toy_file, threads=1 + index)
        for _ in range(100):
            if not np.array_equal(engine(images[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _damaged(path: Path, tmp_path: Path, change) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    bad = tmp_path / 'bad.gguf'
    bad.write_bytes(data)
    return bad


def test_errors_name_what_is_wrong(toy_file, tmp_path):
    with pytest.raises(FileError, match=r"bad\.gguf: magic must be 'GGUF'"):
        Engine(_damaged(toy_file, tmp_path, lambda data: data.__setitem__(0, 0)))
    with pytest.raises(FileError, match='version must be 3, got 9'):
        Engine(_damaged(toy_file, tmp_path, lambda data: data.__setitem__(4, 9)))
    with pytest.raises(FileError, match=r'truncated: tensor .* ends after the file'):
        Engine(_damaged(toy_file, tmp_path, lambda data: data.__delitem__(slice(-64, None))))
    with pytest.raises(GraphError, match='sides must be in'):
        Engine(toy_file)(np.zeros((1, 40000, 3), np.uint8))
    with pytest.raises(ValueError, match=r'threads must be in 1\.\.64, got 65'):
        Engine(toy_file, threads=65)
    with pytest.raises(ValueError, match='isa must be one of'):
        Engine(toy_file, isa='sse')(random_image(24, 36))
    with pytest.raises(ValueError, match='no kernel is named'):
        Engine(toy_file, kernel='fast')(random_image(24, 36))
    with pytest.raises(ValueError, match='image must be uint8'):
        Engine(toy_file)(np.zeros((24, 36, 3), np.float32))


def test_no_more_threads_run_than_there_are_cores(toy_file, monkeypatch):
    """Each thread has scratch of its own: its bytes tell how many there are."""
    image = random_image(24, 36)
    one, eight = Engine(toy_file), Engine(toy_file, threads=8)
    labels = one(image)
    monkeypatch.setenv('BFCN_CORES', '1')
    with pytest.warns(UserWarning, match='threads=8, but this process may use 1: 1 run'):
        capped = Engine(toy_file, threads=8)
    np.testing.assert_array_equal(capped(image), labels)
    assert capped.peak_bytes == one.peak_bytes
    monkeypatch.setenv('BFCN_CORES', '8')
    np.testing.assert_array_equal(eight(image), labels)
    assert eight.peak_bytes > one.peak_bytes


def test_logits_and_profile_are_of_the_latest_call_whenever_they_are_read(toy_file):
    engine, oracle = Engine(toy_file), load(toy_file)
    first, second = random_image(24, 36, 1), random_image(24, 36, 2)
    engine(first)
    kept = engine.logits
    engine(second)
    oracle(first)
    np.testing.assert_array_equal(kept, oracle.logits)
    oracle(second)
    np.testing.assert_array_equal(engine.logits, oracle.logits)
    assert engine.logits is engine.logits
    engine(first)
    for width in range(20, 25):  # more sessions than are kept: the one that ran is freed
        engine.ops(20, width)
    oracle(first)
    np.testing.assert_array_equal(engine.logits, oracle.logits)
    assert len(engine.profile) == len(oracle.model.graph.ops)


def test_weight_bytes_are_those_of_the_session(toy_file):
    engine = Engine(toy_file)
    weights = sum(
        term.weight.nbytes
        for op in load(toy_file).model.graph.ops
        for term in getattr(op, 'terms', ())
    )
    assert 0 < engine.weight_bytes(24, 36) < 64 * weights


@pytest.mark.parametrize(
    ('read', 'written'), [(8, None), (3, 4), (4, 3), (2, None)], ids=lambda bits: f'{bits} bits'
)
@pytest.mark.parametrize('isa', isas())
def test_small_maps_of_other_kinds_do_not_share_memory(tmp_path, read, written, isa):
    """A residual's map was overwritten while it was read: rounded up, both have as many bytes."""
    net = Builder(0, (8, 8))
    net.image_codes('pixels')
    net.conv('small', [net.term('pixels', 8, 3, stride=4)], read)
    net.conv('other', [net.term('pixels', 8, 3, stride=4)], 2)
    net.conv('sum', [net.term('other', 8)], written, residuals=('small',))
    if written is not None:
        net.conv('scores', [net.term('sum', 8)], None)
    net.add(ArgMax('labels', 'sum' if written is None else 'scores'))
    write(tmp_path / 'x.gguf', Model(net.graph()))
    engine = Engine(tmp_path / 'x.gguf', isa=isa)
    for size in ((1, 1), (8, 4), (4, 12), (8, 8)):
        image = random_image(*size)
        expected = reference.run(net.graph(), image)
        np.testing.assert_array_equal(engine(image), expected['labels'])
        np.testing.assert_array_equal(engine.logits, expected[net.graph().logits])
