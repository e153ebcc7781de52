"""The tables of docs/performance.md and README.md, made of the committed CSVs and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from bfcn_mm.benchmark import report
from lab.kernels import rates as kernels
from lab.report import arm_tables as arm

Rows = Sequence[dict[str, str]]
NOTHING = 'Nothing measured yet: `make bench`.'
_MAIN = (160, 256)
_WORTH = 1.02  # a kernel that is faster by less is not worth a word


def machine(cpu: Rows, kernel_rows: Rows) -> str:
    """Where and with what the numbers were taken, a line for each machine."""
    devices = dict.fromkeys(row['device'] for row in cpu)
    lines = [_machine([row for row in cpu if row['device'] == device]) for device in devices]
    return '\n'.join(lines) or NOTHING


def _machine(rows: Rows) -> str:
    last = max(rows, key=lambda row: row['time'])
    versions = {row['contender']: row['version'] for row in rows if row['contender'] != 'bfcn'}
    listed = ', '.join(f'{name} {version}' for name, version in sorted(versions.items()))
    sets = ', '.join(dict.fromkeys(row['isa'] for row in rows))
    return (
        f'- {sets}: {last["device"]}, {last["cores"]} CPUs; {last["time"][:10]}, commit '
        f'{last["commit"]}; {listed}; Python {last["python"]}; C built by {last["compiler"]}. '
        f'Network: {last["network"]}, {last["weights"]} weights.'
    )


def headline(cpu: Rows, _: Rows) -> str:
    """The 1-2 network on one core: every size and instruction set, a line each."""
    lines = []
    for key, rows in report.grouped(cpu).items():
        ours = [r for r in rows if (r['contender'], r['precision']) == ('bfcn', '1-2')]
        if key[3] != 1 or not ours:
            continue
        row = ours[0]
        peers = sorted({row['over_float32_peer'], row['over_int8_peer']})
        lines.append(
            [report.title(key).replace(', 1 core', ''), _ms(row['median_ms'])]
            + [f'{_short(row, "over_float32")}x', f'{_short(row, "over_int8")}x', ', '.join(peers)]
            + [f'{maps_ratio(row, rows):.1f}x', _mb(row['weight_bytes'])]
        )
    header = ['image', 'ms', 'faster than float32', 'than int8', 'the best peer']
    header += ['less map memory', 'weights in memory, MB']
    return _table(header, lines) if lines else NOTHING


def speed(isa: str) -> Callable[[Rows, Rows], str]:
    """Everything at the main size on one core, ours with targets."""

    def table(cpu: Rows, _: Rows) -> str:
        groups = {k[1:]: rows for k, rows in report.grouped(cpu).items()}
        rows = groups.get((*_MAIN, 1, isa))
        if rows is None:
            return NOTHING
        header = ['', 'instructions', 'median ms', 'quartiles', 'least']
        header += ['over float32', 'target', 'over int8', 'target']
        lines = []
        for row in rows:
            goal = report.targets(row) or (None, None)
            lines.append(
                [f'{row["contender"]} {row["precision"]}', row['isa_used'], _ms(row['median_ms'])]
                + [f'{_ms(row["q1_ms"])} .. {_ms(row["q3_ms"])}', _ms(row['min_ms'])]
                + [_ratio(row, 'over_float32'), _goal(goal[0])]
                + [_ratio(row, 'over_int8'), _goal(goal[1])]
            )
        return _table(header, lines)

    return table


def chart(cpu: Rows, _: Rows) -> str:
    """The picture that tools/performance.py draws beside the page."""
    return '![medians and quartiles](performance.png)' if at_main_size(cpu) else NOTHING


def missed(cpu: Rows, _: Rows) -> str:
    """Every target that a result does not reach."""
    if not cpu:
        return NOTHING
    lines = []
    for key, rows in report.grouped(cpu).items():
        for row in (row for row in rows if row['contender'] == 'bfcn'):
            where = [report.title(key), f'bfcn {row["precision"]}']
            goals = report.targets(row) or ()
            for kind, goal in zip(('float32', 'int8'), goals, strict=False):
                got = row[f'over_{kind}']
                if got and float(got) < goal:
                    lines.append(
                        [*where, f'over the best {kind} peer', f'{float(got):.2f}', f'{goal:g}']
                    )
            times = maps_ratio(row, rows)
            if row['precision'].endswith('-2') and times and times < report.MEMORY_TARGET:
                goal = f'{report.MEMORY_TARGET:g}'
                lines.append([*where, 'float32 maps over ours', f'{times:.1f}', goal])
    for name, gains in _second_core_gains(cpu):
        for (contender, precision), gain in gains.items():
            if contender == 'bfcn' and gain < report.SECOND_CORE_TARGET:
                goal = f'{report.SECOND_CORE_TARGET:g}'
                lines.append([name, f'bfcn {precision}', 'two cores over one', f'{gain:.2f}', goal])
    header = ['', '', 'ratio', 'result', 'target']
    return _table(header, lines) if lines else 'Every target is reached.'


def at_main_size(cpu: Rows) -> Rows:
    return [row for row in cpu if (int(row['height']), int(row['width'])) == _MAIN]


def maps_ratio(row: dict[str, str], rows: Rows) -> float:
    """Least bytes of float32 maps over a row's own; 0 where either is not known."""
    least = next((r['activation_bytes'] for r in rows if r['precision'] == 'float32'), '')
    own = row['activation_bytes']
    return float(least) / float(own) if least and own else 0.0


def sizes(cpu: Rows, _: Rows) -> str:
    """The ratios at every size, core count and instruction set."""
    lines, precisions = [], _precisions(cpu)
    for key, rows in report.grouped(cpu).items():
        ours = {row['precision']: row for row in rows if row['contender'] == 'bfcn'}
        cells = [
            f'{_short(ours[p], "over_float32")} / {_short(ours[p], "over_int8")}'
            if p in ours
            else ''
            for p in precisions
        ]
        lines.append([report.title(key), *cells])
    return _table(['', *precisions], lines) if lines else NOTHING


def second_core(cpu: Rows, _: Rows) -> str:
    """One core's median over two cores'."""
    lines = [
        [name, ', '.join(f'{" ".join(who)} {gain:.2f}' for who, gain in gains.items())]
        for name, gains in _second_core_gains(cpu)
    ]
    goal = f'times faster on two cores; target {report.SECOND_CORE_TARGET} for bfcn'
    return _table(['', goal], lines) if lines else NOTHING


def memory(cpu: Rows, _: Rows) -> str:
    """Feature maps and whole processes, on one core at each size."""
    lines = []
    for key, rows in report.grouped(cpu).items():
        if key[3] != 1 or not any(row['process_bytes'] for row in rows):
            continue
        for row in rows:
            ours = row['contender'] == 'bfcn'
            ratio = maps_ratio(row, rows) if ours else 0.0
            times = f'{ratio:.1f}' if ratio else ''
            goal = report.MEMORY_TARGET if ours and row['precision'].endswith('-2') else None
            lines.append(
                [f'{key[1]}x{key[2]}, {key[4]}', f'{row["contender"]} {row["precision"]}']
                + [_mb(row['activation_bytes']), times, _goal(goal)]
                + [_mb(row[name]) for name in ('growth_bytes', 'weight_bytes', 'process_bytes')]
            )
    header = ['', '', 'maps MB', 'float32 maps over ours', 'target', 'seen to grow by MB']
    return _table([*header, 'weights MB', 'process MB'], lines) if lines else NOTHING


def kernel_totals(_: Rows, rows: Rows) -> str:
    """All low-bit layers in sum, by instruction set and bits."""
    lines, header = [], []
    for isa in sorted({kernels.isa_of(row) for row in rows}, reverse=True):
        header, found = kernels.totals(rows, isa)
        lines += [[isa, *line] for line in found]
    return _table(['', *header], lines) if lines else NOTHING


def kernel_layers(isa: str, bits: str) -> Callable[[Rows, Rows], str]:
    """Each layer with the kernel that the planner takes."""

    def table(_: Rows, rows: Rows) -> str:
        layers = kernels.network_layers(rows, isa, bits) + kernels.network_layers(rows, isa, '8-8')
        total = sum(int(c['count']) * float(c['seconds_min']) for c, _ in layers)
        lines = []
        for row, best in sorted(layers, key=lambda layer: -_seconds(layer[0])):
            gain = float(row['seconds_min']) / float(best['seconds_min'])
            side, stride = row['kernel_side'], row['stride']
            shape = f'{side}x{side}{f"/{stride}" if stride != "1" else ""}'
            lines.append(
                [
                    f'{shape} {row["channels"]} to {row["outputs"]}',
                    f'{row["height"]}x{row["width"]}',
                ]
                + [row['count'], f'{100 * _seconds(row) / total:.1f} %', f'`{row["kernel"]}`']
                + [f'{float(row["gmac_per_s"]):.0f}', f'{float(row["mac_per_cycle"] or "nan"):.0f}']
                + [f'{100 * float(row["share"] or "nan"):.0f} %']
                + [f'`{best["kernel"]}` {gain:.2f}x' if gain > _WORTH else '']
            )
        header = ['layer', 'source', 'layers', 'time', 'kernel', 'GMAC/s', 'MAC/cycle']
        return _table([*header, 'of ceiling', 'faster'], lines) if lines else NOTHING

    return table


TABLES: dict[str, Callable[[Rows, Rows], str]] = {
    'machine': machine,
    'headline': headline,
    'chart': chart,
    'missed': missed,
    'speed-avx512': speed('avx512'),
    'speed-avx2': speed('avx2'),
    'speed-amx': speed('amx'),
    'sizes': sizes,
    'second-core': second_core,
    'memory': memory,
    'kernel-totals': kernel_totals,
    'kernels-avx512-1-2': kernel_layers('avx512', '1-2'),
    'kernels-avx2-1-2': kernel_layers('avx2', '1-2'),
    'arm-speed': arm.speed,
    'arm-targets': arm.goals,
}


def filled(text: str, cpu: Rows, kernel_rows: Rows) -> str:
    """The text with every table between its markers written anew. Raises ValueError for a marker that
    is not closed or names no table."""
    parts = text.split('<!-- table ')
    out = [parts[0]]
    for part in parts[1:]:
        name, opened, rest = part.partition(' -->\n')
        _, closed, after = rest.partition('<!-- end -->')
        if not opened or not closed or name not in TABLES:
            raise ValueError(f'<!-- table {name.split()[0]} --> names no table or is not closed')
        body = TABLES[name](cpu, kernel_rows)
        out.append(f'<!-- table {name} -->\n{body}\n<!-- end -->{after}')
    return ''.join(out)


def _second_core_gains(cpu: Rows) -> list[tuple[str, dict[tuple[str, str], float]]]:
    """(size and instruction set, how many times faster each contender is on two cores)."""
    groups, found = report.grouped(cpu), []
    for (name, height, width, threads, isa), rows in groups.items():
        one = groups.get((name, height, width, 1, isa))
        if threads == 2 and one is not None:
            before = {(r['contender'], r['precision']): float(r['median_ms']) for r in one}
            now = {(r['contender'], r['precision']): float(r['median_ms']) for r in rows}
            gains = {who: before[who] / now[who] for who in before if who in now}
            found.append((f'{height}x{width}, {isa}', gains))
    return found


def _precisions(cpu: Rows) -> list[str]:
    found = [row['precision'] for row in cpu if row['contender'] == 'bfcn']
    return [name for name, _ in groupby(sorted(set(found)))]


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _seconds(row: dict[str, str]) -> float:
    return int(row['count']) * float(row['seconds_min'])


def _ratio(row: dict[str, str], key: str) -> str:
    if not row[key]:
        return ''
    low, high = float(row[f'{key}_q1']), float(row[f'{key}_q3'])
    return f'{float(row[key]):.1f} ({low:.1f} .. {high:.1f})'


def _short(row: dict[str, str], key: str) -> str:
    return f'{float(row[key]):.1f}' if row[key] else '-'


def _goal(value: float | None) -> str:
    return '' if value is None else f'{value:g}'


def _ms(value: str) -> str:
    return f'{float(value):.2f}' if float(value) < 100 else f'{float(value):.1f}'


def _mb(value: str) -> str:
    return f'{float(value) / 1e6:.2f}' if value else ''
