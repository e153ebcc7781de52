"""lab/kernels/kernels.c, built here and now, on one core; its CSV, and a summary."""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from bfcn_kernels.cpu import build
from bfcn_mm.analysis.report import format_table
from bfcn_mm.benchmark import report
from bfcn_mm.cli.errors import errors_in_one_line

_KERNELS = report.ROOT / 'kernels'
_FLAGS = [flag for flag in build.FLAGS if flag not in ('-shared', '-fPIC')]


def run(args: argparse.Namespace) -> None:
    """Build, measure, write, sum up. Raises RuntimeError if a kernel computes a wrong number."""
    cpus = report.cpus()
    core = cpus[-1] if args.core is None else args.core
    if core not in cpus:
        raise ValueError(f'--core must be one of {cpus}, got {core}')
    if args.only not in (_KERNELS / 'bfcn_kernels/cpu/src/kernels.inc').read_text():
        raise ValueError(f'--only {args.only}: no kernel has this in its name')
    compiler, version = build.find_compiler()
    with tempfile.TemporaryDirectory(prefix='bfcn-bench-') as folder:
        program = Path(folder, 'bench_kernels')
        _build(compiler, program)
        rows = _measure(program, core, args.only)
    if not rows:
        raise ValueError(f'--only {args.only}: no kernel that runs here has this in its name')
    stamp = datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
    common = dict(
        time=stamp,
        device=report.cpu_name(),
        compiler=report.compiler(version),
        commit=report.commit(),
    )
    rows = [common | row for row in rows]
    if args.csv:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with args.csv.open('w', newline='') as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
    for isa in sorted({isa_of(row) for row in rows}):
        header, lines = totals(rows, isa)
        print(f'\n{isa}: all low-bit layers of the network, one after the other')
        print(format_table(header, lines))


def isa_of(row: dict[str, str]) -> str:
    """The instruction set of a row's kernel, which its name ends with."""
    return row['kernel'].rpartition('__')[2]


def totals(rows: Sequence[dict[str, str]], isa: str) -> tuple[list[str], list[list[str]]]:
    """(header, lines): the network's low-bit layers by the planner's choice and by the fastest kernel."""
    header = ['bits', 'chosen ms', 'GMAC/s', 'MAC/cycle', 'share of ceiling', 'fastest ms']
    lines = []
    for bits in sorted({bits_of(row) for row in rows} - {'8-8'}):
        layers = network_layers(rows, isa, bits)
        if not layers:
            continue
        milliseconds, macs, cycles, least, fastest = 0.0, 0.0, 0.0, 0.0, 0.0
        for chosen, best in layers:
            count, seconds = int(chosen['count']), float(chosen['seconds_min'])
            milliseconds += 1e3 * count * seconds
            macs += count * float(chosen['macs'])
            cycles += 1e9 * count * seconds * float(chosen['ghz'] or 'nan')
            least += count * float(chosen['macs']) / float(chosen['ceiling'] or 'nan')
            fastest += 1e3 * count * float(best['seconds_min'])
        lines.append(
            [
                bits,
                f'{milliseconds:.2f}',
                f'{macs / milliseconds * 1e-6:.0f}',
                f'{macs / cycles:.0f}',
            ]
            + [f'{100 * least / cycles:.0f} %', f'{fastest:.2f}']
        )
    return header, lines


def network_layers(
    rows: Sequence[dict[str, str]], isa: str, bits: str
) -> list[tuple[dict[str, str], dict[str, str]]]:
    """(row of the planner's choice, row of the fastest kernel) of each layer that the network has."""
    shapes: dict[tuple, list[dict[str, str]]] = {}
    for row in rows:
        if isa_of(row) == isa and bits_of(row) == bits and int(row['count']):
            keys = ('height', 'width', 'channels', 'outputs', 'kernel_side', 'stride')
            shapes.setdefault(tuple(row[key] for key in keys), []).append(row)
    layers = []
    for group in shapes.values():
        chosen = [row for row in group if row['chosen'] == '1']
        if chosen:  # not where --only left it out
            layers.append((chosen[0], min(group, key=lambda row: float(row['seconds_min']))))
    return layers


def bits_of(row: dict[str, str]) -> str:
    return f'{row["weight_bits"]}-{row["activation_bits"]}'


def _build(compiler: list[str], program: Path) -> None:
    cpu = _KERNELS / 'bfcn_kernels/cpu'
    folders = [cpu / 'include', cpu / 'src', _KERNELS / 'tests', Path(__file__).parent]
    sources = [Path(__file__).with_name('kernels.c'), *build.sources()]
    command = [*compiler, *_FLAGS, *(f'-I{path}' for path in folders), *map(str, sources)]
    done = subprocess.run(
        [*command, '-o', str(program), '-lpthread', '-lm'], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f'building lab/kernels/kernels.c failed: {done.stderr[-2000:]}')


def _measure(program: Path, core: int, only: str) -> list[dict[str, str]]:
    done = subprocess.run(
        [str(program), *([only] if only else [])],
        capture_output=True,
        text=True,
        preexec_fn=lambda: report.pin([core]),
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f'bench_kernels: status {done.returncode}')
    return list(csv.DictReader(io.StringIO(done.stdout)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--csv', type=Path, metavar='PATH', help='write the results to this file')
    parser.add_argument('--core', type=int, help='CPU to run on; default: the last one')
    parser.add_argument('--only', metavar='TEXT', default='', help='kernels whose name has this')
    with errors_in_one_line():
        run(parser.parse_args())


if __name__ == '__main__':
    main()
