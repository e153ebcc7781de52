"""Rows of results: as CSV, as a table with the targets beside them, as a chart."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bfcn_kernels.cpu import build

ROOT = Path(__file__).resolve().parents[2]

# (isa, bits) -> times faster than the best float32 peer, than the best int8 peer
TARGETS = {
    ('avx512', '1-1'): (15.0, 4.0),
    ('avx512', '1-2'): (12.0, 3.2),
    ('avx512', '2-2'): (7.0, 1.9),
    ('avx512', '4-4'): (3.8, 1.0),
    ('avx2', '1-1'): (8.0, 4.0),
    ('avx2', '1-2'): (8.0, 4.0),
    ('avx2', '2-2'): (4.3, 2.1),
    ('avx2', '4-4'): (3.0, 1.5),
}
TARGETS_OF = 'bfcn_r50'  # how the networks' names begin that the targets are for
MEMORY_TARGET = 12.0  # float32 maps over ours, at 2-bit activations
SECOND_CORE_TARGET = 1.8

HEADER = (
    ['time', 'network', 'weights', 'height', 'width', 'threads', 'isa', 'contender', 'precision']
    + ['version', 'isa_used', 'rounds', 'median_ms', 'q1_ms', 'q3_ms', 'min_ms', 'agreement']
    + [
        f'{key}{part}'
        for key in ('over_float32', 'over_int8')
        for part in ('', '_q1', '_q3', '_peer')
    ]
    + ['activation_bytes', 'weight_bytes', 'process_bytes', 'growth_bytes']
    + ['device', 'cores', 'compiler', 'commit', 'python']
)


def append(path: Path, rows: Sequence[dict], header: Sequence[str] = HEADER) -> None:
    """Add rows to a CSV. Raises ValueError if the file has other columns."""
    if path.exists() and path.stat().st_size:
        with path.open(newline='') as file:
            found = next(csv.reader(file))
        if found != list(header):
            raise ValueError(f'{path} has other columns than these results: name another file')
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, header, lineterminator='\n')
        if not file.tell():
            writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """(header, lines) of one measurement: results with targets beside them."""
    header = ['contender', 'up to', 'median ms', 'q1 .. q3', 'least']
    header += ['x float32', 'target', 'x int8', 'target', 'maps MB', 'grows by MB', 'process MB']
    lines = []
    for row in rows:
        goal = targets(row) or ('', '')
        lines.append(
            [
                f'{row["contender"]} {row["precision"]}',
                row['isa_used'],
                f'{float(row["median_ms"]):.2f}',
            ]
            + [
                f'{float(row["q1_ms"]):.2f} .. {float(row["q3_ms"]):.2f}',
                f'{float(row["min_ms"]):.2f}',
            ]
            + [
                _times(row['over_float32']),
                _times(goal[0]),
                _times(row['over_int8']),
                _times(goal[1]),
            ]
            + [
                _megabytes(row[key])
                for key in ('activation_bytes', 'growth_bytes', 'process_bytes')
            ]
        )
    return header, lines


def chart(rows: Sequence[dict], path: Path) -> None:
    """Bars of medians with quartiles, a panel for each measurement. Needs matplotlib."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    groups = list(grouped(rows).items())
    height = sum(1 + 0.32 * len(group) for _, group in groups)
    figure, panels = pyplot.subplots(
        len(groups),
        figsize=(8, height + 0.5),
        squeeze=False,
        layout='constrained',
        height_ratios=[1 + 0.32 * len(group) for _, group in groups],
    )
    for panel, (key, group) in zip(panels[:, 0], groups, strict=True):
        _bars(panel, title(key), group)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def grouped(rows: Sequence[dict]) -> dict[tuple, list[dict]]:
    """Rows by measurement: network, size, threads, ISA. Of several runs of one, the latest."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        key = (
            row['network'],
            int(row['height']),
            int(row['width']),
            int(row['threads']),
            row['isa'],
        )
        group = groups.setdefault(key, [])
        if group and group[0]['time'] != row['time']:
            group.clear()
        group.append(row)
    return groups


def title(key: tuple) -> str:
    _, height, width, threads, isa = key
    cores = '1 core' if threads == 1 else f'{threads} cores'
    return f'{height}x{width}, {cores}, {isa}'


def targets(row: dict) -> tuple[float, float] | None:
    """Times over the best float32 and int8 peer that this row should reach; None for other networks."""
    if row['contender'] != 'bfcn' or not row['network'].startswith(TARGETS_OF):
        return None
    return TARGETS.get((row['isa'], row['precision']))


def environment() -> dict[str, object]:
    """What the rows say of the machine and of this checkout."""
    return dict(
        device=cpu_name(),
        cores=len(cpus()),
        compiler=compiler(),
        commit=commit(),
        python=platform.python_version(),
    )


def cpus() -> list[int]:
    """Numbers of the CPUs that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(cores: Sequence[int]) -> bool:
    """Keep this process to these CPUs. False where the system cannot."""
    if not hasattr(os, 'sched_setaffinity'):
        return False
    os.sched_setaffinity(0, cores)
    return True


def cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    fields = [line.split(':', 1) for line in lines if ':' in line]
    found = {}
    for key, value in fields:
        found.setdefault(key.strip(), value.strip())
    name = found.get('model name') or platform.processor() or platform.machine()
    numbers = [found.get(key) for key in ('cpu family', 'model', 'stepping')]
    return f'{name} (family {"/".join(numbers)})' if all(numbers) else name


def compiler(version: str | None = None) -> str:
    """The compiler of a text as of build.find_compiler(); by default, what built the C runtime in use."""
    line = (version or build.built_by(build.library()) or 'unknown').splitlines()[0]
    return line.partition(' ')[2].replace(',', '') or line


def commit() -> str:
    """Short hash, with '+' if tracked code differs from it; empty outside a checkout."""
    git = ['git', '-C', str(ROOT)]
    try:
        head = subprocess.run(
            [*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
        )
        changed = ['status', '--porcelain', '-uno', '--', '.', ':!results', ':!docs']
        dirty = subprocess.run([*git, *changed], capture_output=True, text=True)
    except FileNotFoundError:
        return ''
    return (
        head.stdout.strip() + ('+' if dirty.stdout.strip() else '') if head.returncode == 0 else ''
    )


def _bars(panel, name: str, rows: Sequence[dict]) -> None:
    labels = [f'{row["contender"]} {row["precision"]}' for row in rows]
    middle = [float(row['median_ms']) for row in rows]
    spread = [
        [m - float(row['q1_ms']) for m, row in zip(middle, rows, strict=True)],
        [float(row['q3_ms']) - m for m, row in zip(middle, rows, strict=True)],
    ]
    colours = ['#2a6fbb' if row['contender'] == 'bfcn' else '#b5b5b5' for row in rows]
    panel.barh(labels, middle, xerr=spread, color=colours, error_kw=dict(lw=1, ecolor='#444444'))
    for place, value in enumerate(middle):
        panel.annotate(
            f' {value:.3g}', (value + spread[1][place], place), va='center', fontsize='small'
        )
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.set_title(name, loc='left', fontsize='medium')
    panel.set_xlabel('ms an image')
    panel.spines[['top', 'right']].set_visible(False)


def _times(value: object) -> str:
    return f'{float(value):.2f}x' if value not in ('', None) else ''


def _megabytes(value: object) -> str:
    return f'{float(value) / 1e6:.2f}' if value not in ('', None) else ''
