"""Draw the totals of tools/arm_timing.py --csv: milliseconds by core and engine, on a log scale."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bfcn_mm.analysis.plots import COLOURS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('csv', type=Path)
    parser.add_argument('out', type=Path, metavar='OUT.png')
    args = parser.parse_args()
    try:
        with args.csv.open(newline='') as file:
            rows = [row for row in csv.DictReader(file) if row.get('layer') == 'total']
        if not rows:
            raise ValueError(f'{args.csv} has no total: write it with tools/arm_timing.py --csv')
        draw(rows, args.out)
    except (OSError, ValueError) as error:
        print(f'arm_chart: {error}', file=sys.stderr)
        return 1
    return 0


def draw(rows: list[dict[str, str]], out: Path) -> None:
    """A group of bars for each core; rows as in the CSV."""
    cores = list(dict.fromkeys(row['cpu'] for row in rows))
    engines = list(dict.fromkeys(row['engine'] for row in rows))
    axes = (figure := Figure(figsize=(9, 4), dpi=140)).subplots()
    width = 0.84 / len(engines)
    for k, engine in enumerate(engines):
        ms = {row['cpu']: float(row['ms']) for row in rows if row['engine'] == engine}
        at = np.arange(len(cores)) + (k - (len(engines) - 1) / 2) * width
        heights = [ms.get(core, np.nan) for core in cores]
        bars = axes.bar(at, heights, width * 0.92, label=engine, color=COLOURS[k % len(COLOURS)])
        axes.bar_label(bars, fmt='%.0f', fontsize=6)
    axes.set(yscale='log', ylabel='ms, modelled, one core')
    axes.set_xticks(np.arange(len(cores)), cores)
    axes.legend(fontsize=7, ncols=3, frameon=False)
    figure.tight_layout()
    figure.savefig(out)
