"""The C runtime as an engine: bfcn.h through ctypes."""

import ctypes
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from bfcn_kernels.cpu.build import open_library
from bfcn_kernels.cpu.sessions import Sessions
from bfcn_kernels.files import read_bytes
from bfcn_kernels.gguf_container import FileError
from bfcn_kernels.image import check_image
from bfcn_kernels.lifecycle import Closable
from bfcn_kernels.limits import Limits, WorkError
from bfcn_kernels.values import GraphError

_KINDS = ('image', 'codes', 'scores', 'labels')
_FILE, _FORMAT, _GRAPH, _SHAPE, _MEMORY, _WORK = 2, 3, 4, 5, 6, 8  # bfcn_status
_MAX_THREADS = 64  # of session.h


class Options(ctypes.Structure):
    """bfcn_options."""

    _fields_ = [
        ('threads', ctypes.c_uint),
        ('isa', ctypes.c_char_p),
        ('kernel', ctypes.c_char_p),
        ('keep_values', ctypes.c_int),
        ('max_bytes', ctypes.c_size_t),
        ('max_ops', ctypes.c_uint64),
    ]


class OpInfo(ctypes.Structure):
    """bfcn_op_info."""

    _fields_ = [
        ('name', ctypes.c_char_p),
        ('op', ctypes.c_char_p),
        ('kernel', ctypes.c_char_p),
        ('kind', ctypes.c_int),
        ('height', ctypes.c_uint),
        ('width', ctypes.c_uint),
        ('channels', ctypes.c_uint),
        ('bits', ctypes.c_uint),
        ('macs', ctypes.c_uint64),
        ('seconds', ctypes.c_double),
    ]


@cache
def load_library() -> ctypes.CDLL:
    """The runtime, built if need be, with its prototypes declared."""
    lib = open_library()
    void, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    prototypes = {
        'bfcn_error': (text, []),
        'bfcn_isas': (text, []),
        'bfcn_cores': (ctypes.c_uint, []),
        'bfcn_status_text': (text, [ctypes.c_int]),
        'bfcn_model_load': (ctypes.c_int, [text, ctypes.POINTER(void)]),
        'bfcn_model_load_memory': (ctypes.c_int, [text, size, ctypes.POINTER(void)]),
        'bfcn_model_free': (None, [void]),
        'bfcn_model_bytes': (size, [void]),
        'bfcn_session_create': (
            ctypes.c_int,
            [void, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(Options), ctypes.POINTER(void)],
        ),
        'bfcn_session_free': (None, [void]),
        'bfcn_session_peak_bytes': (size, [void]),
        'bfcn_session_weight_bytes': (size, [void]),
        'bfcn_session_total_bytes': (size, [void]),
        'bfcn_session_run': (ctypes.c_int, [void, void, size, void]),
        'bfcn_session_ops': (size, [void]),
        'bfcn_session_op': (ctypes.c_int, [void, size, ctypes.POINTER(OpInfo)]),
        'bfcn_session_seconds': (ctypes.POINTER(ctypes.c_double), [void]),
        'bfcn_session_logits': (void, [void] + [ctypes.POINTER(ctypes.c_uint)] * 3),
        'bfcn_session_read': (ctypes.c_int, [void, size, void, size]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def isas() -> list[str]:
    """Instruction sets that the build and this CPU have, best first."""
    return load_library().bfcn_isas().decode().split()


class Engine(Closable):
    """A packed model on the CPU. Any number of threads may call it, and children of fork().

    Sessions are planned per image size; each runs one image at a time, and the latest few are kept. As
    many images run at once as the process has cores for their threads; further callers wait.

    threads: of one image, 1..64; of more than bfcn_cores(), those run and a warning says so. isa caps the
    instruction set, kernel forces one of kernels.inc where it serves; by default the environment's
    BFCN_ISA and BFCN_KERNEL, and without them the planner chooses. max_bytes and max_ops as in
    `bfcn_kernels.load`: a call that would pass max_bytes frees sessions that are not in use, then waits
    for those that are. A copy, and what is unpickled, opens the same file with the same options.
    Raises FileError or GraphError for a bad file, ValueError for a bad option; MemoryError or WorkError,
    also by calls, for what would pass a limit.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int = 1,
        isa: str | None = None,
        kernel: str | None = None,
        max_bytes: int | None = None,
        max_ops: int | None = None,
    ):
        super().__init__()
        self.limits = Limits(max_bytes, max_ops)
        self.limits.check_file(path)
        self._lib = load_library()
        self._model = ctypes.c_void_p()
        if not 1 <= threads <= _MAX_THREADS:
            raise ValueError(f'threads must be in 1..{_MAX_THREADS}, got {threads}')
        if threads > (cores := self._lib.bfcn_cores()):
            warnings.warn(f'threads={threads}, but this process may use {cores}: {cores} run')
        self.path, self._crc = os.path.abspath(path), zlib.crc32(read_bytes(path))
        status = self._lib.bfcn_model_load(os.fsencode(path), ctypes.byref(self._model))
        self._check(status, f'{path}: ')
        self.threads = threads
        self.isa = isa or os.environ.get('BFCN_ISA') or None
        self.kernel = kernel or os.environ.get('BFCN_KERNEL') or None
        most = max(1, cores // threads)
        self._sessions = Sessions(self._create, self._lib.bfcn_session_free, most)
        self._names: list[tuple[str, str]] = []  # of every op, with its kind

    def __del__(self):
        self._release()

    def _release(self) -> None:
        if hasattr(self, '_sessions'):
            self._sessions.free_all()
        if getattr(self, '_model', None):
            self._lib.bfcn_model_free(self._model)
        self._model = None

    def _after_fork(self) -> None:
        super()._after_fork()
        if hasattr(self, '_sessions'):
            self._sessions.after_fork()

    def __reduce__(self) -> tuple:
        self._check_open()
        options = {name: getattr(self, name) for name in ('threads', 'isa', 'kernel')}
        options |= {name: getattr(self.limits, name) for name in ('max_bytes', 'max_ops')}
        return _open_again, (type(self), self.path, options, self._crc)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Labels uint8 (h, w) of a uint8 RGB image (h, w, 3), or the last op's value."""
        with self._run(image, keep_values=False) as session:
            return self._read(session, self._lib.bfcn_session_ops(session) - 1)

    def trace(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Every value by op name: codes and labels uint8, scores float32."""
        with self._run(image, keep_values=True) as session:
            return {name: self._read(session, i) for i, (name, _) in enumerate(self._names)}

    def weight_bytes(self, height: int, width: int) -> int:
        """Of packed weights that an image size reads; sizes share them."""
        with self._session(height, width) as session:
            return self._lib.bfcn_session_weight_bytes(session)

    def total_bytes(self, height: int, width: int) -> int:
        """Of all that one call of an image size takes, the model included."""
        with self._session(height, width) as session:
            return self._lib.bfcn_session_total_bytes(session)

    @property
    def taken_bytes(self) -> int:
        """Of all that is allocated now, with every session that is kept: what max_bytes limits."""
        with self._call():
            return self._lib.bfcn_model_bytes(self._model)

    def ops(self, height: int, width: int) -> list[OpInfo]:
        """What is known of every op for an image size: kernel, shape, MACs, seconds of a session's
        last run."""
        with self._session(height, width) as session:
            return [self._info(session, i) for i in range(self._lib.bfcn_session_ops(session))]

    @contextmanager
    def _run(self, image: np.ndarray, keep_values: bool) -> Iterator[ctypes.c_void_p]:
        """A session that has run the image and is this call's alone until the block ends."""
        self._check_open()
        image = check_image(image)
        if image.strides[1:] != (3, 1) or image.strides[0] < 3 * image.shape[1]:
            image = np.ascontiguousarray(image)
        stride = max(image.strides[0], 3 * image.shape[1])
        with self._session(*image.shape[:2], keep_values) as session:
            run = self._lib.bfcn_session_run
            self._check(run(session, image.ctypes.data, stride, None))
            self._note(session)
            yield session

    @contextmanager
    def _session(
        self, height: int, width: int, keep_values: bool = False
    ) -> Iterator[ctypes.c_void_p]:
        with self._call(), self._sessions.lend((height, width, keep_values)) as session:
            yield session

    def _create(self, key: tuple[int, int, bool]) -> ctypes.c_void_p:
        height, width, keep_values = key
        session = ctypes.c_void_p()
        encoded = [text.encode() if text else None for text in (self.isa, self.kernel)]
        limits = (self.limits.max_bytes or 0, self.limits.max_ops or 0)
        options = Options(self.threads, *encoded, keep_values, *limits)
        create = self._lib.bfcn_session_create
        arguments = (height, width, ctypes.byref(options), ctypes.byref(session))
        self._check(create(self._model, *arguments))
        return session

    def _note(self, session: ctypes.c_void_p) -> None:
        """Copy the results of a run: the next thread that gets the session overwrites them."""
        latest, count = self._latest, self._lib.bfcn_session_ops(session)
        if not self._names:
            infos = [self._info(session, i) for i in range(count)]
            self._names = [(info.name.decode(), info.op.decode()) for info in infos]
        seconds = self._lib.bfcn_session_seconds(session)[:count]
        latest.profile = [(*op, time) for op, time in zip(self._names, seconds, strict=True)]
        latest.peak_bytes = self._lib.bfcn_session_peak_bytes(session)
        sides = [ctypes.c_uint() for _ in range(3)]
        data = self._lib.bfcn_session_logits(session, *map(ctypes.byref, sides))
        latest.logits = None
        if data:
            latest.logits = np.empty([side.value for side in sides], np.float32)
            ctypes.memmove(latest.logits.ctypes.data, data, latest.logits.nbytes)

    def _info(self, session: ctypes.c_void_p, index: int) -> OpInfo:
        info = OpInfo()
        self._check(self._lib.bfcn_session_op(session, index, ctypes.byref(info)))
        return info

    def _read(self, session: ctypes.c_void_p, index: int) -> np.ndarray:
        info = self._info(session, index)
        kind = _KINDS[info.kind]
        shape = (info.height, info.width) + (() if kind == 'labels' else (info.channels,))
        out = np.empty(shape, np.float32 if kind == 'scores' else np.uint8)
        self._check(self._lib.bfcn_session_read(session, index, out.ctypes.data, out.nbytes))
        return out

    def _check(self, status: int, where: str = '') -> None:
        if status == 0:
            return
        message = where + self._lib.bfcn_error().decode(errors='replace')
        kinds = {_FILE: FileError, _FORMAT: FileError, _GRAPH: GraphError, _SHAPE: GraphError}
        kinds |= {_MEMORY: MemoryError, _WORK: WorkError}
        raise kinds.get(status, ValueError)(message)


def _open_again(kind: type[Engine], path: str, options: dict, crc: int) -> Engine:
    """The engine that __reduce__ describes. Raises FileError if the file is another by now."""
    engine = kind(path, **options)
    if engine._crc != crc:
        engine.close()
        raise FileError(f'{path}: has changed since the engine that was copied was loaded')
    return engine
