"""One line that says where a study is: the run, its iterations, and how long all will take."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .carry_out import Job

TRAINING = re.compile(
    r'Iter\(train\) +\[ *(?P<done>\d+)/(?P<total>\d+)\].*  time: (?P<each>[\d.]+).* loss: (?P<loss>\S+)'
)
EVERY = 60  # seconds between two lines where the output is no terminal


class Progress:
    """Written over on a terminal; elsewhere a line a minute, and one at each end of a run."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._said = 0.0
        self._seconds: float | None = None  # of an iteration, lately
        self._jobs: list[Job] = []
        self._done: set[Job] = set()
        self._now: Job | None = None

    def plan(self, jobs: Sequence[Job], done: Sequence[Job]) -> None:
        self._jobs, self._done = list(jobs), set(done)
        if done:
            self._line(f'{len(done)} of {len(jobs)} runs are done already')

    def start(self, job: Job, what: str) -> None:
        self._now = job
        self._say(f'{self._where(job)} {what}', at_once=True)

    def show(self, line: str) -> None:
        """Take a line of mmengine's log; most say nothing about progress."""
        match = TRAINING.search(line)
        if match is None or self._now is None:
            return
        done, total = int(match['done']), int(match['total'])
        self._seconds = float(match['each'])
        left = clock(self._seconds * self._left(total - done))
        self._say(
            f'{self._where(self._now)} {done}/{total}, loss {float(match["loss"]):.2f}, {left} left'
        )

    def done(self, job: Job, row: Mapping) -> None:
        self._done.add(job)
        packed = row.get('miou_packed')
        packed = '' if packed is None else f', packed {packed:.2f}'
        self._line(f'{self._where(job)} mIoU {row["miou"]:.2f}{packed}')

    def wait(self, job: Job) -> None:
        self._say(f'{job.label}: in the hands of another process')

    def close(self) -> None:
        if self._terminal:
            print(flush=True)

    def _where(self, job: Job) -> str:
        return f'[{len(self._done)}/{len(self._jobs)}] {job.label}:'

    def _left(self, of_this: int) -> float:
        """Iterations still to do, this run's and the later ones'."""
        later = [job for job in self._jobs if job not in self._done and job != self._now]
        return of_this + sum(job.run.iters for job in later)

    def _line(self, text: str) -> None:
        print(f'\r{text:<78}' if self._terminal else text, flush=True)
        self._said = time.monotonic()

    def _say(self, text: str, at_once: bool = False) -> None:
        if self._terminal:
            print(f'\r{text:<78}', end='', flush=True)
        elif at_once or time.monotonic() - self._said > EVERY:
            self._line(text)


def clock(seconds: float) -> str:
    """1:05 for an hour and five minutes; under a minute '<0:01'."""
    minutes = int(seconds) // 60
    return f'{minutes // 60}:{minutes % 60:02d}' if minutes else '<0:01'
