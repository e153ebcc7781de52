"""Limits: what a file may take is known before it is taken, and counted alike by every engine."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from bfcn_kernels import Model, WorkError, limits, load, write
from bfcn_kernels.builder import Builder, random_image
from bfcn_kernels.cpu import Engine
from bfcn_kernels.limits import Limits, map_bytes, operations
from bfcn_kernels.nets import toy
from bfcn_kernels.testing import random_graph

sys.path.insert(0, str(Path(__file__).parent))
from packed_file import every_op

SIZES = [(8, 8), (33, 17), (60, 90)]


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    write(path, Model(toy()))
    return path


@pytest.mark.parametrize('engine', ['numpy', 'cpu'])
def test_every_engine_counts_the_same_operations(tmp_path, engine):
    """One less than an image takes is refused, in both, and what it takes is not."""
    paths = [tmp_path / f'{seed}.gguf' for seed in range(3)]
    for seed, path in enumerate(paths):
        write(path, Model(random_graph(seed)))
    (tmp_path / 'ops.gguf').write_bytes(every_op().bytes())
    for path in [*paths, tmp_path / 'ops.gguf']:
        graph = load(path).model.graph
        for height, width in SIZES[:2]:
            total = sum(operations(graph, height, width).values())
            image = random_image(height, width)
            with pytest.raises(
                WorkError, match=rf'at least {total} operations, max_ops is {total - 1}:'
            ):
                load(path, engine, max_ops=total - 1)(image)
            load(path, engine, max_ops=total)(image)


def test_operations_are_those_of_the_page():
    """A product counts 1, another step 64: 3 x 3 x 4 products and a residual are 36 + 2 * 64."""
    net = Builder(0, (6, 5))
    net.image_codes('pixels')
    net.conv('a', [net.term('pixels', 4, 3)], 2)
    net.conv('b', [net.term('a', 4, 3)], 2, ('a',))
    net.conv('scores', [net.term('b', 2)], None)
    counts = operations(net.graph(), 6, 5)
    assert counts == {'pixels': 64 * 90, 'a': 120 * 91, 'b': 120 * 164, 'scores': 60 * 68}


@pytest.mark.parametrize('seed', range(6))
def test_what_numpy_takes_is_no_more_than_was_counted(tmp_path, seed):
    write(tmp_path / 'm.gguf', Model(random_graph(seed)))
    engine = load(tmp_path / 'm.gguf')
    for height, width in SIZES:
        image = random_image(height, width)
        engine(image)
        tracemalloc.start()
        engine(image)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < map_bytes(engine.model.graph, height, width) + 200_000


def test_c_counts_activations_weights_and_the_model(toy_file):
    engine = Engine(toy_file)
    total = engine.total_bytes(24, 36)
    engine(random_image(24, 36))
    assert total > engine.peak_bytes + engine.weight_bytes(24, 36) + toy_file.stat().st_size
    assert Engine(toy_file, max_bytes=total)(random_image(24, 36)).shape == (24, 36)
    with pytest.raises(
        MemoryError, match=rf'takes at least {total} bytes .* max_bytes is {total - 1}:'
    ):
        Engine(toy_file, max_bytes=total - 1)(random_image(24, 36))
    with pytest.raises(
        MemoryError, match=r'\(maps and scratch \d+, weights .* take a smaller image'
    ):
        Engine(toy_file, max_ops=2**60).ops(32768, 32768)


def test_weights_count_though_maps_are_small(tmp_path):
    """Depthwise: a filter's word of 9 bits becomes bytes, or 16 bits each, of every lane of its block."""
    net = Builder(0, (8, 8))
    net.image_codes('pixels')
    net.conv('wide', [net.term('pixels', 4096)], 2)
    net.conv('depth', [net.term('wide', 4096, 3, groups=4096)], 2)
    net.conv('scores', [net.term('depth', 2)], None)
    path = tmp_path / 'm.gguf'
    write(path, Model(net.graph()))
    engine = Engine(path)
    weights = engine.weight_bytes(8, 8)
    engine(random_image(8, 8))
    assert weights > engine.peak_bytes
    with pytest.raises(MemoryError, match=rf'weights {weights}'):
        Engine(path, max_bytes=weights).ops(8, 8)


@pytest.mark.parametrize('engine', ['numpy', 'cpu'])
def test_a_file_larger_than_the_limit_is_not_read(toy_file, engine):
    with pytest.raises(
        MemoryError, match=r'toy\.gguf: reading the file takes .* max_bytes is 20000'
    ):
        load(toy_file, engine, max_bytes=20000)


def test_by_default_half_of_the_free_memory_is_the_limit(toy_file, monkeypatch):
    engine = load(toy_file)
    needed = map_bytes(engine.model.graph, 24, 36) + limits.weight_bytes(engine.model.graph)
    monkeypatch.setattr(limits, 'free_bytes', lambda: 2 * needed)
    engine(random_image(24, 36))
    monkeypatch.setattr(limits, 'free_bytes', lambda: 2 * needed - 2)
    with pytest.raises(
        MemoryError, match=rf'24 x 36: up to {needed} bytes, max_bytes is {needed - 1}'
    ):
        engine(random_image(24, 36))


def test_free_memory_is_that_of_the_machine_or_its_container(monkeypatch, tmp_path):
    assert 1 << 20 < limits.free_bytes() < 1 << 50
    files = {
        '/proc/meminfo': 'MemTotal: 9000000 kB\nMemAvailable:    5000000 kB\n',
        '/sys/fs/cgroup/memory.max': '2000000000\n',
        '/sys/fs/cgroup/memory.current': '1500000000\n',
        '/sys/fs/cgroup/memory.stat': 'anon 7\ninactive_file 100000000\nactive_file 50000000\n',
    }

    def read_text(self):
        if str(self) not in files:
            raise FileNotFoundError(str(self))
        return files[str(self)]

    monkeypatch.setattr(Path, 'read_text', read_text)
    assert limits.free_bytes() == 650_000_000
    files['/sys/fs/cgroup/memory.max'] = 'max\n'
    assert limits.free_bytes() == 5_000_000 * 1024


def test_one_changed_word_cannot_run_for_ever(tmp_path):
    """A 4 kB file: a resize to 32768 x 32768, or a pool over everything at every pixel."""
    file = every_op()
    file.ops['spread'][8:11] = [1, 32768, 32768]
    (tmp_path / 'm.gguf').write_bytes(file.bytes())
    for engine in ('numpy', 'cpu'):
        with pytest.raises((MemoryError, WorkError, ValueError)):
            load(tmp_path / 'm.gguf', engine)(random_image(8, 8))


@pytest.mark.parametrize('value', [0, -1, 1.5, True, 2**63, '1'])
def test_limits_are_whole_numbers_from_1(toy_file, value):
    for name in ('max_bytes', 'max_ops'):
        with pytest.raises(ValueError, match=f'{name} must be None or an int in'):
            Limits(**{name: value})
        with pytest.raises(ValueError, match=f'{name} must be None or an int in'):
            load(toy_file, 'cpu', **{name: value})
