"""Which networks the study trains, from what each starts, and which table asks for it.

Every network that a table compares has seen 2 N iterations in all, the float one too: N in float, then
N more at the bits of the row. The float row goes on in float for as long, with the same schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TABLES = ('1', '2', '3', '4', '5', '6', 'fig3', 'fig4', 'recipe')
_SUMMARY = ('1', '4', '5', 'fig4', 'recipe')


@dataclass(frozen=True, eq=False)
class Run:
    """One training. options: dotted config keys over `config`. start: the run whose last weights it
    begins with. teacher: the run that it distils from. tables: where its row stands, of TABLES; none
    for a stepping stone. packed: whether it has a packed model."""

    name: str
    config: str
    iters: int
    options: Mapping[str, object] = field(default_factory=dict)
    start: str | None = None
    teacher: str | None = None
    tables: tuple[str, ...] = ()
    packed: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(n for n in (self.start, self.teacher) if n is not None))


@dataclass(frozen=True)
class Scale:
    """config: the float network's. iters: N of the module's text. options: of every run."""

    config: str
    iters: int
    options: Mapping[str, object] = field(default_factory=dict)


SCALES = {
    'full': Scale('configs/bfcn_r18_camvid_fp32.py', 12000),
    'half': Scale('configs/bfcn_r18_camvid_fp32_half.py', 2000),
    # Proves in minutes that every command works; its figures mean nothing and reach no page.
    'tiny': Scale(
        'configs/bfcn_r18_camvid_fp32_half.py',
        16,
        {
            'train_dataloader.batch_size': 2,
            'model.backbone.stem_channels': 8,
            'model.backbone.base_channels': 8,
            'model.decode_head.in_channels': [8, 16, 32, 64],
            'model.decode_head.channels': [8, 8, 8, 8],
        },
    ),
}


def camvid(scale: str) -> dict[str, Run]:
    """Every run of a scale by name. Raises ValueError for an unknown scale."""
    if scale not in SCALES:
        raise ValueError(f'scale must be one of {", ".join(SCALES)}, got {scale!r}')
    runs = _network('', SCALES[scale], ('1', '2', '3', '4', '5', '6', 'fig3', 'fig4', 'recipe'))
    if scale == 'full':
        r50 = Scale('configs/bfcn_r50_camvid_fp32.py', SCALES[scale].iters)
        wanted = ('r50_fp32', 'r50_w2a2', 'r50_w1a2')
        larger = {run.name: run for run in _network('r50_', r50, ('1',))}
        runs += list(in_order(larger, wanted))
    return {run.name: run for run in runs}


def _network(prefix: str, scale: Scale, tables: tuple[str, ...]) -> list[Run]:
    n = scale.iters

    def run(name: str, where: str = '', iters: int = n, start: str = 'float', **keys) -> Run:
        options = dict(scale.options) | keys.pop('options', {})
        for key in ('quant', 'custom_hooks'):
            if key in keys:
                options[key] = keys.pop(key)
        listed = tuple(table for table in where.split() if table in tables)
        begin = None if start is None else prefix + start
        teacher = keys.pop('teacher', None)
        teacher = None if teacher is None else prefix + teacher
        packed = 'quant' in options
        return Run(prefix + name, scale.config, iters, options, begin, teacher, listed, packed)

    def bits(w: int, a: int, rate: int = 1, **keys) -> dict:
        return dict(quant=dict(w=w, a=a, decay=_decay(w, a, rate, n), **keys))

    conv, wide = ({'model.decode_head.block': block} for block in ('conv', 'wide'))
    return [
        # Tables 1, 4 and 5, Figure 4
        run('float', start=None),
        run('fp32', '1 4 5 fig4 recipe'),
        run('w8a8', '5', quant=dict(w=8, a=8)),
        run('w4a4', '4 5', **bits(4, 4)),
        run('w2a2', '1 2 3 4 5 6 fig4 recipe', **bits(2, 2)),
        run('w1a2', '1 4 5 fig4 recipe', **bits(1, 2)),
        run('w1a1', '5', **bits(1, 1)),
        run('w3a3', '5', **bits(3, 3)),
        run('w1a4', '5', **bits(1, 4)),
        run('w4a1', '5', **bits(4, 1)),
        # Table 6: the last stage is as long at every rate
        run('w2a2_rate2', '6', **bits(2, 2, 2)),
        run('w2a2_rate3', '6', **bits(2, 2, 3)),
        run('w8a8_mid', '', n // 2, quant=dict(w=8, a=8)),
        run('w2a2_via8', '3 6 fig3', n - n // 2, 'w8a8_mid', quant=dict(w=2, a=2)),
        # Table 3 and Figure 3: 2 bits from float, from 8 bits, from 4 bits, from nothing
        run('w2a2_p1', '3 fig3', quant=dict(w=2, a=2)),
        run('w2a2_p2', '3 fig3', 2 * n, None, quant=dict(w=2, a=2)),
        run('w4a4_mid', '', n // 4, 'w8a8_mid', quant=dict(w=4, a=4)),
        run('w2a2_via4', 'fig3', n - n // 2 - n // 4, 'w4a4_mid', quant=dict(w=2, a=2)),
        # Table 2
        run('float_conv', start=None, options=conv),
        run('fp32_conv', '2', start='float_conv', options=conv),
        run('w2a2_conv', '2', start='float_conv', options=conv, **bits(2, 2)),
        run('float_wide', start=None, options=wide),
        run('w2a2_wide', '2', start='float_wide', options=wide, **bits(2, 2)),
        # The recipe, one step at a time, at 1-2 bit unless named otherwise
        run('w2a2_dorefa', 'recipe', **bits(2, 2, method='dorefa')),
        run('w1a2_dorefa', 'recipe', **bits(1, 2, method='dorefa')),
        run('w1a2_long', 'recipe', quant=_long(1, 2, n)),
        run('w1a2_slow', 'recipe', options=_SLOW, **bits(1, 2)),
        run('w1a2_fast', 'recipe', options=_FAST, **bits(1, 2)),
        run('w1a2_wd0', 'recipe', options=_NO_WEIGHT_DECAY, **bits(1, 2)),
        run('w1a2_p1', 'recipe', quant=dict(w=1, a=2)),
        run('fp32_sgd', 'recipe', options=_SGD),
        run('w1a2_sgd', 'recipe', options=_SGD, **bits(1, 2)),
        run('w1a2_ema', 'recipe', custom_hooks=_ema(n), **bits(1, 2)),
        run('w1a2_distill', 'recipe', teacher='fp32', **bits(1, 2, distill=dict(_LOGITS))),
        run('w1a2_features', 'recipe', teacher='fp32', **bits(1, 2, distill=dict(_FEATURES))),
        run('w1a2_residual8', 'recipe', **bits(1, 2, residual=8)),
        run('w1a2_last8', 'recipe', **bits(1, 2, last=dict(w=8, a=8))),
    ]


_LOGITS = dict(weight=1.0, features=0.0)
_FEATURES = dict(weight=1.0, features=1.0)
_SGD = {
    'optim_wrapper.optimizer': dict(
        _delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005
    ),
    'param_scheduler.0.eta_min': 1e-4,
}
_SLOW = {'optim_wrapper.optimizer.lr': 0.001}
_FAST = {'optim_wrapper.optimizer.lr': 0.006}
_NO_WEIGHT_DECAY = {'optim_wrapper.optimizer.weight_decay': 0.0}


def _ema(iters: int) -> list[dict]:
    """Averaged over about a tenth of the run."""
    return [dict(type='StageEMAHook', momentum=min(0.5, 10 / iters))]


def _decay(w: int, a: int, rate: int, iters: int) -> dict:
    """Half of the run for the way down, in equal stages, half for the last stage."""
    stages = len(range(8, min(w, a), -rate))
    return dict(start=8, rate=rate, every=max(1, iters // 2 // max(1, stages)))


def _long(w: int, a: int, iters: int) -> dict:
    """8, 4, 2, 1 bits; two thirds of the run for the last stage."""
    stages = [bits for bits in (8, 4, 2, 1) if bits > min(w, a)]
    every = max(1, iters // 3 // len(stages))
    return dict(w=w, a=a, decay=dict(stages=[*stages, min(w, a)], every=every))


def select(runs: Mapping[str, Run], tables: Iterable[str], names: Iterable[str]) -> list[Run]:
    """The runs of these tables and of these names, each after what it needs; all if both are empty.

    Raises ValueError for a table or name that does not exist.
    """
    tables, names = list(tables), list(names)
    for table in tables:
        if table not in TABLES:
            raise ValueError(f'table must be one of {", ".join(TABLES)}, got {table!r}')
    for name in names:
        if name not in runs:
            raise ValueError(f'no run {name!r} at this scale: there are {", ".join(runs)}')
    wanted = [run.name for run in runs.values() if set(run.tables) & set(tables)] + names
    if not tables and not names:
        wanted = [run.name for run in runs.values()]
    return list(in_order(runs, wanted))


def in_order(runs: Mapping[str, Run], names: Iterable[str]) -> Iterable[Run]:
    """The named runs and all that they need, what is needed first; each once."""
    seen: set[str] = set()

    def visit(name: str) -> Iterable[Run]:
        if name in seen:
            return
        seen.add(name)
        for other in runs[name].needs:
            yield from visit(other)
        yield runs[name]

    for name in names:
        yield from visit(name)


def chain(runs: Mapping[str, Run], name: str) -> list[Run]:
    """The run and those whose weights it goes on from, the first one first."""
    run = runs[name]
    return [*(chain(runs, run.start) if run.start else []), run]


def model_name(run: Run, scale: str) -> str:
    """bfcn_r18_camvid_1w2a_half of the run w1a2 at the half scale; a suffix like _ema stays."""
    stem = Path(run.config).stem.replace('_fp32', '').removesuffix(f'_{scale}')
    bits, _, rest = run.name.removeprefix('r50_').partition('_')
    w, a = bits.removeprefix('w').split('a')
    bits = f'{w}bit' if w == a and w != '1' else f'{w}w{a}a'
    parts = [stem, bits, rest, '' if scale == 'full' else scale]
    return '_'.join(part for part in parts if part)
