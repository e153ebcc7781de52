"""The same network in int8, as far as PyTorch has it on a GPU: convolutions by torch._int_mm.

PyTorch has no int8 convolution on CUDA: conv2d of int8 finds no cuDNN engine, quantized::conv2d runs
on CPUs, and torchao's int8 serves linear layers. What is left to a user is torch._int_mm (cuBLASLt, or
Triton where max-autotune likes that better): a 1x1 layer is one product as it stands, others gather
their windows first; scales, residuals, ReLU and the next codes are one fused kernel once compiled.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bfcn_kernels import Graph, ops
from bfcn_kernels.ops import BitConv, Term
from lab.gpu.peers import FloatTwin

ROWS = 32  # of a product: cuBLASLt takes no fewer than 17
STEP = 16  # k and columns of a product are multiples of this


def missing(device: torch.device) -> str | None:
    """Why int8 products cannot run on a device; None if they can."""
    if not hasattr(torch, '_int_mm'):
        return f'torch {torch.__version__} has no torch._int_mm'
    ones = torch.ones(ROWS, 16, dtype=torch.int8, device=device)
    try:
        torch._int_mm(ones, ones.t())
    except RuntimeError as err:
        return f'torch._int_mm does not run on {device}: {str(err).splitlines()[0]}'
    return None


class Int8Conv(nn.Module):
    """A convolution with random int8 weights: int8 (n, c, h, w) to int32 (n, outputs, h, w)."""

    def __init__(self, term: Term) -> None:
        super().__init__()
        outputs, *self.kernel, inputs = term.weight.shape
        self.stride, self.padding, self.dilation = term.stride, term.padding, term.dilation
        self.groups, self.outputs = term.groups, outputs
        weight = torch.randint(-127, 128, (outputs, *self.kernel, inputs), dtype=torch.int8)
        self.register_buffer('weight', weight)
        rows = weight.reshape(outputs, -1)
        rows = F.pad(rows, (0, -rows.shape[1] % STEP, 0, -outputs % STEP))
        self.register_buffer('rows', rows)  # (n, k): its transpose is what cuBLASLt reads fastest
        self.scale = 1 / (73 * weight[0].numel() ** 0.5)  # codes spread over int8

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > 1:  # no product of matrices; exact in float32, too many for float16
            return self.in_float(x, torch.float32)
        columns = self._columns(x.permute(0, 2, 3, 1))
        n, h, w, k = columns.shape
        columns = columns.reshape(-1, k)
        short = max(0, ROWS - len(columns))
        if short or k != self.rows.shape[1]:
            columns = F.pad(columns, (0, self.rows.shape[1] - k, 0, short))
        product = torch._int_mm(columns, self.rows.t())[: n * h * w, : self.outputs]
        return product.reshape(n, h, w, -1).permute(0, 3, 1, 2)

    def in_float(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The same by torch's float convolution, exact in float64."""
        weight = self.weight.permute(0, 3, 1, 2).to(dtype)
        window = self.stride, self.padding, self.dilation, self.groups
        return F.conv2d(x.to(dtype), weight, None, *window)

    def _columns(self, x: Tensor) -> Tensor:
        """int8 (n, h, w, c) to the windows of each output pixel (n, oh, ow, kh * kw * c)."""
        (ph, pw), (sh, sw), (dh, dw), (kh, kw) = (
            self.padding, self.stride, self.dilation, self.kernel,
        )  # fmt: skip
        x = F.pad(x, (0, 0, pw, pw, ph, ph)) if ph or pw else x
        oh, ow = ((n - d * (k - 1) - 1) // s + 1 for n, d, k, s in (
            (x.shape[1], dh, kh, sh), (x.shape[2], dw, kw, sw),
        ))  # fmt: skip
        taps = [
            x[:, i * dh : i * dh + sh * (oh - 1) + 1 : sh, j * dw : j * dw + sw * (ow - 1) + 1 : sw]
            for i in range(kh)
            for j in range(kw)
        ]
        return taps[0] if len(taps) == 1 else torch.cat(taps, 3)


class Int8Twin(FloatTwin):
    """A packed graph's network on int8 codes, one scale a layer, half precision for scores.

    exact: convolutions by float64 instead of int8 products, which gives the same integers.
    """

    def __init__(self, graph: Graph, size: tuple[int, int], dtype: torch.dtype = torch.float16):
        self.codes = {name for name, value in graph.validate().items() if value.kind == 'codes'}
        self.exact = False
        super().__init__(graph, size, dtype)

    @staticmethod
    def _conv(term: Term, bias: bool) -> nn.Module:
        return Int8Conv(term)

    def _run(self, op: ops.Op, sources: list[Tensor], grid: tuple[int, int]) -> Tensor:
        if isinstance(op, ops.ImageCodes):
            x = sources[0].to(torch.int16).sub(128).to(torch.int8)
            return x.contiguous(memory_format=torch.channels_last)
        if isinstance(op, BitConv):
            convs = self.convs[op.name.replace('.', '_')]
            sums = [self._sum(conv, x) for conv, x in zip(convs, sources, strict=False)]
            t = reduce(Tensor.add_, [*sums, *sources[len(convs) :]])
            return t.to(self.dtype) if op.bits is None else _codes(t)
        halves = [x.to(self.dtype) if x.dtype == torch.int8 else x for x in sources]
        out = super()._run(op, halves, grid)
        return _codes(out) if op.name in self.codes else out

    def _sum(self, conv: Int8Conv, x: Tensor) -> Tensor:
        acc = conv.in_float(x, torch.float64) if self.exact else conv(x)
        return acc.float() * conv.scale


def difference(twin: Int8Twin, images: Tensor) -> str | None:
    """The layer, or 'labels', in which int8 products differ from float64 convolutions; None if none."""
    with torch.no_grad():
        for name, convs in twin.convs.items():
            for conv in convs:
                channels = conv.weight.shape[3] * conv.groups
                x = torch.randint(-128, 128, (2, channels, 9, 11), device=images.device)
                x = x.to(torch.int8).contiguous(memory_format=torch.channels_last)
                if not torch.equal(conv(x).double(), conv.in_float(x, torch.float64)):
                    return name
        labels, twin.exact = twin(images), True
        try:
            return None if torch.equal(labels, twin(images)) else 'labels'
        finally:
            twin.exact = False


def _codes(t: Tensor) -> Tensor:
    """ReLU and rounding to 0..127"""
    t = t.add(0.5).floor().clamp(0, 127).to(torch.int8)
    return t.contiguous(memory_format=torch.channels_last)
