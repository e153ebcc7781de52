"""Layers with one weight: convolution, transposed convolution, linear."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import QuantizedLayer


class QuantConv(QuantizedLayer):
    """Conv1d/2d/3d, with stride, dilation and groups. Quantization happens after the padding that a
    subclass may add, right where the kernel reads."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(self.quantized_input(x), self.quantized_weight(), bias)


class QuantAdaptiveConv(QuantConv):
    """mmcv's Conv2dAdaptivePadding: pads to ceil(size / stride) outputs, more at the end than before."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride, dilation in zip(
            x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            outputs = -(-size // stride)
            total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            pads = [total // 2, total - total // 2, *pads]
        return self._conv_forward(F.pad(x, pads), self.weight, self.bias)


class QuantConvTranspose2d(QuantizedLayer):
    """ConvTranspose2d; the weight is (in, out / groups, kh, kw), so output channels are axis 1."""

    output_axis = 1

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return F.conv_transpose2d(
            self.quantized_input(x),
            self.quantized_weight(),
            self.bias,
            self.stride,
            self.padding,
            padding,
            self.groups,
            self.dilation,
        )


class QuantLinear(QuantizedLayer):
    """Linear; the weight is (out, in)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantized_input(x), self.quantized_weight(), self.bias)
