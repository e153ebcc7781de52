"""Modelled time of packed models on ARM cores, without a board: counted under qemu, costed by tables.

    python tools/arm_timing.py model.gguf --cpu cortex-a15 --size 160 256

A model, not a measurement: no cache misses, no mispredicted branches, one core at its nominal clock.
"""

import argparse
import csv
import dataclasses
import sys
from functools import partial
from pathlib import Path

from bfcn_kernels import FileError, GraphError
from lab.arm import peers, timing


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('models', nargs='+', type=Path, metavar='MODEL.gguf')
    parser.add_argument('--cpu', nargs='+', default=['cortex-a15'], help=', '.join(timing.CORES))
    parser.add_argument('--size', nargs=2, type=int, default=(160, 256), metavar=('H', 'W'))
    parser.add_argument(
        '--peers', nargs='*', choices=peers.KINDS, default=(), metavar='KIND',
        help='XNNPACK and Arm Compute Library on the convolutions of the first model: float32, int8',
    )  # fmt: skip
    parser.add_argument('--layers', action='store_true', help='every layer, not the totals alone')
    parser.add_argument('--csv', type=Path, help='write the rows there, too')
    parser.add_argument('--work-dir', type=Path, default=Path('build/arm'), help='builds, counts')
    args = parser.parse_args()
    try:
        rows = _rows(args)
    except (RuntimeError, ValueError, OSError, FileError, GraphError) as error:
        print(f'arm_timing: {error}', file=sys.stderr)
        return 1
    if args.csv:
        with args.csv.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(field.name for field in dataclasses.fields(timing.Row))
            for row in rows:
                fields = dataclasses.astuple(row)
                writer.writerow(
                    f'{field:.3f}' if isinstance(field, float) else field for field in fields
                )
    return 0


def _rows(args: argparse.Namespace) -> list[timing.Row]:
    cores = [timing.core_of(name) for name in args.cpu]
    args.work_dir.mkdir(parents=True, exist_ok=True)
    print('modelled: no cache misses, no mispredicted branches, one core')
    print(f'{"cpu":11} {"GHz":>4} {"engine":16} {"layer":22} {"kernel":24} '
          f'{"MMAC":>8} {"Minsn":>8} {"Mcycles":>8} {"MAC/cyc":>7} {"ms":>9}')  # fmt: skip
    kept = []
    for core in cores:
        where = core, args.size
        runs = [partial(timing.time_model, path, *where, args.work_dir) for path in args.models]
        runs += [
            partial(peers.time_peer, library, args.models[0], *where, kind, args.work_dir)
            for kind in args.peers
            for library in peers.LIBRARIES
        ]
        for run in runs:
            rows = run() if args.layers else run()[-1:]
            kept += rows
            for row in rows:
                _print(row)
    return kept


def _print(row: timing.Row) -> None:
    rate = row.macs / row.cycles if row.cycles else 0
    print(f'{row.cpu:11} {row.ghz:4.1f} {row.engine:16} {row.layer:22} {row.kernel:24} '
          f'{row.macs / 1e6:8.1f} {row.instructions / 1e6:8.1f} {row.cycles / 1e6:8.2f} {rate:7.1f} '
          f'{row.ms:9.2f}', flush=True)  # fmt: skip
