"""What a run on a GPU leaves: two tables and a chart."""

from __future__ import annotations

import csv
from pathlib import Path


def save(folder: Path, rows: list[dict], layers: list[dict], about: dict) -> None:
    """gpu.csv of rows, gpu_layers.csv of layers, each with `about`, and gpu.png of rows."""
    for name, lines in (('gpu.csv', rows), ('gpu_layers.csv', layers)):
        if lines:
            with (folder / name).open('w', newline='') as file:
                table = csv.DictWriter(file, [*lines[0], *about], lineterminator='\n')
                table.writeheader()
                table.writerows(line | about for line in lines)
    if rows:
        plot(folder / 'gpu.png', rows, about['device'])


def plot(path: Path, rows: list[dict], device: str) -> None:
    """Images a second by size, batch and form."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if not row['what'].startswith('training')]
    cases = list(dict.fromkeys((r['batch'], r['height'], r['width']) for r in rows))
    kinds = list(dict.fromkeys(row['what'] for row in rows))
    figure = Figure(figsize=(1.5 * len(cases) + 2, 4), dpi=140)
    axes, width = figure.subplots(), 0.8 / len(kinds)
    for index, kind in enumerate(kinds):
        mine = {(r['batch'], r['height'], r['width']): r for r in rows if r['what'] == kind}
        at = [x + (index - (len(kinds) - 1) / 2) * width for x, c in enumerate(cases) if c in mine]
        speed = [1e3 * c[0] / float(mine[c]['ms']) for c in cases if c in mine]
        axes.bar(at, speed, width * 0.92, label=kind)
    axes.set_yscale('log')
    axes.set_xticks(range(len(cases)), [f'{h}x{w}\nbatch {b}' for b, h, w in cases])
    axes.set(ylabel='images/s', title=device)
    axes.legend(frameon=False)
    figure.savefig(path, bbox_inches='tight')
