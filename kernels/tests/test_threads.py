"""One engine, many callers: threads, forked children, and a close() while images are running."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bfcn_kernels import Model, load, write
from bfcn_kernels.builder import random_image
from bfcn_kernels.cpu import Engine
from bfcn_kernels.cpu.sessions import KEPT, Sessions
from bfcn_kernels.nets import toy

SIZES = [
    (9, 12),
    (10, 12),
    (9, 15),
    (17, 8),
    (12, 12),
    (13, 21),
]  # more than are kept with one core
THREADS, IMAGES = 8, 1000
DEADLINE = 60  # seconds until a child counts as hanging


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    write(path, Model(toy()))
    return path


def results(engine, images: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(engine(image), engine.logits) for image in images]


def same(got: list, expected: list) -> bool:
    pairs = zip(got, expected, strict=True)
    return all(
        np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(('name', 'count'), [('cpu', IMAGES), ('numpy', 12)])
@pytest.mark.parametrize('cores', ['1', '8'])
def test_eight_threads_on_one_engine_give_what_one_thread_gives(
    tiny_file, name, count, cores, monkeypatch
):
    monkeypatch.setenv('BFCN_CORES', cores)
    images = [random_image(*size, seed) for seed, size in enumerate(SIZES)]
    expected = results(load(tiny_file), images)
    engine = load(tiny_file, name)

    def work(first: int) -> bool:
        order = [(first + i) % len(SIZES) for i in range(count)]
        got = results(engine, [images[i] for i in order])
        return same(got, [expected[i] for i in order])

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


@pytest.mark.parametrize('name', ['numpy', 'cpu'])
def test_what_an_engine_reports_is_of_the_callers_own_call(toy_file, name):
    engine = load(toy_file, name)
    engine(random_image(24, 36))
    logits, peak = engine.logits, engine.peak_bytes
    with ThreadPoolExecutor(1) as other:
        assert other.submit(lambda: (engine.logits, engine.profile)).result() == (None, [])
        other.submit(engine, random_image(40, 50)).result()
        assert other.submit(lambda: engine.peak_bytes).result() > peak
    assert engine.logits is logits
    assert engine.peak_bytes == peak


class Memory:
    """Sessions as numbers; of `room` there are so many at most."""

    def __init__(self, room: int = 1000):
        self.room, self.made, self.live, self.most = room, 0, set(), 0

    def create(self, key: object) -> int:
        if len(self.live) >= self.room:
            raise MemoryError('no room')
        self.made += 1
        self.live.add(self.made)
        self.most = max(self.most, len(self.live))
        return self.made

    def free(self, session: int) -> None:
        self.live.remove(session)


def test_a_session_is_kept_for_its_size_and_the_oldest_idle_one_goes():
    memory = Memory()
    sessions = Sessions(memory.create, memory.free, most=1)
    for key in (1, 2, 3, 1, 4, 5):
        with sessions.lend(key):
            pass
    assert (memory.made, len(memory.live)) == (KEPT + 1, KEPT + 1)
    with sessions.lend(6):
        assert memory.live == {1, 3, 4, 5, 6}
    sessions.free_all()
    assert not memory.live


def test_a_session_in_use_is_not_freed_nor_lent_twice():
    memory = Memory()
    sessions = Sessions(memory.create, memory.free, most=12)
    used, wrong, lock = set(), [], threading.Lock()

    def work(thread: int) -> None:
        for i in range(300):
            with sessions.lend((thread + i) % 20) as session:
                with lock:
                    wrong.extend([session] if session in used else [])
                    used.add(session)
                if i % 50 == 0:
                    time.sleep(0.001)
                with lock:
                    wrong.extend([] if session in memory.live else [session])
                    used.discard(session)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert not wrong
    assert memory.most <= 12 + KEPT


def test_no_more_sessions_run_at_once_than_there_are_cores_for():
    sessions = Sessions(Memory().create, lambda session: None, most=2)
    running, most, lock = 0, 0, threading.Lock()

    def work(key: int) -> None:
        nonlocal running, most
        with sessions.lend(key):
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.002)
            with lock:
                running -= 1

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(40)))
    assert most == 2


@pytest.mark.parametrize('room', [1, 2, 3])
def test_callers_wait_where_memory_lacks(room):
    memory = Memory(room)
    sessions = Sessions(memory.create, memory.free, most=THREADS)

    def work(thread: int) -> None:
        for i in range(100):
            with sessions.lend((thread * i) % 5):
                pass

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert memory.most == room
    memory.room = 0
    sessions.free_all()
    with pytest.raises(MemoryError, match='no room'), sessions.lend(1):
        pass
    memory.room = 1
    with sessions.lend(1):
        pass


def test_max_bytes_is_of_all_sessions_of_an_engine(toy_file, monkeypatch):
    monkeypatch.setenv('BFCN_CORES', '8')
    sizes = [(24, 36), (40, 50), (33, 17)]
    limit = max(Engine(toy_file).total_bytes(*size) for size in sizes)
    engine = Engine(toy_file, max_bytes=limit)
    images = [random_image(*size) for size in sizes]
    expected = results(load(toy_file), images)
    taken = []

    def work(first: int) -> bool:
        right = True
        for i in range(20):
            index = (first + i) % len(sizes)
            right &= same(results(engine, [images[index]]), [expected[index]])
            taken.append(engine.taken_bytes)
        return right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert max(taken) <= limit


def test_a_further_size_adds_its_activations_alone(toy_file):
    engine = Engine(toy_file)
    engine(random_image(24, 36))
    one = engine.taken_bytes
    engine(random_image(25, 37))
    added = engine.taken_bytes - one
    assert engine.peak_bytes < added < engine.peak_bytes + 60_000
    assert added < engine.weight_bytes(24, 36) + engine.peak_bytes


@pytest.mark.parametrize('name', ['numpy', 'cpu'])
def test_close_waits_for_calls_in_other_threads(toy_file, name):
    image = random_image(60, 90)
    expected = load(toy_file)(image)
    for _ in range(5):
        engine, started, outcomes = load(toy_file, name), threading.Barrier(4), []

        def work(engine=engine, started=started, outcomes=outcomes) -> None:
            started.wait()
            while True:
                try:
                    outcomes.append(np.array_equal(engine(image), expected))
                except Exception as error:
                    outcomes.append(str(error))
                    return

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        time.sleep(0.01)
        engine.close()
        for thread in threads:
            thread.join()
        assert set(outcomes) <= {True, 'this engine is closed: load the model again'}
        assert outcomes.count('this engine is closed: load the model again') == 3


def test_an_engine_is_not_closed_by_its_own_call(toy_file, monkeypatch):
    """As a signal handler may try."""
    engine = load(toy_file, 'cpu')
    monkeypatch.setattr(engine, '_note', lambda session: engine.close())
    with pytest.raises(RuntimeError, match='cannot be closed from inside'):
        engine(random_image(8, 8))
    monkeypatch.undo()
    assert engine(random_image(8, 8)).shape == (8, 8)


def in_child(check: Callable[[], bool]) -> int:
    """The exit status of a child in which check() runs: 0 if it holds, -9 if it hangs."""
    child = os.fork()
    if not child:
        status = 3
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize('threads', [1, 2, 4])
@pytest.mark.parametrize('used', [False, True])
def test_a_forked_child_uses_the_engine_of_its_parent(toy_file, threads, used, monkeypatch):
    monkeypatch.setenv('BFCN_CORES', '8')
    images = [random_image(24, 36), random_image(25, 37)]
    expected = results(load(toy_file), images)
    engine = Engine(toy_file, threads=threads)

    def runs() -> bool:
        return same(results(engine, images), expected)

    def closes() -> bool:
        engine.close()
        return engine.closed

    if used:
        engine(images[0])
    assert in_child(runs) == 0
    assert in_child(closes) == 0
    assert in_child(lambda: in_child(runs) == 0 and runs() and closes()) == 0
    assert runs()


@pytest.mark.parametrize('name', ['cpu', 'numpy'])
def test_children_forked_while_other_threads_run_images(toy_file, name, monkeypatch):
    """Locks that these threads hold, and sessions that they have, are free in the child."""
    monkeypatch.setenv('BFCN_CORES', '2')
    options = {'threads': 2} if name == 'cpu' else {}
    engine, stop = load(toy_file, name, **options), threading.Event()
    images = [random_image(24, 36), random_image(25, 37), random_image(9, 9)]
    expected = results(load(toy_file), images)
    wrong = []

    def work(first: int) -> None:
        while not stop.is_set():
            order = [(first + i) % len(images) for i in range(len(images))]
            if not same(results(engine, [images[i] for i in order]), [expected[i] for i in order]):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()

    def check() -> bool:
        right = same(results(engine, images), expected)
        engine.close()
        return right

    try:
        statuses = [in_child(check) for _ in range(10)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 10
    assert not wrong


def test_pools_of_forked_workers_run_a_warm_engine(toy_file, monkeypatch):
    """multiprocessing with 'fork', as data loaders and servers that load before they fork."""
    import multiprocessing

    monkeypatch.setenv('BFCN_CORES', '4')
    global _shared
    _shared = Engine(toy_file, threads=2)
    images = [random_image(24, 36, seed) for seed in range(6)]
    expected = [_shared(image) for image in images]
    with multiprocessing.get_context('fork').Pool(2) as pool:
        got = pool.map_async(_call_shared, images).get(timeout=DEADLINE)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


_shared: Engine | None = None


def _call_shared(image: np.ndarray) -> np.ndarray:
    return _shared(image)
