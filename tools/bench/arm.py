"""The ARM tables of docs/performance.md, made of results/arm.csv (tools/arm_timing.py) alone."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from . import report

TABLE = report.ROOT / 'results' / 'arm.csv'
BITS = ('1-1', '1-2', '2-2', '4-4')
PEERS = {'float32': 'xnnpack float32', 'int8': 'xnnpack int8'}
TARGETS = {  # at 1-2 bits: most milliseconds, times over each peer
    'cortex-a15': {'ms': 150, 'float32': 8},
    'cortex-a53': {'float32': 5},
    'cortex-a72': {'float32': 9, 'int8': 4},
    'cortex-a76': {'float32': 7.5, 'int8': 1.9},
}


def totals() -> dict[str, dict[str, dict[str, str]]]:
    """Rows of whole runs by core and engine. Raises OSError if there is no table."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    with TABLE.open(newline='') as file:
        for row in csv.DictReader(file):
            if row['layer'] == 'total':
                found.setdefault(row['cpu'], {})[row['engine']] = row
    return found


def speed(*_: Sequence[dict[str, str]]) -> str:
    """Modelled milliseconds of every core and engine, and how many times faster 1-2 bits are."""
    header = ['core', 'clock', *BITS, 'XNNPACK float32', 'XNNPACK int8', '1-2 over float32']
    lines = []
    for core, rows in totals().items():
        engines = [*(f'bfcn {bits}' for bits in BITS), *PEERS.values()]
        lines.append(
            [core, f'{float(rows["bfcn 1-2"]["ghz"]):g} GHz']
            + [f'{float(rows[engine]["ms"]):.1f} ms' for engine in engines]
            + [f'{_result(rows, peer):.2f}' for peer in PEERS]
        )
    return _table([*header, 'over int8'], lines)


def goals(*_: Sequence[dict[str, str]]) -> str:
    """Every target at 1-2 bits beside its result."""
    names = {'ms': 'milliseconds', **{peer: f'over XNNPACK {peer}' for peer in PEERS}}
    lines = []
    for core, rows in totals().items():
        for kind, goal in TARGETS[core].items():
            result = _result(rows, kind)
            reached = result <= goal if kind == 'ms' else result >= goal
            sign = 'at most' if kind == 'ms' else 'at least'
            lines.append(
                [core, names[kind], f'{result:.{1 if kind == "ms" else 2}f}', f'{sign} {goal:g}']
                + ['reached' if reached else '**not reached**']
            )
    return _table(['core', '1-2 bits, modelled', 'result', 'target', ''], lines)


def _result(rows: dict[str, dict[str, str]], kind: str) -> float:
    ours = float(rows['bfcn 1-2']['ms'])
    return ours if kind == 'ms' else float(rows[PEERS[kind]]['ms']) / ours


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)
