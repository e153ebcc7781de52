"""PyTorch's integer mode against the oracle, on graphs that reach every op and corner."""

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch

from bfcn_kernels import FileError, load, nets
from bfcn_kernels.builder import random_image
from bfcn_kernels.testing import random_graph
from bfcn_mm.export import TorchEngine, verify
from bfcn_mm.export.plain_sums import plain_sums

DEVICES = [
    'cpu',
    pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')),
]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('seed', range(12))
def test_equals_the_oracle_on_every_map(seed, device):
    graph = random_graph(seed)
    for size in ((1, 1), (23, 34)):
        image = random_image(*size, seed)
        difference = verify.first_difference(
            graph, verify.oracle(graph, image), TorchEngine(graph, device).trace(image)
        )
        assert difference is None, difference


@pytest.mark.parametrize('device', DEVICES)
def test_a_batch_is_its_images(device):
    graph = nets.toy()
    engine = TorchEngine(graph, device)
    images = [random_image(24, 36, seed) for seed in range(3)]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    logits = engine.run(batch, {graph.logits})[graph.logits].cpu().permute(0, 2, 3, 1).numpy()
    for image, ours in zip(images, logits, strict=True):
        engine(image)
        np.testing.assert_array_equal(engine.logits, ours)


def test_what_an_engine_offers():
    engine = TorchEngine(nets.toy(), 'cpu')
    labels = engine(random_image(24, 36))
    assert (labels.shape, labels.dtype) == ((24, 36), np.uint8)
    assert engine.peak_bytes > 0
    assert [row[0] for row in engine.profile] == [op.name for op in engine.graph.ops]


def test_only_pixels_are_taken():
    with pytest.raises(ValueError, match=r'must be uint8 \(n, 3, h, w\)'):
        TorchEngine(nets.toy(), 'cpu').run(torch.zeros(1, 3, 8, 8), set())


@pytest.mark.filterwarnings('error')
def test_images_are_taken_as_by_every_engine():
    """Read-only arrays without torch's warning, one row upside down, PIL in RGB."""
    engine, image = TorchEngine(nets.toy(), 'cpu'), random_image(24, 36)
    read_only = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
    for view in (read_only, image[7:8][::-1], image[:, 7:8][:, ::-1], image[::-1, ::2]):
        np.testing.assert_array_equal(engine(view), engine(view.copy()))
    pillow = pytest.importorskip('PIL.Image')
    np.testing.assert_array_equal(engine(pillow.fromarray(image)), engine(image))
    with pytest.raises(ValueError, match="PIL image of mode 'L'"):
        engine(pillow.fromarray(image).convert('L'))


def test_files_that_are_no_models_are_named_as_by_every_engine(tmp_path):
    (tmp_path / 'empty.gguf').touch()
    os.mkfifo(tmp_path / 'pipe.gguf')
    for path in (tmp_path / 'none.gguf', tmp_path, tmp_path / 'pipe.gguf', tmp_path / 'empty.gguf'):
        said = []
        for make in (TorchEngine, partial(load, engine='cpu'), partial(load, engine='numpy')):
            with pytest.raises(FileError) as error:
                make(path)
            said.append((type(error.value), str(error.value)))
        assert len(set(said)) == 1
        assert str(path) in said[0][1]


def test_an_engine_is_copied_pickled_and_closed():
    engine, image = TorchEngine(nets.toy(), 'cpu'), random_image(24, 36)
    labels = engine(image)
    for make in (copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))):
        with make(engine) as other:
            np.testing.assert_array_equal(other(image), labels)
        with pytest.raises(RuntimeError, match='this engine is closed'):
            other(image)
        np.testing.assert_array_equal(engine(image), labels)


def test_backend_flags_are_given_back():
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    TorchEngine(nets.toy(), 'cpu')(random_image(24, 36))
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before


def test_threads_share_an_engine_and_the_flags_of_torch():
    """The last thread that runs gives the flags back; until then no convolution is other than a sum."""
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    assert before == (True, True)
    graph = random_graph(3)
    engine = TorchEngine(graph, 'cpu')
    images = [random_image(*size) for size in ((24, 36), (9, 12), (23, 34), (17, 40))]
    expected = [verify.oracle(graph, image) for image in images]

    def work(first: int) -> bool:
        right = True
        for i in range(12):
            index = (first + i) % len(images)
            output = engine(images[index])
            right &= np.array_equal(output, expected[index][graph.output])
            right &= np.array_equal(engine.logits, expected[index][graph.logits])
        return right

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before


def test_the_last_thread_gives_the_flags_back():
    with plain_sums:
        other = ExitStack()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.enter_context, plain_sums).result()
            assert not torch.backends.mkldnn.enabled
            pool.submit(other.close).result()
        assert not torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_child_has_the_flags_that_a_thread_of_its_parent_would_have_given_back():
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with plain_sums:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        os._exit(0 if torch.backends.mkldnn.enabled else 1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
