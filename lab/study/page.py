"""docs/results.md: each table of the paper beside what the ledger holds, and what is still missing."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from bfcn_mm.analysis.report import read_csv, write_csv

from .ledger import COLLAPSED, Row
from .runs import Run, camvid, model_name

MISSING = 'not run yet'
PAGES = ('full', 'half')  # 'tiny' proves machinery, not methods

# The paper's own numbers, mean IoU in percent on VOC 2012 unless said.
TABLE_1 = {'fp32': (69.8, 62.1, '1x'), 'w2a2': (67.0, 60.3, '4.1x'), 'w1a2': (62.8, 57.4, '7.8x')}
TABLE_2 = {
    'fp32_conv': ('32-bit, one convolution', 66.4, 3.7),
    'w2a2_conv': ('2-bit, one convolution', 59.6, 3.7),
    'w2a2_wide': ('2-bit, twice the channels', 63.3, 7.8),
    'w2a2': ('2-bit, residual blocks', 67.0, 6.9),
}
TABLE_3 = {
    'w2a2_p2': ('low-bit from the start (P2)', 63.5),
    'w2a2_p1': ('32-bit FCN (P1)', 65.7),
    'w2a2_via8': ('8-bit BFCN', 65.8),
    'w2a2': ('bit-width decay', 67.0),
}
TABLE_5 = {
    'fp32': ('32 / 32', 69.8), 'w8a8': ('8 / 8', 69.8), 'w4a4': ('4 / 4', 68.6),
    'w3a3': ('3 / 3', 67.4), 'w2a2': ('2 / 2', 65.7), 'w1a4': ('1 / 4', 64.4),
    'w4a1': ('4 / 1', None), 'w1a2': ('1 / 2', 62.8), 'w1a1': ('1 / 1', None),
}  # fmt: skip
DIVERGED = ('w4a1',)
TABLE_6 = {
    'w2a2': ('1', 67.0), 'w2a2_rate2': ('2', 66.8), 'w2a2_rate3': ('3', 66.1),
    'w2a2_via8': ('no decay', 65.8),
}  # fmt: skip
FIGURE_3 = {
    'w2a2_p1': '32-bit', 'w2a2_via8': '8-bit', 'w2a2_via4': '4-bit', 'w2a2_p2': 'nothing',
}  # fmt: skip
# Bits, at most so far below float, the paper's gap.
TARGETS = {
    'w8a8': ('8 / 8', 0.0, 0.0), 'w4a4': ('4 / 4', 0.0, 1.2), 'w2a2': ('2 / 2', 0.3, 2.8),
    'w1a2': ('1 / 2', 1.0, 7.0), 'w1a1': ('1 / 1', 4.0, None),
}  # fmt: skip
STEPS = {
    'w2a2': '2 / 2, plain', 'w2a2_dorefa': "2 / 2, the paper's quantizers",
    'w1a2': '1 / 2, plain', 'w1a2_dorefa': "1 / 2, the paper's quantizers",
    'w1a2_long': '1 / 2, bits 8, 4, 2, 1 and a longer last stage',
    'w1a2_p1': '1 / 2, no stages', 'w1a2_ema': '1 / 2, averaged weights',
    'w1a2_slow': '1 / 2, a third of the learning rate',
    'w1a2_fast': '1 / 2, twice the learning rate', 'w1a2_wd0': '1 / 2, no weight decay',
    'w1a2_sgd': '1 / 2, SGD from the float network on',
    'w1a2_distill': '1 / 2, scores of the float teacher',
    'w1a2_features': '1 / 2, scores and features of the teacher',
    'w1a2_residual8': '1 / 2, shortcuts of 8 bits',
    'w1a2_last8': '1 / 2, 8 bits where the scores are made',
    'fp32': 'float, plain', 'fp32_sgd': 'float, SGD for its second half',
}  # fmt: skip
SIZES = {'full': '480x360, ResNet-18', 'half': "240x180, half of ResNet-18's width"}

HEAD = """\
# Results on CamVid

Written by `python tools/results.py` from {csv}; nothing here is typed in. [study.md](study.md)
says how the rows come about. The paper's numbers stand beside ours for the trend alone: they are of
VOC 2012 and Cityscapes, with ImageNet's weights to begin with. Ours begin with random weights and see
the 367 training images only; mIoU is of the last weights, in percent, on the 101 validation images
at 480x360. Every network of a table has trained for as many iterations in all, the float one too.
`a ± b (n)`: mean and standard deviation of n seeds. The two scales are never mixed. *{missing}*: no row.
"""


def page(
    rows: Sequence[Row],
    csv: Path,
    docs: Path,
    speeds: Sequence[Mapping[str, str]] = (),
    speed_csv: Path = Path('results/camvid_speed.csv'),
) -> str:
    """The whole page. docs: the folder that it lies in, looked at for figures. speeds: rows of
    `tools/benchmark.py cpu` on models of the zoo, which speed_csv holds."""
    lines = [HEAD.format(csv=_link(csv, docs), missing=MISSING)]
    sections = [scale for scale in PAGES if any(row.scale == scale for row in rows)]
    if not sections:
        lines.append('No network has been trained yet: the list of rows is empty.\n')
    for scale in sections:
        of_scale = [row for row in rows if row.scale == scale]
        lines += Section(scale, of_scale, docs, _speed_ups(speeds), _link(speed_csv, docs)).lines()
    return '\n'.join(lines)


def _link(csv: Path, docs: Path) -> str:
    try:
        target = f'../{csv.resolve().relative_to(docs.resolve().parent).as_posix()}'
    except ValueError:
        target = csv.as_posix()
    return f'[{csv.name}]({target})'


def _speed_ups(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """'3.2x (onnxruntime, avx2), 3.3x (openvino, avx512)' by network, the latest row of each ISA."""
    latest: dict[str, dict[str, str]] = {}
    for row in rows:
        if row['contender'] == 'bfcn' and row['threads'] == '1' and row['over_float32']:
            said = f'{float(row["over_float32"]):.1f}x ({row["over_float32_peer"]}, {row["isa"]})'
            latest.setdefault(row['network'], {})[row['isa']] = said
    return {network: ', '.join(said.values()) for network, said in latest.items()}


class Section:
    """The tables of one scale."""

    def __init__(
        self,
        scale: str,
        rows: Sequence[Row],
        docs: Path,
        speed_ups: Mapping[str, str],
        speed_link: str,
    ) -> None:
        self.scale, self.docs = scale, docs
        self.speed_ups, self.speed_link = speed_ups, speed_link
        self.runs: Mapping[str, Run] = camvid(scale)
        newest = {
            row.run: row.hash for row in rows
        }  # of a run whose config changed, the latest one
        self.rows = {
            name: [r for r in rows if r.run == name and r.hash == newest[name]] for name in newest
        }

    def lines(self) -> list[str]:
        budget = {r.total_iters for name in ('fp32', 'w2a2') for r in self.rows.get(name, ())}
        iters = ', '.join(f'{n:,}' for n in sorted(budget)) or MISSING
        commits = ', '.join(sorted({r.commit for rows in self.rows.values() for r in rows}))
        devices = ', '.join(sorted({r.device for rows in self.rows.values() for r in rows}))
        return [
            f'## {self.scale.capitalize()} scale: {SIZES[self.scale]}\n',
            f'{iters} iterations in all, on {devices}; commits {commits}.\n',
            *self._noise(),
            *self._targets(),
            *self._table_1(),
            *self._table_2(),
            *self._table_3(),
            *self._classes(),
            *self._table_5(),
            *self._table_6(),
            *self._steps(),
            *self._figures(),
        ]

    def _done(self, name: str) -> list[Row]:
        return [row for row in self.rows.get(name, ()) if row.status != COLLAPSED]

    def mean(self, name: str, what: str = 'miou') -> float | None:
        values = [getattr(row, what) for row in self._done(name)]
        return statistics.fmean(values) if values and None not in values else None

    def spread(self, name: str, what: str = 'miou') -> str:
        """'61.2 ± 0.3 (3)', or why there is none."""
        rows = self.rows.get(name, [])
        if not rows:
            return MISSING
        gone = sum(row.status == COLLAPSED for row in rows)
        values = [getattr(row, what) for row in self._done(name)]
        values = [value for value in values if value is not None]
        text = f'diverged ({gone})' if gone else ''
        return ', '.join(part for part in (_spread(values), text) if part) or '-'

    def change(self, name: str, base: str) -> str:
        """Mean of name less mean of base, over the seeds that both have."""
        pairs = self._pairs(name, base)
        return f'{statistics.fmean(pairs):+.2f}' if pairs else '-'

    def _pairs(self, name: str, base: str) -> list[float]:
        theirs = {row.seed: row.miou for row in self._done(base)}
        return [row.miou - theirs[row.seed] for row in self._done(name) if row.seed in theirs]

    def _targets(self) -> list[str]:
        rows = []
        for name, (bits, allowed, papers) in TARGETS.items():
            gaps = self._pairs(name, 'fp32')
            verdict = MISSING if not gaps else 'yes' if statistics.fmean(gaps) >= -allowed else 'no'
            rows.append([bits, _gap(papers), _spread(gaps, '+') or '-', _gap(allowed), verdict])
        header = ['bits w / a', "the paper's change", 'ours', 'target', 'reached']
        note = f'Float: {self.spread("fp32")}. Ours: over the seeds that both have.'
        return _table('Change against float', header, rows, note)

    def _table_1(self) -> list[str]:
        rows = []
        for prefix in ('', 'r50_') if any(n.startswith('r50_') for n in self.rows) else ('',):
            for name, (voc, city, speed) in TABLE_1.items():
                name = prefix + name
                size = self.mean(name, 'bytes')
                rows.append(
                    [name, f'{voc} / {city}', speed, self.spread(name)]
                    + [self.spread(name, 'miou_packed') if self.runs[name].packed else '-']
                    + [self._speed_up(name)]
                    + [f'{size / 1e3:,.0f}' if size else '-']
                )
        header = ['network', 'paper: VOC / Cityscapes', 'paper: speed-up', 'mIoU', 'mIoU, packed']
        header += ['speed-up', 'kB']
        note = (
            'Speed-up: of the packed file in C over the fastest float32 peer that was timed in turns '
            'with it (named, with the instructions that both may use): one image, one core; '
            f'{self.speed_link} names the machine; [performance.md](performance.md) has wider networks. '
            'kB: of the packed file, of all weights for float.'
        )
        return _table('Table 1: summary', header, rows, note)

    def _speed_up(self, name: str) -> str:
        run = self.runs[name]
        return self.speed_ups.get(model_name(run, self.scale), MISSING) if run.packed else '1x'

    def _table_2(self) -> list[str]:
        rows = []
        for name, (what, paper, ops) in TABLE_2.items():
            macs = self.mean(name, 'head_macs')
            rows.append([what, paper, ops, self.spread(name), f'{macs / 1e9:.3f}' if macs else '-'])
        header = ['reconstruction', 'paper', 'paper: GOps', 'mIoU', 'G MACs of the head']
        return _table('Table 2: reconstruction', header, rows, self._order(TABLE_2))

    def _table_3(self) -> list[str]:
        rows = [
            [what, paper, self.spread(name), self._to_decay(name)]
            for name, (what, paper) in TABLE_3.items()
        ]
        note = 'No 2-bit classifier is to be had here: P2 trains 2 bits from random weights. '
        return _table(
            'Table 3: routes to 2 bits', ['from', 'paper', 'mIoU', 'to decay'], rows,
            note + self._order(TABLE_3),
        )  # fmt: skip

    def _classes(self) -> list[str]:
        names = [name for name in ('fp32', 'w4a4', 'w2a2', 'w1a2') if self._done(name)]
        classes = list(dict.fromkeys(c for n in names for row in self._done(n) for c in row.iou))
        rows = []
        for name in names:
            done = self._done(name)
            means = [statistics.fmean([r.iou[c] for r in done if c in r.iou]) for c in classes]
            rows.append([name, f'{self.mean(name):.1f}', *(f'{value:.1f}' for value in means)])
        title = 'Tables 4 and 7: class by class'
        if not rows:
            return [f'### {title}\n', f'{MISSING.capitalize()}.\n']
        return _table(title, ['network', 'mean', *classes], rows, self._hard_classes(classes))

    def _hard_classes(self, classes: Sequence[str]) -> str:
        """Whether the classes that are hard for float lose most, as the paper says."""
        hard, easy = [], []
        both = self._done('fp32'), self._done('w1a2')
        if not all(both):
            return ''
        full, low = (
            {c: statistics.fmean(r.iou[c] for r in rows if c in r.iou) for c in classes}
            for rows in both
        )
        ranked = sorted(classes, key=full.get)
        half = len(ranked) // 2
        for part, names in ((hard, ranked[:half]), (easy, ranked[-half:])):
            part += [low[c] - full[c] for c in names]
        hard_mean, easy_mean = statistics.fmean(hard), statistics.fmean(easy)
        holds = 'holds' if hard_mean < easy_mean else 'does not hold'
        return (
            f'At 1 / 2 bits the {half} hardest classes change by {hard_mean:+.1f}, the {half} easiest by '
            f'{easy_mean:+.1f}: that hard classes lose most {holds} here.'
        )

    def _table_5(self) -> list[str]:
        rows = []
        for name, (bits, paper) in TABLE_5.items():
            said = 'diverges' if name in DIVERGED else '-' if paper is None else paper
            bitops = self.mean(name, 'bitops')
            rows.append(
                [
                    bits,
                    said,
                    self.spread(name),
                    self.change(name, 'fp32'),
                    self.spread(name, 'miou_packed'),
                ]
                + [f'{bitops / 1e9:.2f}' if bitops else '-']
            )
        header = ['bits w / a', 'paper', 'mIoU', 'to float', 'mIoU, packed', 'G bit-ops']
        note = self._order(TABLE_5)
        if self._pairs('w1a4', 'w2a2'):
            note += (
                f' 1 / 4 bits, with as many bit-operations as 2 / 2, change its mIoU by '
                f'{self.change("w1a4", "w2a2")}.'
            )
        return _table('Table 5: bits', header, rows, note)

    def _table_6(self) -> list[str]:
        rows = [
            [rate, paper, self.spread(name), self._to_decay(name)]
            for name, (rate, paper) in TABLE_6.items()
        ]
        return _table(
            'Table 6: rate of decay, to 2 bits', ['rate', 'paper', 'mIoU', 'to rate 1'], rows,
            self._order(TABLE_6),
        )  # fmt: skip

    def _to_decay(self, name: str) -> str:
        return '-' if name == 'w2a2' else self.change(name, 'w2a2')

    def _steps(self) -> list[str]:
        rows = []
        for name, what in STEPS.items():
            base = name.split('_')[0]  # w1a2 of w1a2_ema
            gain = '-' if name == base else self.change(name, base)
            rows.append([what, self.spread(name), gain])
        note = 'Change: of the mean over the seeds that both have, against the plain recipe.'
        return _table('What each step of the recipe brings', ['training', 'mIoU', 'change'],
                      rows, note)  # fmt: skip

    def _noise(self) -> list[str]:
        """How far seeds alone are apart, by the float network half-way."""
        values = [row.miou for row in self._done('float')]
        if len(values) < 2:
            return []
        return [
            f'Float networks of {len(values)} seeds are {max(values) - min(values):.1f} apart after half '
            'of their training: between rows of one seed less than that may be chance.\n'
        ]

    def _figures(self) -> list[str]:
        lines = []
        for title, name in (
            ('Figure 3: training loss by where 2 bits start from', 'fig3'),
            ('Figure 4: image, truth, float, 2 and 1-2 bits', 'fig4'),
        ):
            file = Path('results') / f'{self.scale}_{name}.png'
            there = (self.docs / file).exists()
            text = f'![{title}]({file.as_posix()})' if there else f'{MISSING.capitalize()}.'
            lines += [f'### {title}\n', f'{text}\n']
            if name == 'fig3' and there:
                lines += self._convergence(self.docs / file.with_suffix('.csv'))
        return lines

    def _convergence(self, file: Path) -> list[str]:
        """Whether starts of fewer bits converge faster, as the paper says; file: of write_curves()."""
        curves = read_curves(file)
        if set(curves) != set(FIGURE_3.values()):
            return []
        until = min(curve[-1][0] for curve in curves.values())
        means = {
            label: statistics.fmean(loss for step, loss in curves[label] if step <= until)
            for label in FIGURE_3.values()
        }
        said = ', '.join(f'{mean:.2f} from {label}' for label, mean in means.items())
        holds = 'holds' if means['32-bit'] > means['8-bit'] > means['4-bit'] else 'does not hold'
        return [
            f'Over the first {until} iterations at 2 bits the mean loss is {said}: that starts of fewer '
            f'bits converge faster {holds} here. Their runs are shorter: their rates fall sooner.\n'
        ]

    def _order(self, table: Mapping[str, tuple]) -> str:
        """Whether ours rank as the paper's do, where both have a number, over the seeds of both."""
        papers = {
            name: cells[-2 if table is TABLE_2 else -1]
            for name, cells in table.items()
            if self._done(name)
        }
        compared = [
            statistics.fmean(ours) * (papers[name] - papers[other]) > 0
            for name, other in itertools.combinations(papers, 2)
            if None not in (papers[name], papers[other]) and papers[name] != papers[other]
            if (ours := self._pairs(name, other))
        ]
        if not compared:
            return ''
        return (
            f'Of {len(compared)} pairs of rows, {sum(compared)} rank as in the paper '
            '(over the seeds that both have).'
        )


def write_curves(file: Path, curves: Mapping[str, Sequence[Mapping]]) -> None:
    """Figure 3's points beside it. curves: for each label the records of read_curve()."""
    points = [(label, r['step'], r['loss']) for label, records in curves.items() for r in records]
    write_csv(file, ['start', 'step', 'loss'], points)


def read_curves(file: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) by label; empty if the file is not there."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in read_csv(file):
        curves.setdefault(row['start'], []).append((int(row['step']), float(row['loss'])))
    return curves


def _spread(values: Sequence[float], sign: str = '') -> str:
    """'61.20 ± 0.30 (3)', mean, standard deviation and count; empty for no values."""
    if not values:
        return ''
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):{sign}.2f}{deviation} ({len(values)})'


def _gap(value: float | None) -> str:
    return '-' if value is None else f'{-value:+.1f}' if value else '0'


def _table(
    title: str, header: Sequence[str], rows: Sequence[Sequence], note: str = ''
) -> list[str]:
    lines = [f'### {title}\n', f'| {" | ".join(header)} |', f'|{"---|" * len(header)}']
    lines += [f'| {" | ".join(str(cell) for cell in row)} |' for row in rows]
    return [*lines, '', *([f'{note.strip()}\n'] if note.strip() else [])]
