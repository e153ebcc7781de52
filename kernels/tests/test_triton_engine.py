"""Whole networks in Triton's interpreter equal the oracle, bit for bit, on every value."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import triton

import bfcn_kernels
from bfcn_kernels import Graph, GraphError, Model, fast, ops, reference
from bfcn_kernels.builder import Builder, random_image
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.ops import BitConv, Term
from bfcn_kernels.testing import random_graph
from bfcn_kernels.triton import Engine, device, plan

ROOT = Path(bfcn_kernels.__file__).parents[1]


def oracle(graph: Graph, image: np.ndarray) -> dict[str, np.ndarray]:
    return reference.run(graph, image, fast.bit_conv_accumulate)


def assert_same(got: np.ndarray, expected: np.ndarray, name: str) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    if got.dtype == np.float32:
        got, expected = (np.ascontiguousarray(a).view(np.uint32) for a in (got, expected))
    np.testing.assert_array_equal(got, expected, err_msg=name)


def check(graph: Graph, image: np.ndarray) -> None:
    """Every value op by op; then the run with fused steps, in an arena that held the other."""
    engine, expected = Engine(graph), oracle(graph, image)
    trace = engine.trace(image)
    assert list(trace) == list(expected)
    for name, value in expected.items():
        assert_same(trace[name], value, name)
    assert_same(engine(image), expected[graph.output], 'output')
    assert_same(engine.logits, expected[graph.logits], 'logits')


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    bfcn_kernels.write(path, Model(toy()))
    return path


@pytest.mark.parametrize('shape', [(24, 36), (33, 17)])
def test_toy(shape):
    check(toy(), random_image(*shape))


@pytest.mark.parametrize('seed', range(5))
def test_random_graphs(seed):
    graph = random_graph(seed, length=6)
    check(graph, random_image(1, 1, seed))
    check(graph, random_image(9, 14, seed))


@pytest.mark.parametrize(('w', 'a'), [(1, 2), (4, 4)])
def test_residual_network(w, a):
    check(resnet_bfcn(18, w, a, classes=5, width=8), random_image(33, 40))


def around(op: ops.Op) -> Graph:
    """A graph in which `op` reads 33 channels of signed 3-bit codes x."""
    net = Builder(0, (12, 17))
    net.image_codes('pixels', zero_point=128)
    net.conv('x', [net.term('pixels', 33, 3, 8, 1)], 3, zero_point=2)
    net.conv('scores', [net.term(net.add(op), 5)], None)
    net.add(ops.ArgMax('labels', 'scores', 'align_corners'))
    return net.graph()


@pytest.mark.parametrize('size', [(1, 1), (5, 8)])
@pytest.mark.parametrize(
    'op',
    [
        ops.MaxPool('y', 'x', (2, 3), (2, 1), (1, 1), (2, 1), ceil=True),
        ops.AvgPool('y', 'x', (3, 3), (2, 2), 1.5, 2.0, 4, 1, (1, 1), False, False),
        ops.AvgPool('y', 'x', (3, 2), (1, 2), 0.75, 0.5, 8, 100, (1, 1), True, True),
        ops.AdaptiveAvgPool('y', 'x', (1, 1), 1.25, 0.5, 8, 3),
        ops.AdaptiveAvgPool('y', 'x', (6, 7), 1.25, 0.5, 1),
        ops.Resize('y', 'x', 'nearest', factor=(3, 2), bits=2),
        ops.Resize('y', 'x', 'bilinear', size=(9, 4), A=1.5, B=1.0, bits=5, zero_point=1),
        ops.Resize('y', 'x', 'align_corners', like='image', A=30.0, bits=8),
        ops.Concat('y', ('x', 'x', 'x')),
        ops.Table('y', 'x', np.arange(8, dtype=np.uint8)[::-1].copy(), 3),
    ],
    ids=lambda op: op.opname,
)
def test_op(op, size):
    check(around(op), random_image(*size))


def test_mask_of_more_classes_than_a_byte_counts():
    net = Builder(0, (12, 17))
    net.image_codes('pixels', zero_point=128)
    for name in ('up', 'fine'):
        net.conv(name, [net.term('pixels', 300)], None)
    net.add(ops.Mask('masked', 'up', 'fine', 1))
    check(net.graph(), random_image(6, 7))


def test_first_of_equal_scores_wins():
    """70 classes are two blocks of channels: 66 equals 3, and 3 comes first."""
    bias = np.zeros(70, np.float32)
    bias[[3, 66]] = 1
    term = Term('pixels', np.ones((70, 1, 1, 3), np.uint8), np.zeros(70, np.float32), 1)
    graph = Graph(
        (
            ops.ImageCodes('pixels', np.zeros((3, 256), np.uint8)),
            BitConv('scores', (term,), bias),
            ops.ArgMax('labels', 'scores'),
        )
    )
    np.testing.assert_array_equal(Engine(graph)(random_image(5, 6)), 3)


def test_interface(toy_file):
    """load() gives what every engine gives."""
    image = random_image(24, 36)
    engine, numpy_engine = (
        bfcn_kernels.load(toy_file, 'triton', threads=2),
        bfcn_kernels.load(toy_file),
    )
    assert_same(engine(image), numpy_engine(image), 'labels')
    assert_same(engine.logits, numpy_engine.logits, 'logits')
    names = [(op.name, op.opname) for op in toy().ops if op.name != 'halved']
    assert [entry[:2] for entry in engine.profile] == names
    assert all(seconds >= 0 for *_, seconds in engine.profile)
    assert 0 < engine.peak_bytes < 2 * toy().peak_bytes(24, 36)


def test_batches(toy_file):
    engine = bfcn_kernels.load(toy_file, 'triton')
    images = np.stack([random_image(10, 13, seed) for seed in range(3)])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # not contiguous
    names = {op.name for op in engine.graph.ops}
    maps = engine.run(batch, names)
    few = engine.run(batch, {'labels', 'sum'})
    for index in (0, 2):
        for name, value in oracle(engine.graph, images[index]).items():
            got = maps[name][index].numpy()
            assert_same(got if got.ndim == 2 else got.transpose(1, 2, 0), value, name)
    assert torch.equal(few['labels'], maps['labels'])
    assert torch.equal(few['sum'], maps['sum'])


def test_a_resize_that_one_add_reads_is_part_of_it(toy_file):
    engine = bfcn_kernels.load(toy_file, 'triton')
    engine(random_image(9, 9))
    assert 'halved' not in [name for name, *_ in engine.profile]
    engine.trace(random_image(9, 9))
    assert 'halved' in [name for name, *_ in engine.profile]


def test_images_that_are_none():
    engine = Engine(toy())
    with pytest.raises(ValueError, match=r'image must be uint8 \(h, w, 3\) RGB, got float32'):
        engine(np.zeros((9, 9, 3), np.float32))
    with pytest.raises(ValueError, match=r'images must be uint8 \(n, 3, h, w\) RGB, got .*int64'):
        engine.run(torch.zeros(1, 3, 9, 9, dtype=torch.int64), {'labels'})
    with pytest.raises(ValueError, match="the graph has no value named 'nothing'"):
        engine.run(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), {'nothing'})
    with pytest.raises(GraphError, match=r'image width must be an int in 1\.\.32768, got 40000'):
        engine(np.zeros((1, 40000, 3), np.uint8))


def test_more_than_kernels_can_count_is_refused(monkeypatch):
    monkeypatch.setattr(plan, 'MAX_NUMBERS', 5000)
    with pytest.raises(GraphError, match=r"layer 'image': .* 2 images are more than 5000"):
        Engine(toy()).run(torch.zeros(2, 3, 30, 30, dtype=torch.uint8), {'labels'})


def test_out_of_memory_is_one_line(monkeypatch):
    engine = Engine(toy())

    def empty(*args, **kwargs):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate ...')

    monkeypatch.setattr(plan.torch, 'empty', empty)
    with pytest.raises(
        RuntimeError, match=r'cpu has no room for \d+ bytes .*: run fewer or smaller'
    ):
        engine(random_image(9, 9))


def test_no_gpu_is_one_line(toy_file):
    """In a process of its own, without the interpreter."""
    code = f'import bfcn_kernels; bfcn_kernels.load({str(toy_file)!r}, engine="triton")'
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}
    environment |= {'TRITON_INTERPRET': '0', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "RuntimeError: engine 'triton' needs an NVIDIA GPU and torch sees none: use engine='cpu'"
    )


def test_wrong_devices_and_versions_are_one_line(monkeypatch):
    with pytest.raises(RuntimeError, match="runs on the CPU, got device 'cuda'"):
        Engine(toy(), device='cuda')
    monkeypatch.setattr(triton, '__version__', '2.1.0')
    with pytest.raises(
        RuntimeError, match=r'triton must be 3\.4 or later, got 2\.1\.0: pip install'
    ):
        device.check_triton()
    monkeypatch.setitem(sys.modules, 'triton', None)
    with pytest.raises(RuntimeError, match=r'needs the triton package, .* pip install triton'):
        device.check_triton()
    monkeypatch.setattr(device, 'INTERPRETED', False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(RuntimeError, match="runs on a cuda device, got 'cpu'"):
        device.pick_device('cpu')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla T4')
    with pytest.raises(RuntimeError, match=r'8\.0 or later, Tesla T4 has 7\.5'):
        device.pick_device()


def test_files_copies_and_ends_are_as_of_every_engine(tmp_path):
    with pytest.raises(bfcn_kernels.FileError, match=r'none\.gguf: No such file'):
        bfcn_kernels.load(tmp_path / 'none.gguf', 'triton')
    engine, image = Engine(small()), random_image(3, 5)
    labels = engine(image)
    with copy.copy(engine) as other:
        np.testing.assert_array_equal(other(image[:, ::-1][:, ::-1]), labels)
    for use in (lambda: other(image), lambda: other.trace(image), lambda: copy.copy(other)):
        with pytest.raises(RuntimeError, match='this engine is closed'):
            use()
    again = pickle.loads(pickle.dumps(engine))
    np.testing.assert_array_equal(again(image), engine(image))


def test_threads_share_an_engine():
    """In turns; each has the logits, the profile and the bytes of its own call."""
    graph, sizes = small(), [(3, 5), (4, 5), (3, 6), (6, 2), (5, 5), (2, 2)]
    engine, images = Engine(graph), [random_image(*size) for size in sizes]
    expected = [oracle(graph, image) for image in images]
    barrier = threading.Barrier(3)

    def work(first: int) -> None:
        for i in range(3):
            index = (first + i) % len(images)
            output = engine(images[index])
            barrier.wait()  # others ran the same plans before the logits are read
            engine.run(torch.from_numpy(images[0].transpose(2, 0, 1))[None], set())
            output = engine(images[index])
            barrier.wait()
            assert_same(output, expected[index][graph.output], 'output')
            assert_same(engine.logits, expected[index][graph.logits], 'logits')
            assert len(engine.profile) > 0 < engine.peak_bytes

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [0, 0, 4]))


def small() -> Graph:
    net = Builder(0, (6, 5))
    net.image_codes('pixels')
    net.conv('scores', [net.term('pixels', 3, bits=8, form=1)], None)
    net.add(ops.ArgMax('labels', 'scores', 'nearest'))
    return net.graph()
