"""One call, every engine: load a packed model and run it on images."""

import time
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from bfcn_kernels import fast, gguf_io, reference, zoo
from bfcn_kernels.lifecycle import Closable
from bfcn_kernels.limits import READING, Limits

_MODULES = {'cpu': 'bfcn_kernels.cpu', 'triton': 'bfcn_kernels.triton'}


class Engine(Protocol):
    """What every engine offers. Several threads may call one engine; logits, profile and peak_bytes
    report the latest call of the thread that reads them."""

    logits: np.ndarray  # float32 (h, w, classes), at the head's resolution
    profile: list[tuple[str, str, float]]  # op's name, 'bit_conv' etc., seconds
    peak_bytes: int  # of activations

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The output for a uint8 RGB image (h, w, 3): labels uint8 (h, w)."""

    def trace(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Every value by op name: codes and labels uint8, scores float32, (h, w, channels)."""

    def close(self) -> None:
        """Free the model when calls in other threads have ended; so does the end of
        `with load(...) as engine:`. Engines can be copied and pickled; a copy is an engine of its own."""


def load(
    path: str | Path,
    engine: str = 'numpy',
    threads: int = 1,
    one_bit: bool = False,
    max_bytes: int | None = None,
    max_ops: int | None = None,
) -> Engine:
    """Load a packed model into an engine: 'numpy' (the oracle), 'cpu' (C) or 'triton' (GPU).

    path: of a file, or a name of the zoo: load('bfcn_r18_camvid_1w2a'). one_bit: with 'triton', layers of
    few bits run on one-bit tensor cores. max_bytes: of all that the file can make the engine allocate,
    weights included; None: half of the memory that is free. max_ops: operations an image may take
    (docs/format.md counts them); None: 2**44.

    Raises ValueError for an unknown engine, limit, thread count or name; FileError for a file that is
    missing or is no packed model, GraphError for a bad graph in it; MemoryError, here and by the engine's
    calls, for more than max_bytes, WorkError for more than max_ops.
    """
    if engine not in ('numpy', *_MODULES):
        raise ValueError(f"engine must be 'numpy', 'cpu' or 'triton', got {engine!r}")
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f'threads must be an int from 1, got {threads!r}')
    if one_bit and engine != 'triton':
        raise ValueError(f"one_bit=True is for engine='triton', got engine={engine!r}")
    path = zoo.resolve(path)
    options = {'max_bytes': max_bytes, 'max_ops': max_ops, 'one_bit': one_bit or None}
    options = {name: value for name, value in options.items() if value is not None}
    if engine == 'numpy':
        return NumpyEngine(path, **options)
    return import_module(_MODULES[engine]).Engine(path, threads=threads, **options)


class NumpyEngine(Closable):
    """The oracle as an engine; its convolutions are exact matrix products (`fast`)."""

    def __init__(self, path: str | Path, max_bytes: int | None = None, max_ops: int | None = None):
        super().__init__()
        self.limits = Limits(max_bytes, max_ops)
        self.limits.check_file(path, times=READING)
        self.model = gguf_io.read(path)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        with self._call():
            return self._run(image)[self.model.graph.output]

    def trace(self, image: np.ndarray) -> dict[str, np.ndarray]:
        with self._call():
            return self._run(image, keep_all=True)

    def _release(self) -> None:
        self.model = None

    def _run(self, image: np.ndarray, keep_all: bool = False) -> dict[str, np.ndarray]:
        graph, maps, last = self.model.graph, {}, self.model.graph.last_reads()
        self.limits.check_image(graph, *reference.check_image(image).shape[:2])
        keep = {graph.output, graph.logits}
        live, peak, profile = {}, 0, []
        start = time.perf_counter()
        for index, (name, array) in enumerate(
            reference.steps(graph, image, fast.bit_conv_accumulate)
        ):
            elapsed = time.perf_counter() - start
            profile.append((name, graph.ops[index].opname, elapsed))
            live[name] = array.nbytes
            peak = max(peak, sum(live.values()))
            live = {key: size for key, size in live.items() if last[key] > index}
            if keep_all or name in keep:
                maps[name] = array
            start = time.perf_counter()
        latest = self._latest
        latest.logits, latest.profile, latest.peak_bytes = maps[graph.logits], profile, peak
        return maps
