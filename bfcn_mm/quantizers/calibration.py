"""Where the grid should lie: least-squares bounds and steps from data."""

from __future__ import annotations

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
_SAMPLES = 1 << 14
_CANDIDATES = 48


@torch.no_grad()
def activation_bounds(x: Tensor, bits: int, signed: bool) -> tuple[Tensor, Tensor]:
    """(low, high), scalars: the clipping range of x with the least squared error at 2**bits levels.

    low is 0 unless signed. A search over the range of x shrunk by 48 factors from 1 to 0.02, on at
    most 16384 evenly spaced samples. A range of width 0 becomes [0, 1].
    """
    x = x.detach().float().flatten()
    x = x[:: max(1, x.numel() // _SAMPLES)]
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    if not signed:
        x, low = x.clamp(min=0), torch.zeros_like(high)
    width = high - low
    if not torch.isfinite(width) or width <= 0:
        return torch.zeros_like(high), torch.ones_like(high)
    shrink = torch.logspace(0, -1.7, _CANDIDATES, device=x.device)[:, None]
    step = shrink * width / (2**bits - 1)
    zero_point = torch.floor(-shrink * low / step + 0.5)
    q = torch.floor(x / step + zero_point + 0.5).clamp_(0, 2**bits - 1)
    best = ((q - zero_point) * step - x).square_().sum(1).argmin()
    return low * shrink[best, 0], high * shrink[best, 0]


@torch.no_grad()
def weight_step(w: Tensor, grid: WeightGrid, dims: tuple[int, ...]) -> Tensor:
    """The step with the least squared error on the grid, reduced over dims (kept as size 1).

    Starts at the optimum of a normal distribution, but no wider than the weights, then alternates
    w -> codes and step = <w, v> / <v, v> (Lloyd's iteration). A channel of zeros gets step 1e-5.
    """
    w = w.detach().float()
    spread = w.square().mean(dims, keepdim=True).sqrt_()
    widest = w.abs().amax(dims, keepdim=True) / grid.high  # no grid need reach further
    step = torch.minimum(spread * (_NORMAL_STEP[grid.bits] / grid.k), widest).clamp_(min=1e-5)
    for _ in range(8):
        v = weight_codes(w, step, grid).mul_(grid.k).sub_(grid.z)
        fit = (w * v).sum(dims, keepdim=True) / v.square().sum(dims, keepdim=True).clamp_(min=1)
        step = torch.where(fit > 0, fit, step).clamp_(min=1e-5)
    return step


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of x over all processes, the same bits on each; x itself without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / dist.get_world_size()
