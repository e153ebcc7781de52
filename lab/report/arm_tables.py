"""The ARM tables of docs/performance.md, made of results/arm.csv (tools/arm_timing.py) alone."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from bfcn_mm.benchmark import report

TABLE = report.ROOT / 'results' / 'arm.csv'
BITS = ('1-1', '1-2', '2-2', '4-4')
PEERS = {kind: (f'xnnpack {kind}', f'acl {kind}') for kind in ('float32', 'int8')}
TARGETS = {  # at 1-2 bits: most milliseconds, times over the fastest peer
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
    """Modelled milliseconds of every core and engine."""
    header = ['core', 'clock', *BITS, 'XNNPACK float32', 'ACL float32', 'XNNPACK int8', 'ACL int8']
    lines = []
    for core, rows in totals().items():
        engines = [f'bfcn {bits}' for bits in BITS] + [e for kind in PEERS for e in PEERS[kind]]
        lines.append(
            [core, f'{float(rows["bfcn 1-2"]["ghz"]):g} GHz']
            + [f'{float(rows[engine]["ms"]):.1f} ms' for engine in engines]
        )
    return _table(header, lines)


def goals(*_: Sequence[dict[str, str]]) -> str:
    """Every target at 1-2 bits beside its result, and what it is over each peer."""
    names = {'ms': 'milliseconds', **{kind: f'over the fastest {kind}' for kind in PEERS}}
    lines = []
    for core, rows in totals().items():
        for kind, goal in TARGETS[core].items():
            result = _result(rows, kind)
            reached = result <= goal if kind == 'ms' else result >= goal
            sign = 'at most' if kind == 'ms' else 'at least'
            lines.append(
                [core, names[kind], f'{result:.{1 if kind == "ms" else 2}f}', f'{sign} {goal:g}']
                + ['reached' if reached else '**not reached**']
                + [f'{_over(rows, peer):.2f}' for peer in PEERS.get(kind, ())]
                + ['', ''] * (kind == 'ms')
            )
    header = ['core', '1-2 bits, modelled', 'result', 'target', '', 'over XNNPACK', 'over ACL']
    return _table(header, lines)


def _result(rows: dict[str, dict[str, str]], kind: str) -> float:
    if kind == 'ms':
        return float(rows['bfcn 1-2']['ms'])
    return min(_over(rows, peer) for peer in PEERS[kind])


def _over(rows: dict[str, dict[str, str]], peer: str) -> float:
    return float(rows[peer]['ms']) / float(rows['bfcn 1-2']['ms'])


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)
