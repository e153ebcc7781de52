"""PyTorch's integer mode: the integer graph in torch ops, batched, on any device, bit for bit.

Convolutions are floating-point matrix products of integers, exact in any order while no sum passes
2**24 (float32) or 2**53 (float64); algorithms that are not plain sums (Winograd, FFT, TF32) are off.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bfcn_kernels import Graph, Model, ops, read
from bfcn_kernels.image import check_image
from bfcn_kernels.lifecycle import Closable
from bfcn_kernels.limits import READING, Limits
from bfcn_kernels.ops import BitConv, Term
from bfcn_kernels.ops.interpolation import source_index
from bfcn_kernels.values import Grid, Value

from .plain_sums import plain_sums


class TorchEngine(Closable):
    """An engine as in `bfcn_kernels.load`, from a file, a Model or a Graph.

    engine(image) takes and gives numpy arrays like every engine; run(images) is batched and in torch.
    Any number of threads may call it. While one runs, convolutions in the whole process are plain sums.
    Limits as in `bfcn_kernels.load`; on a GPU, half of its free memory is the default of max_bytes.
    """

    def __init__(
        self,
        model: str | Path | Model | Graph,
        device: str | torch.device | None = None,
        max_bytes: int | None = None,
        max_ops: int | None = None,
    ):
        super().__init__()
        self.limits = Limits(max_bytes, max_ops)
        if not isinstance(model, Model | Graph):
            model = Path(model)
            self.limits.check_file(model, times=READING)
            model = read(model)
        self.graph = model if isinstance(model, Graph) else model.graph
        self.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        self.values, self._last = self.graph.validate(), self.graph.last_reads()
        self._weights: dict[tuple[str, int], Tensor] = {}

    def _release(self) -> None:
        self._weights.clear()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        with self._call():
            maps = self.run(_batch(image), keep={self.graph.output, self.graph.logits})
            self._latest.logits = _numpy(maps[self.graph.logits])
            return _numpy(maps[self.graph.output])

    def trace(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Every value by op name: codes and labels uint8, scores float32, (h, w, channels)."""
        with self._call():
            maps = self.run(_batch(image), keep={op.name for op in self.graph.ops})
        self._latest.logits = _numpy(maps[self.graph.logits])
        return {name: _numpy(value) for name, value in maps.items()}

    def run(self, images: Tensor, keep: set[str]) -> dict[str, Tensor]:
        """The values in `keep` for uint8 RGB images (n, 3, h, w): codes uint8 and scores float32
        (n, channels, h, w), labels uint8 (n, h, w)."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f'images must be uint8 (n, 3, h, w) RGB, got {images.dtype} {tuple(images.shape)}'
            )
        with self._call(), plain_sums, torch.no_grad():
            return self._run(images, keep)

    def _run(self, images: Tensor, keep: set[str]) -> dict[str, Tensor]:
        batch, _, height, width = images.shape
        self.limits.check_image(self.graph, height, width, batch, _free_bytes(self.device))
        grids = self.graph.shapes(height, width)
        maps, kept = {'image': images.to(self.device)}, {}
        profile, peak = [], 0
        for index, op in enumerate(self.graph.ops):
            start = time.perf_counter()
            sources = [(maps[name], self.values[name]) for name in op.data_sources]
            maps[op.name] = self.run_op(op, sources, grids[op.name])
            profile.append((op.name, op.opname, time.perf_counter() - start))
            if op.name in keep:
                kept[op.name] = maps[op.name]
            peak = max(peak, sum(v.nbytes for name, v in maps.items() if name != 'image'))
            maps = {name: v for name, v in maps.items() if self._last.get(name, -1) > index}
        self._latest.profile, self._latest.peak_bytes = profile, peak
        return kept

    def run_op(self, op: ops.Op, sources: list[tuple[Tensor, Value]], grid: Grid) -> Tensor:
        """The value of one op, batched."""
        if isinstance(op, BitConv):
            return self._bit_conv(op, sources)
        return _RUN[type(op)](op, *sources, grid=grid)

    def _bit_conv(self, op: BitConv, sources: list[tuple[Tensor, Value]]) -> Tensor:
        t = None
        for index, (term, (codes, value)) in enumerate(zip(op.terms, sources, strict=False)):
            acc = self._accumulate(op.name, index, term, codes, value)
            acc = acc.float().mul_(_column(term.scale, self.device))
            t = acc.add_(_column(op.bias, self.device)) if t is None else t.add_(acc)
        for residual, (codes, value) in zip(op.residuals, sources[len(op.terms) :], strict=True):
            t = t.add_(_numbers(codes, value).mul_(residual.scale))
        return t if op.bits is None else _codes(t, op.bits)

    def _accumulate(self, name: str, index: int, term: Term, codes: Tensor, value: Value) -> Tensor:
        exact = torch.float32 if term.bound(value) <= 2**24 else torch.float64
        weight = self._weights.get((name, index))
        if weight is None:
            weight = torch.from_numpy(term.integers()).permute(0, 3, 1, 2)
            weight = self._weights[name, index] = weight.to(self.device, exact).contiguous()
        numbers = codes.to(exact) - value.zero_point
        return F.conv2d(
            numbers,
            weight,
            None,
            term.stride,
            term.padding,
            term.dilation,
            term.groups,
        )


def _free_bytes(device: torch.device) -> int | None:
    """Of a GPU; None for the memory of this machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else None


def interpolate(x: Tensor, grid: Grid, mode: str) -> Tensor:
    """float32 (n, c, h, w) on another grid, by the formulas of docs/format.md."""
    y0, y1, ly = _source_index(x.shape[2], grid[0], mode, x.device)
    x0, x1, lx = _source_index(x.shape[3], grid[1], mode, x.device)
    if mode == 'nearest':
        return x[:, :, y0][..., x0]
    rows = _lerp(x[..., x0], x[..., x1], lx)
    return _lerp(rows[:, :, y0], rows[:, :, y1], ly[:, None])


def _source_index(size: int, out: int, mode: str, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(a).to(device) for a in source_index(size, out, mode))


def _lerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    return (b - a).mul_(fraction).add_(a)


def _image_codes(op: ops.ImageCodes, source, grid: Grid) -> Tensor:
    image, _ = source
    tables = torch.from_numpy(op.tables).to(image.device)
    return torch.stack([tables[c][image[:, op.order[c]].long()] for c in range(3)], 1)


def _table(op: ops.Table, source, grid: Grid) -> Tensor:
    codes, _ = source
    return torch.from_numpy(op.table).to(codes.device)[codes.long()]


def _max_pool(op: ops.MaxPool, source, grid: Grid) -> Tensor:
    """Codes padded with 0 (never more than a code) up to what the last window reaches."""
    codes, _ = source
    pads = []
    for axis in (1, 0):
        reach = (grid[axis] - 1) * op.stride[axis] + op.dilation[axis] * (op.kernel[axis] - 1) + 1
        before = op.padding[axis]
        pads += [before, max(0, reach - before - codes.shape[2 + axis])]
    padded = F.pad(codes.float(), pads)
    pooled = F.max_pool2d(padded, op.kernel, op.stride, 0, op.dilation)
    return pooled[..., : grid[0], : grid[1]].to(torch.uint8)


def _avg_pool(op: ops.AvgPool, source, grid: Grid) -> Tensor:
    codes, value = source
    rows, columns = (_windows(op, codes.shape[2 + axis], grid[axis], axis) for axis in range(2))
    (top, bottom, height), (left, right, width) = rows, columns
    return _mean_codes(op, codes, value, (top, bottom, left, right), height[:, None] * width)


def _windows(op: ops.AvgPool, size: int, out: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """First and last + 1 tap inside the source, and the count along one axis."""
    start = torch.arange(out) * op.stride[axis] - op.padding[axis]
    stop = start + op.kernel[axis]
    low, high = start.clamp(0, size), stop.clamp(0, size)
    counted = (
        stop.clamp(max=size + op.padding[axis]) - start if op.count_include_pad else high - low
    )
    return low, high, counted


def _adaptive_avg_pool(op: ops.AdaptiveAvgPool, source, grid: Grid) -> Tensor:
    codes, value = source
    edges = []
    for size, out in zip(codes.shape[2:], grid, strict=True):
        i = torch.arange(out)
        edges += [i * size // out, -(-(i + 1) * size // out)]
    top, bottom, left, right = edges
    count = (bottom - top)[:, None] * (right - left)
    return _mean_codes(op, codes, value, edges, count)


def _mean_codes(op, codes: Tensor, value: Value, edges, count: Tensor) -> Tensor:
    """code(mean * A + B) over rectangles, by differences of an integral image in int64."""
    integral = F.pad(codes.long() - value.zero_point, (1, 0, 1, 0)).cumsum(2).cumsum(3)
    top, bottom, left, right = (e.to(codes.device) for e in edges)
    rows = integral[:, :, bottom] - integral[:, :, top]
    sums = rows[..., right] - rows[..., left]
    mean = sums.float() / count.to(codes.device).float()
    return _codes(mean.mul_(op.A).add_(op.B), op.bits)


def _resize(op: ops.Resize, source, grid: Grid) -> Tensor:
    x, value = source
    if op.bits is None:
        return interpolate(x, grid, op.mode)
    numbers = interpolate(_numbers(x, value), grid, op.mode)
    return _codes(numbers.mul(op.A).add_(op.B), op.bits)


def _add(op: ops.Add, first, second, grid: Grid) -> Tensor:
    return first[0] + second[0]


def _concat(op: ops.Concat, *sources, grid: Grid) -> Tensor:
    return torch.cat([codes for codes, _ in sources], 1)


def _mask(op: ops.Mask, up, fine, grid: Grid) -> Tensor:
    label = _first_largest(up[0])[:, None].float()
    reach = op.dilation + 1
    high, low = label, -label
    for _ in range(reach):
        high, low = (F.max_pool2d(x, 3, 1, 1) for x in (high, low))
    return torch.where(high != -low, up[0] + fine[0], up[0])


def _argmax(op: ops.ArgMax, source, grid: Grid) -> Tensor:
    return _first_largest(interpolate(source[0], grid, op.mode)).to(torch.uint8)


def _first_largest(scores: Tensor) -> Tensor:
    """argmax over channels, the first among equals; torch promises no order."""
    channels = torch.arange(scores.shape[1], device=scores.device)[:, None, None]
    largest = scores == scores.amax(1, keepdim=True)
    return torch.where(largest, channels, scores.shape[1]).amin(1)


def _codes(t: Tensor, bits: int) -> Tensor:
    return t.add_(0.5).floor_().clamp_(0, 2**bits - 1).to(torch.uint8)


def _numbers(codes: Tensor, value: Value) -> Tensor:
    return codes.float() - value.zero_point


def _column(coefficients: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(coefficients).to(device)[:, None, None]


def _batch(image: np.ndarray) -> Tensor:
    image = np.require(check_image(image), requirements='CW')  # torch warns of what it cannot write
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def _numpy(value: Tensor) -> np.ndarray:
    array = value[0].cpu().numpy()
    return array if array.ndim == 2 else np.ascontiguousarray(array.transpose(1, 2, 0))


_RUN = {
    ops.ImageCodes: _image_codes,
    ops.Table: _table,
    ops.MaxPool: _max_pool,
    ops.AvgPool: _avg_pool,
    ops.AdaptiveAvgPool: _adaptive_avg_pool,
    ops.Resize: _resize,
    ops.Add: _add,
    ops.Concat: _concat,
    ops.Mask: _mask,
    ops.ArgMax: _argmax,
}
