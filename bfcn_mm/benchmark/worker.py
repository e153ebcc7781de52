"""Measures in a process of its own: PLAN.json OUT.json. It leaves when its standard input ends.

The environment must hold what caps the instruction set. A plan: task ('time' or 'memory'), cores,
threads, isa, rounds, reference (.npz), entries (see contenders.load). Nothing is timed unless its numbers
are right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / part) for part in ('', 'kernels')]

import numpy as np  # noqa: E402

import _bfcn_command  # noqa: E402, F401 - this process imports bfcn_mm without torch
from bfcn_mm.benchmark import contenders, memory, process, report, timing  # noqa: E402

# Of the float network's scores: the largest error over the largest score; correlation below 8 bits of
# mantissa. The last is a plausibility check: random weights are the worst case for post-training int8.
_FLOAT_ERROR, _BF16_CORRELATION, _INT8_CORRELATION = 1e-3, 0.9, 0.8


def main() -> None:
    process.end_with_parent()
    plan = json.loads(Path(sys.argv[1]).read_text())
    report.pin(plan['cores'])
    with np.load(plan['reference']) as file:
        arrays = dict(file)
    result = (measure_time if plan['task'] == 'time' else measure_memory)(plan, arrays)
    Path(sys.argv[2]).write_text(json.dumps(result))


def measure_time(plan: dict, arrays: dict[str, np.ndarray]) -> list[dict]:
    """All entries in turns."""
    loaded = [_load(entry, plan, arrays) for entry in plan['entries']]
    loaded = {contender.label: contender for contender in loaded if contender is not None}
    agreement = {label: check(contender, arrays) for label, contender in loaded.items()}
    runs = {label: contender.run for label, contender in loaded.items()}
    where = 'x'.join(map(str, arrays['image'].shape[:2]))
    seconds = timing.in_turns(
        runs,
        plan['rounds'],
        plan['threads'],
        lambda text: process.progress(f'{where}, {len(runs)} contenders: {text}'),
    )
    return [
        dict(
            name=contender.name,
            precision=contender.precision,
            version=contender.version,
            isa=contender.isa,
            agreement=agreement[label],
            sizes=contender.sizes,
            seconds=seconds[label],
        )
        for label, contender in loaded.items()
    ]


def measure_memory(plan: dict, arrays: dict[str, np.ndarray]) -> dict | None:
    """What one entry adds to a process that has imported its library: `process` bytes at the most, and
    `run` bytes at the most once it has been loaded."""
    (entry,) = plan['entries']
    library = {'bfcn': 'bfcn_kernels.cpu'}.get(entry['name'], entry['name'])
    __import__(library)
    before, _ = memory.resident()
    contender = _load(entry, plan, arrays)
    if contender is None:
        return None
    _, while_loading = memory.resident()
    memory.reset_peak()
    for _ in range(2):
        contender.run()
    _, while_running = memory.resident()
    process = max(while_loading, while_running)
    return dict(process=process - before, run=while_running - before)


def check(contender: contenders.Contender, arrays: dict[str, np.ndarray]) -> float:
    """How the scores agree with the float network's; sys.exit if they cannot be its scores.

    float32: largest error over the largest score; bf16 and int8: correlation; ours: 0, since it has
    already been held to the oracle (cpu.py).
    """
    if contender.name == 'bfcn':
        return 0.0
    scores, expected = np.asarray(contender.run()), arrays['scores']
    if scores.shape != expected.shape:
        sys.exit(f'{contender.label}: scores are {scores.shape}, not {expected.shape}')
    if contender.precision == 'float32':
        error = float(np.abs(scores - expected).max() / np.abs(expected).max())
        if not error < _FLOAT_ERROR:
            sys.exit(f'{contender.label}: scores are off by {error:.2g} of the largest')
        return error
    least = _BF16_CORRELATION if contender.precision == 'bf16' else _INT8_CORRELATION
    correlation = float(np.corrcoef(scores.ravel(), expected.ravel())[0, 1])
    if not correlation > least:
        sys.exit(f'{contender.label}: correlation with the float scores is {correlation:.3f}')
    return correlation


def _load(entry: dict, plan: dict, arrays: dict) -> contenders.Contender | None:
    return contenders.load(entry, plan['threads'], plan['isa'], arrays)


if __name__ == '__main__':
    main()
