"""Write docs/results.md from results/camvid.csv: the paper's tables beside ours. --figures draws, too.

Rows that are missing are said to be missing. Run it again when rows have come.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from bfcn_mm.analysis.plots import plot_curves
from bfcn_mm.analysis.report import read_csv, read_curve
from bfcn_mm.datasets import CamVidDataset
from lab.study import Ledger, Row
from lab.study.page import FIGURE_3, PAGES, page, write_curves

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {'fp32': 'float', 'w2a2': '2-2', 'w1a2': '1-2'}


def main() -> None:
    args = parse_args()
    rows = Ledger(args.csv, CamVidDataset.METAINFO['classes']).read()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.figures:
        for scale in PAGES:
            draw(scale, [row for row in rows if row.scale == scale], args)
    args.out.write_text(page(rows, args.csv, args.out.parent, read_csv(args.speed), args.speed))
    shown = sum(row.scale in PAGES for row in rows)
    print(f'{args.out}: {shown} of {len(rows)} rows of {args.csv}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--csv', type=Path, default=ROOT / 'results/camvid.csv')
    add('--speed', type=Path, default=ROOT / 'results/camvid_speed.csv', help='of benchmark.py cpu')
    add('--out', type=Path, default=ROOT / 'docs/results.md')
    add('--work', type=Path, default=ROOT / 'work_dirs/study', help='work directories of the study')
    add('--figures', action='store_true', help='draw Figures 3 and 4 from the work directories')
    return parser.parse_args()


def draw(scale: str, rows: list[Row], args: argparse.Namespace) -> None:
    """Figures 3 and 4 of a scale, of the lowest seed whose work directories are all there."""
    folder = args.out.parent / 'results'
    folders = of_one_seed(rows, FIGURE_3, args.work)
    curves = {label: read_curve(folders[name]) for name, label in FIGURE_3.items() if folders}
    if curves:
        folder.mkdir(parents=True, exist_ok=True)
        plot_curves(folder / f'{scale}_fig3.png', curves)
        write_curves(folder / f'{scale}_fig3.csv', curves)
    else:
        print(
            f'{scale}: Figure 3 is not drawn, it needs the work directories of {", ".join(FIGURE_3)}'
        )
    folders = of_one_seed(rows, PICTURES, args.work)
    if not folders:
        print(f'{scale}: Figure 4 is not drawn, it needs those of {", ".join(PICTURES)}')
        return
    folder.mkdir(parents=True, exist_ok=True)
    out = args.work / scale / 'compared'
    models = [f'{model_of(folders[name])}:{label}' for name, label in PICTURES.items()]
    command = [sys.executable, ROOT / 'tools/compare.py', *models, '--out', out, '--pictures', '4']
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
    shutil.copyfile(out / 'pictures.png', folder / f'{scale}_fig4.png')


def of_one_seed(rows: list[Row], names: dict, work: Path) -> dict[str, Path]:
    """The work directory of each name for the lowest seed that has all; empty if none has."""
    for seed in sorted({row.seed for row in rows}):
        found = {
            row.run: work / row.scale / f'{row.run}-s{seed}-{row.hash}'
            for row in rows
            if row.seed == seed and row.run in names
        }
        if set(found) == set(names) and all(path.is_dir() for path in found.values()):
            return found
    return {}


def model_of(folder: Path) -> str:
    """CONFIG:CHECKPOINT, as tools/compare.py takes it."""
    last = sorted(folder.glob('iter_*.pth'), key=lambda path: int(path.stem.split('_')[1]))[-1]
    return f'{folder / "run.py"}:{last}'
