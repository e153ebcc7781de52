"""Times that bear comparison: everything in turns, in one process, on the same cores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

_WARM_BELOW = 0.5  # seconds: a longer run fills the caches by itself
_SILENCE = 10  # seconds between reports of progress
_PAUSE = 0.02  # seconds, for another library's waiting threads to stop spinning


def in_turns(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    threads: int,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, list[float]]:
    """Seconds by name, one for each round. In a round each runs once untimed, if it is short, to have
    its own data in the caches, then once timed. progress hears of rounds every few seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    warm = {name: _is_short(run) for name, run in runs.items()}
    said = time.perf_counter()
    for done in range(rounds):
        if time.perf_counter() - said > _SILENCE:
            progress(f'{done} of {rounds} rounds timed')
            said = time.perf_counter()
        for name, run in runs.items():
            if threads > 1:
                time.sleep(_PAUSE)
            if warm[name]:
                run()
            seconds[name].append(timed(run))
    return seconds


def _is_short(run: Callable[[], object]) -> bool:
    """By its second run, since the first allocates; a first run that is long beyond doubt will do."""
    return timed(run) < 10 * _WARM_BELOW and timed(run) < _WARM_BELOW


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method='inclusive')
    return low, middle, high


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times faster we are, round by round: noise of the machine hits both of a round."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]
