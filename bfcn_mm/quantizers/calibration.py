"""Where the grid should lie: least-squares bounds and steps from data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .fake_quant import weight_codes
from .grids import WeightGrid

# Least-squares uniform quantizers of a unit normal: distance between levels (Max, 1960).
_NORMAL_STEP = {
    1: 1.596,
    2: 0.9957,
    3: 0.586,
    4: 0.3352,
    5: 0.1881,
    6: 0.1041,
    7: 0.0569,
    8: 0.0308,
}
_SAMPLES = 1 << 16
_CANDIDATES = 48
TINIEST_STEP = 1e-8  # of activations
# Of weights. What a layer of zeros gives on a grid without zero is narrower than NO_WIDTH for any input.
TINIEST_WEIGHT_STEP = 1e-30
NO_WIDTH = 1e-20
RULES = ('error', 'percentile', 'range')


@dataclass(frozen=True)
class Calibration:
    """How activation grids are placed: the `quant.calibrate` key.

    batches: training batches that are run before the first step.
    rule: 'error', the clipping range with the least squared error at the bits in force; 'percentile', the
    range that leaves out 100 - percentile per cent of the values (half on each side where values are
    signed); 'range', the smallest and the largest value.
    """

    batches: int = 32
    rule: str = 'error'
    percentile: float = 99.99


LEAST_ERROR = Calibration()


@torch.no_grad()
def activation_bounds(
    x: Tensor, bits: int, signed: bool, rule: Calibration = LEAST_ERROR, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(low, high), scalars: the clipping range of x by a rule of Calibration; low is 0 unless signed.

    'error' and 'percentile' look at 65536 values of x, drawn at random with the seed where x has more:
    evenly spaced values of a map whose width is a power of two would come from a few of its columns. The
    error is searched over the full range of x, shrunk by 48 factors from 1 to 0.02. A map narrower than
    NO_WIDTH gives (0, 0); values that are not finite give bounds that are not.
    """
    x = x.detach().flatten()
    ends = torch.stack(torch.aminmax(x)).float()
    low = ends[0].clamp(max=0) if signed else torch.zeros_like(ends[0])
    high = ends[1].clamp(min=0)
    width = high - low
    bad = ends.sum() * 0  # 0, or NaN where a value is NaN or infinite
    if width <= NO_WIDTH:
        return bad, bad.clone()
    if rule.rule == 'range' or not torch.isfinite(ends).all():
        return low + bad, high + bad
    sample = _sample(x, seed).float()
    if not signed:
        sample = sample.clamp(min=0)
    if rule.rule == 'percentile':
        return _percentiles(sample, signed, rule.percentile)
    shrink = torch.logspace(0, -1.7, _CANDIDATES, device=x.device)[:, None]
    step = shrink * width / (2**bits - 1)
    zero_point = torch.floor(-shrink * low / step + 0.5)
    errors = [_squared_error(sample, *row, bits) for row in zip(step, zero_point, strict=True)]
    best = shrink[torch.stack(errors).argmin(), 0]
    return low * best, high * best


def _sample(x: Tensor, seed: int) -> Tensor:
    if x.numel() <= _SAMPLES:
        return x
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(x.numel(), (_SAMPLES,), generator=generator)
    return x[index.to(x.device)]


def _squared_error(x: Tensor, step: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    q = (x / step).add_(zero_point + 0.5).floor_().clamp_(0, 2**bits - 1)
    return q.sub_(zero_point).mul_(step).sub_(x).square_().sum()


def _percentiles(x: Tensor, signed: bool, percentile: float) -> tuple[Tensor, Tensor]:
    left_out = (1 - percentile / 100) / (2 if signed else 1)
    ends = torch.tensor([left_out, 1 - left_out], device=x.device)
    low, high = torch.quantile(x, ends)
    return low.clamp(max=0) if signed else torch.zeros_like(high), high.clamp(min=0)


def normal_step(grid: WeightGrid) -> float:
    """The step with the least squared error for a normal distribution of deviation 1."""
    return _NORMAL_STEP[grid.bits] / grid.k


@torch.no_grad()
def weight_step(w: Tensor, grid: WeightGrid, dims: tuple[int, ...]) -> Tensor:
    """The step with the least squared error on the grid, reduced over dims (kept as size 1).

    Starts at the optimum of a normal distribution, but no wider than the weights, then alternates
    w -> codes and step = <w, v> / <v, v> (Lloyd's iteration). A channel of zeros gets step 1e-30.
    """
    w = w.detach().float()
    spread = w.square().mean(dims, keepdim=True).sqrt_()
    widest = w.abs().amax(dims, keepdim=True) / grid.high  # no grid need reach further
    step = torch.minimum(spread * normal_step(grid), widest).clamp_(min=TINIEST_WEIGHT_STEP)
    for _ in range(8):
        v = weight_codes(w, step, grid).mul_(grid.k).sub_(grid.z)
        fit = (w * v).sum(dims, keepdim=True) / v.square().sum(dims, keepdim=True).clamp_(min=1)
        step = torch.where(fit > 0, fit, step).clamp_(min=TINIEST_WEIGHT_STEP)
    return step


def mean_of_widths(bounds: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """(low, high): the mean of (n, 2) bounds over all processes, the same bits on each.

    Bounds of width 0 are left out. If there are no others: (0, 1), signed (-1, 1), where a map that
    starts at zero can grow in all directions. NaN anywhere gives NaN.
    """
    counts = (bounds[:, 1] != bounds[:, 0]).float()[:, None]
    total = torch.cat([bounds * counts, counts], 1).sum(0)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    low, high, count = total
    low = torch.where(count == 0, -1 if signed else 0, low / count)
    return low, torch.where(count == 0, 1, high / count)
