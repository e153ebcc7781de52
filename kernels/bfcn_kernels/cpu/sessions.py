"""Sessions of one model: each is lent to one call at a time, and kept for the next of its size."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KEPT = 4  # sessions beyond those that can run at once


@dataclass(eq=False)
class _Lent:
    key: Hashable
    session: object  # None while it is being created
    thread: int


class Sessions:
    """create(key) makes a session, free(session) ends one; most: sessions that run at once.

    Callers beyond `most` wait. An idle session is freed, the one unused for longest first, where there
    would be more than most + KEPT, and where create raises MemoryError; a session in use never is.
    """

    def __init__(
        self,
        create: Callable[[Hashable], object],
        free: Callable[[object], None],
        most: int,
    ):
        self._create, self._free, self._most = create, free, most
        self._changed = threading.Condition()
        self._idle: list[tuple[Hashable, object]] = []  # the latest used last
        self._lent: list[_Lent] = []
        self._frees = 0  # sessions freed so far

    @contextmanager
    def lend(self, key: Hashable) -> Iterator[object]:
        """A session of this key, for as long as the block runs. Raises what create raises."""
        lent = self._take(key)
        try:
            yield lent.session
        finally:
            with self._changed:
                self._idle.append((key, lent.session))
                self._remove(lent)

    def free_all(self) -> None:
        """Free every idle session; none must be lent."""
        while self._idle:
            self._free_oldest()

    def after_fork(self) -> None:
        """In a child of fork(): what other threads had borrowed is idle, since they are not there."""
        self._changed = threading.Condition()
        gone = [lent for lent in self._lent if lent.thread != threading.get_ident()]
        self._lent = [lent for lent in self._lent if lent not in gone]
        self._idle += [(lent.key, lent.session) for lent in gone if lent.session is not None]

    def _take(self, key: Hashable) -> _Lent:
        lent = _Lent(key, None, threading.get_ident())
        with self._changed:
            self._add(lent)
            lent.session = self._take_idle(key)
            while lent.session is None and len(self._idle) + len(self._lent) > self._most + KEPT:
                self._free_oldest()
        try:
            while lent.session is None:
                self._make(lent)
        except BaseException:
            with self._changed:
                self._remove(lent)
            raise
        return lent

    def _add(self, lent: _Lent) -> None:
        self._changed.wait_for(lambda: len(self._lent) < self._most)
        self._lent.append(lent)

    def _remove(self, lent: _Lent) -> None:
        self._lent.remove(lent)
        self._changed.notify_all()

    def _take_idle(self, key: Hashable) -> object | None:
        for index in reversed(range(len(self._idle))):
            if self._idle[index][0] == key:
                return self._idle.pop(index)[1]
        return None

    def _make(self, lent: _Lent) -> None:
        """Create its session; where memory lacks, free an idle one or wait for those in use."""
        frees = self._frees
        try:
            lent.session = self._create(lent.key)
        except MemoryError:
            with self._changed:
                if self._idle:
                    self._free_oldest()
                elif len(self._lent) > 1:
                    self._wait(lent)
                elif frees == self._frees:
                    raise

    def _wait(self, lent: _Lent) -> None:
        """Give the turn to others until one of them changes something."""
        self._remove(lent)
        self._changed.wait()
        self._add(lent)

    def _free_oldest(self) -> None:
        self._frees += 1
        self._free(self._idle.pop(0)[1])
