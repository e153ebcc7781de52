"""Pass or fail, by criterion: is the distance of the integers to fake-quantized evaluation what rounding
ties explain?"""

from __future__ import annotations

from dataclasses import dataclass

from .verify import SCORE_ERROR, FakeQuantReport

# Percent. docs/export.md has the measurements that they come from.
PIXELS = 1.0
CODES = 0.05


@dataclass(frozen=True)
class Verdict:
    """One criterion: whether it is met, and the numbers in a line."""

    passed: bool
    name: str
    text: str

    def __str__(self) -> str:
        return f'{"PASS" if self.passed else "FAIL"} {self.name}: {self.text}'


def judge(
    report: FakeQuantReport, tolerance: float = PIXELS, max_flips: float = CODES
) -> list[Verdict]:
    """Verdicts on a report.

    tolerance: percent of pixels whose label may differ. max_flips: percent of an op's codes, and of the
    scores, that may differ when it reads the float model's own codes; one code always may.
    """
    return [
        _finite(report),
        _codes(report, max_flips),
        _scores(report, max_flips),
        _labels(report, tolerance),
    ]


def _finite(report: FakeQuantReport) -> Verdict:
    if report.not_finite:
        return Verdict(False, 'finite', f'NaN or Inf in {", ".join(report.not_finite)}')
    return Verdict(True, 'finite', 'no NaN or Inf in any map')


def _codes(report: FakeQuantReport, limit: float) -> Verdict:
    counted = {name: flips for name, flips in report.flips.items() if flips.codes}
    if not counted:
        return Verdict(False, 'codes', 'no map of the model was compared')

    def excess(name: str) -> float:
        return counted[name].local / max(1, limit / 100 * counted[name].codes)

    worst = max(counted, key=excess)
    flips = counted[worst]
    text = (
        f'{flips.local} of {flips.codes} ({_percent(flips.local, flips.codes)}) differ by themselves in '
        f'{worst}, the limit of an op is {limit:g} %, or 1 code'
    )
    return Verdict(excess(worst) <= 1, 'codes', text)


def _scores(report: FakeQuantReport, limit: float) -> Verdict:
    if not report.scores:
        return Verdict(False, 'scores', 'no score was compared')
    layers = {name: flips for name, flips in report.flips.items() if not flips.codes}
    far = [n for n, flips in layers.items() if not flips.error <= SCORE_ERROR * flips.largest]
    share = _percent(report.scores_differ, report.scores)
    text = (
        f'{share} are off by themselves ({SCORE_ERROR:g} of the largest), the limit is {limit:g} %'
    )
    if far:
        text += f'; layer {far[0]} differs by up to {layers[far[0]].error:.1e}'
    few = 100 * report.scores_differ <= limit * report.scores
    return Verdict(few and not far, 'scores', text)


def _labels(report: FakeQuantReport, limit: float) -> Verdict:
    if not report.pixels:
        return Verdict(False, 'labels', 'no pixel was compared')
    share = _percent(report.pixels_differ, report.pixels)
    text = f'{share} of the pixels differ, the limit is {limit:g} % (--tolerance)'
    return Verdict(100 * report.pixels_differ <= limit * report.pixels, 'labels', text)


def _percent(part: int, whole: int) -> str:
    return f'{100 * part / whole:.2g} %'
