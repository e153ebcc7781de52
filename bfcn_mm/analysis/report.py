"""What studies print and write: tables as text and CSV, and the training curves of a work directory."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append('  '.join([first, *others]))
    lines.insert(1, '  '.join('-' * width for width in widths))
    return '\n'.join(lines)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; none if the file is not there."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def read_curve(work_dir: Path) -> list[dict]:
    """The training records of all runs in a work directory, resumed ones too, one a step.

    A record holds step, loss and whatever else was logged (w_bits, lr, ...). Of a step that was run
    twice the later run counts. Empty if nothing was logged.
    """
    records: dict[int, dict] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        begun = False
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if 'loss' not in record:
                continue
            step = int(record['step'])
            if not begun:  # what an earlier run did after the checkpoint that this one resumed from
                records = {s: r for s, r in records.items() if s < step}
                begun = True
            records[step] = record
    return [records[step] for step in sorted(records)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Means over the last `window` values; the first ones over as many as there are."""
    return [
        math.fsum(part) / len(part)
        for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    ]
