"""How engines are shared by threads and processes, and how they end."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_engines: weakref.WeakSet = weakref.WeakSet()  # whose locks a child of fork() replaces


class _Latest(threading.local):
    """What an engine reports of a thread's latest call."""

    logits: np.ndarray | None = None
    profile: list[tuple[str, str, float]] = []
    peak_bytes = 0
    report: object | None = None  # of an engine that copies them only when they are read


class Closable:
    """An engine that several threads may call, and whose memory can be given back by close().

    logits, profile and peak_bytes belong to the thread that made the call. They can still be read when
    the engine is closed; all else raises RuntimeError.
    """

    def __init__(self):
        self.closed = False
        self._latest = _Latest()
        self._changed = threading.Condition()
        self._callers: list[int] = []  # threads that are in a call
        _engines.add(self)

    @property
    def logits(self) -> np.ndarray | None:
        """Scores float32 (h, w, classes) of this thread's latest call, at the head's resolution."""
        return self._latest.logits

    @property
    def profile(self) -> list[tuple[str, str, float]]:
        """(op's name, 'bit_conv' etc., seconds) of this thread's latest call."""
        return self._latest.profile

    @property
    def peak_bytes(self) -> int:
        """Most bytes of activations at once in this thread's latest call."""
        return self._latest.peak_bytes

    def close(self) -> None:
        """Free the model and what was planned for it, once calls in other threads have ended.

        New calls raise RuntimeError from now on. Closing again does nothing.
        """
        with self._changed:
            if threading.get_ident() in self._callers:
                raise RuntimeError('an engine cannot be closed from inside one of its own calls')
            ours = not self.closed
            self.closed = True
            self._changed.wait_for(lambda: not self._callers)
        if ours:
            self._release()

    def _release(self) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError('this engine is closed: load the model again')

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call, for whose end close() waits. Raises RuntimeError if the engine is closed."""
        with self._changed:
            self._check_open()
            self._callers.append(threading.get_ident())
        try:
            yield
        finally:
            with self._changed:
                self._callers.remove(threading.get_ident())
                self._changed.notify_all()

    def _after_fork(self) -> None:
        """In a child: locks may be held by threads that are not there, and these end no call."""
        self._changed = threading.Condition()
        self._callers = [caller for caller in self._callers if caller == threading.get_ident()]

    def __getstate__(self) -> dict:
        self._check_open()
        own = ('_latest', '_changed', '_callers')
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict) -> None:
        Closable.__init__(self)
        self.__dict__.update(state)

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _after_fork() -> None:
    for engine in list(_engines):
        engine._after_fork()


if hasattr(os, 'register_at_fork'):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
