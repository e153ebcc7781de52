"""results/*.csv: one row for each trained and measured network, appended and never rewritten."""

from __future__ import annotations

import csv
import fcntl
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

DONE, COLLAPSED = 'done', 'collapsed'


@dataclass(frozen=True)
class Row:
    """hash: of the config and of all that it starts from, whatever the commit. iters: of this run;
    total_iters: with those of the runs whose weights it goes on from. w, a: 32 for float. miou, accuracy,
    iou: percent, of the network as it trains (fake-quantized); miou_packed: of its packed file. bytes: of
    that file, or of the float32 weights. macs, bitops, float_macs, head_macs: one image. seconds: of
    training. status: 'collapsed' if training ended in numbers that are not finite; then the rest is
    empty.
    """

    run: str
    seed: int
    scale: str
    hash: str
    status: str = DONE
    commit: str = ''
    config: str = ''
    start: str = ''
    device: str = ''
    iters: int = 0
    total_iters: int = 0
    w: int = 32
    a: int = 32
    miou: float | None = None
    miou_packed: float | None = None
    accuracy: float | None = None
    bytes: int | None = None
    macs: int | None = None
    bitops: int | None = None
    float_macs: int | None = None
    head_macs: int | None = None
    seconds: float | None = None
    iou: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, str, str]:
        return self.run, self.seed, self.scale, self.hash


_PLAIN = [f.name for f in fields(Row) if f.name != 'iou']
_TEXT = ('run', 'scale', 'hash', 'status', 'commit', 'config', 'start', 'device')
_REAL = ('miou', 'miou_packed', 'accuracy', 'seconds')


class Ledger:
    """The rows of a CSV file. Several processes may append to it.

    Raises ValueError for a file whose columns are others, naming what is wrong.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path = path
        self.columns = [*_PLAIN, *(f'iou_{name}' for name in classes)]
        self.read()

    def read(self) -> list[Row]:
        if not self.path.exists() or not self.path.stat().st_size:
            return []
        with self.path.open(newline='') as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != self.columns:
                odd = set(reader.fieldnames or ()) ^ set(self.columns)
                raise ValueError(
                    f'{self.path}: its columns are not those of this version '
                    f'({", ".join(sorted(odd)) or "another order"}): move it away, or pass --csv'
                )
            return [self._row(number, given) for number, given in enumerate(reader, 2)]

    def append(self, row: Row) -> bool:
        """Write the row unless one with its key is there; whether it was written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_suffix('.lock')):
            if any(row.key == other.key for other in self.read()):
                return False
            fresh = not self.path.exists() or not self.path.stat().st_size
            with self.path.open('a', newline='') as file:
                writer = csv.DictWriter(file, self.columns)
                if fresh:
                    writer.writeheader()
                writer.writerow(self._cells(row))
        return True

    def _cells(self, row: Row) -> dict[str, str]:
        cells = {name: getattr(row, name) for name in _PLAIN}
        cells |= {f'iou_{name}': value for name, value in row.iou.items()}
        return {name: _text(value) for name, value in cells.items()}

    def _row(self, number: int, given: dict[str, str]) -> Row:
        values: dict = {}
        try:
            for name in _PLAIN:
                text = given[name]
                if name in _TEXT:
                    values[name] = text
                elif text:
                    values[name] = float(text) if name in _REAL else int(text)
            iou = {k[4:]: float(v) for k, v in given.items() if k.startswith('iou_') and v}
            return Row(**values, iou=iou)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{self.path}, line {number}: {error}: correct or remove it') from None


def _text(value: object) -> str:
    if value is None:
        return ''
    return f'{value:.6g}' if isinstance(value, float) else str(value)


@contextmanager
def locked(path: Path, wait: bool = True):
    """Hold a file lock; gives its file descriptor, or 0 if another holds it and we do not wait.

    A child that inherits the descriptor goes on holding the lock when this process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield 0
            return
        yield handle
    finally:
        os.close(handle)
