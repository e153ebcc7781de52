"""What a packed network is measured against: the same graph in half precision, and how both are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bfcn_kernels import Graph, ops
from bfcn_kernels.ops import BitConv


class FloatTwin(nn.Module):
    """A packed graph's float network: the same convolutions with batch norm folded, ReLU for codes.

    forward: uint8 (n, h, w, 3) to labels (n, h, w). It has the speed of the float model, not its numbers:
    the weights are random.
    """

    def __init__(
        self, graph: Graph, size: tuple[int, int], dtype: torch.dtype = torch.float16
    ) -> None:
        """size: (h, w) of the images."""
        super().__init__()
        self.dtype, self.convs = dtype, nn.ModuleDict()
        grids, last = graph.shapes(*size), graph.last_reads()
        self.steps = []  # (op, sources, grid, values that nobody reads any more)
        for index, op in enumerate(graph.ops):
            done = [name for name, reader in last.items() if reader == index and name != op.name]
            self.steps.append((op, op.data_sources, grids[op.name], done))
            if isinstance(op, BitConv):
                terms = [self._conv(term, bias=not i) for i, term in enumerate(op.terms)]
                self.convs[op.name.replace('.', '_')] = nn.ModuleList(terms)
        self.to(dtype=dtype, memory_format=torch.channels_last)

    @staticmethod
    def _conv(term, bias: bool) -> nn.Conv2d:
        outputs, *kernel, inputs = term.weight.shape
        sides = dict(stride=term.stride, padding=term.padding, dilation=term.dilation)
        return nn.Conv2d(
            inputs * term.groups, outputs, tuple(kernel), groups=term.groups, bias=bias, **sides
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = {'image': images.permute(0, 3, 1, 2)}
        for op, names, grid, done in self.steps:
            result = maps[op.name] = self._run(op, [maps[name] for name in names], grid)
            for name in done:
                del maps[name]
        return result

    def _run(self, op: ops.Op, sources: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """One op in float, (n, channels, h, w)."""
        if isinstance(op, BitConv):
            convs = self.convs[op.name.replace('.', '_')]
            out = reduce(Tensor.add_, [conv(x) for conv, x in zip(convs, sources, strict=False)])
            for residual in sources[len(convs) :]:
                out.add_(residual)
            return out if op.bits is None else out.relu_()
        if isinstance(op, ops.ImageCodes):
            x = sources[0].to(self.dtype).sub(128).mul(1 / 64)
            return x.contiguous(memory_format=torch.channels_last)
        if isinstance(op, ops.MaxPool):
            return F.max_pool2d(sources[0], op.kernel, op.stride, op.padding, op.dilation, op.ceil)
        if isinstance(op, ops.AvgPool):
            flags = op.ceil, op.count_include_pad
            return F.avg_pool2d(sources[0], op.kernel, op.stride, op.padding, *flags)
        if isinstance(op, ops.AdaptiveAvgPool):
            return F.adaptive_avg_pool2d(sources[0], op.size)
        if isinstance(op, ops.Resize):
            return resized(sources[0], grid, op.mode)
        if isinstance(op, ops.ArgMax):
            return resized(sources[0], grid, op.mode).argmax(1).to(torch.uint8)
        if isinstance(op, ops.Concat):
            return torch.cat(sources, 1)
        if isinstance(op, ops.Table):
            return sources[0]
        return sources[0] + sources[1]  # add; of a mask, its cheapest part


def resized(x: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    if mode == 'nearest':
        return F.interpolate(x, grid)
    return F.interpolate(x, grid, mode='bilinear', align_corners=mode == 'align_corners')


def captured(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The function's kernels as one CUDA graph; the function itself elsewhere."""
    if device.type != 'cuda':
        return function
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def median_ms(
    function: Callable[[], object], device: torch.device, seconds: float
) -> tuple[float, float, float]:
    """Median and quartiles in ms of one call: as many as fit into `seconds`, from 5 to 1000; 2 for 0."""
    warm = 3 if seconds else 0  # calls before the first that counts
    for _ in range(warm):
        function()
    times, stop = [], time.perf_counter() + seconds
    while len(times) < 2 + warm or (time.perf_counter() < stop and len(times) < 1000):
        times.append(_once(function, device))
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, low, high


def _once(function: Callable[[], object], device: torch.device) -> float:
    if device.type != 'cuda':
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda.synchronize(device)
    marks[0].record()
    function()
    marks[1].record()
    torch.cuda.synchronize(device)
    return marks[0].elapsed_time(marks[1])
