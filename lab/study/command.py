"""Train the paper's tables on CamVid, each network once, and measure them: results/camvid.csv.

What is done is skipped; what was interrupted (Ctrl-C) goes on where it was. Several of these may run
side by side: each takes a run that no other has. See docs/study.md.

    python tools/study.py camvid --scale half --table 5 --seeds 3
    python tools/results.py
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from mmengine.config import Config

from bfcn_mm.analysis.report import format_table
from bfcn_mm.datasets import CamVidDataset, check_data
from lab.study import SCALES, TABLES, Ledger, camvid, chain, select
from lab.study.carry_out import Job, Place, carry_out, make_jobs, write_config
from lab.study.progress import Progress
from lab.study.publish import publish

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    args = parse_args()
    runs = camvid(args.scale)
    selected = select(runs, args.table, args.run)
    place = Place(ROOT, args.work.resolve(), args.data, args.scale, args.device, args.threads)
    ledger = Ledger(args.csv, CamVidDataset.METAINFO['classes'])
    if args.publish is not None:
        select(runs, (), [args.publish])
        job = one_job(runs, args.publish, args.seed, place)
        print(publish(job, ledger, ROOT, args.zoo))
        return 0
    if args.list:
        print(listing(runs, selected, ledger, args.scale))
        return 0
    jobs = make_jobs(runs, selected, range(args.seed, args.seed + args.seeds), place)
    if args.dry_run:
        print('\n'.join(dry(job, ledger) for job in jobs))
        return 0
    check_device(args.device)
    check_there(jobs[0], place)
    return run(jobs, ledger, place)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('data_set', choices=['camvid'])
    add('--table', nargs='+', default=[], metavar='N', help=f'of {", ".join(TABLES)}; default: all')
    add('--run', nargs='+', default=[], metavar='NAME', help='runs by name (--list shows them)')
    add('--scale', choices=list(SCALES), default='half', help='default: half')
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add('--seeds', type=int, default=1, metavar='K', help='seeds 0 ... K-1 (from --seed on)')
    add('--seed', type=int, default=0, help='the first seed')
    add('--threads', type=int, default=1, help='of each process on a CPU')
    add('--list', action='store_true', help='what would be trained, and what is done')
    add('--dry-run', action='store_true', help='the work directory and state of each run')
    add('--publish', metavar='NAME', help='put this finished run into the zoo')
    add('--data', default='data/camvid', help='folder of CamVid')
    add('--work', type=Path, default=ROOT / 'work_dirs/study', help='folder of work directories')
    add('--csv', type=Path, default=ROOT / 'results/camvid.csv')
    add('--zoo', type=Path, default=ROOT / 'zoo')
    args = parser.parse_args()
    if args.seeds < 1 or args.threads < 1 or args.seed < 0:
        parser.error('--seeds and --threads must be 1 or more, --seed 0 or more')
    args.data = str(Path(args.data).resolve()) if Path(args.data).exists() else args.data
    return args


def run(jobs: list[Job], ledger: Ledger, place: Place) -> int:
    """0 if all is done, 1 if something failed, 130 after Ctrl-C (or SIGTERM)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = Progress()
    try:
        failed = carry_out(jobs, ledger, place, progress)
    except KeyboardInterrupt:
        progress.close()
        print('Stopped. The same command goes on from here.')
        return 130
    progress.close()
    for line in failed:
        print(f'failed: {line}', file=sys.stderr)
    print(f'{len(jobs) - len(failed)} of {len(jobs)} runs done, rows in {ledger.path}')
    return 1 if failed else 0


def check_device(device: str) -> None:
    if device == 'cuda':
        import torch

        if not torch.cuda.is_available():
            raise ValueError('--device cuda: PyTorch sees no GPU here; use --device cpu')


def check_there(job: Job, place: Place) -> None:
    """Raise FileNotFoundError, before anything starts, if the data are missing."""
    path = write_config(job, [], place)
    check_data(Config.fromfile(path), ('train', 'val', 'test'))


def one_job(runs: dict, name: str, seed: int, place: Place) -> Job:
    jobs = make_jobs(runs, select(runs, (), [name]), [seed], place)
    return next(job for job in jobs if job.run.name == name)


def listing(runs: dict, selected: list, ledger: Ledger, scale: str) -> str:
    rows = [row for row in ledger.read() if row.scale == scale]
    lines = []
    for item in selected:
        path = ' > '.join(part.name for part in chain(runs, item.name))
        total = sum(part.iters for part in chain(runs, item.name))
        seeds = ' '.join(str(row.seed) for row in rows if row.run == item.name) or '-'
        lines.append([path, item.iters, total, ' '.join(item.tables) or '-', seeds])
    header = ['run, after what it starts from', 'iterations', 'in all', 'tables', 'seeds done']
    total = sum(item.iters for item in selected)
    return f'{format_table(header, lines)}\n{len(selected)} runs, {total} iterations a seed'


def dry(job: Job, ledger: Ledger) -> str:
    keys = {(row.run, row.seed, row.hash) for row in ledger.read()}
    state = 'done' if (job.run.name, job.seed, job.hash) in keys else 'to do'
    if state == 'to do' and (job.folder / 'last_checkpoint').exists():
        state = 'to go on with'
    return f'{state:<14}{job.label:<28}{job.folder}'
