"""Fake quantization: values on an integer grid, with straight-through gradients.

Each function is a pair of formulas, a forward and a gradient. All arithmetic is float32; the result
has the dtype of the input, so that autocast regions stay in half precision. On GPUs the same formulas
run as one kernel a pass, see fused.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .fused import fused_for
from .grids import WeightGrid, round_half_up


def activation_codes(x: Tensor, step: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    """q = clip(floor(x / step + zero_point + 0.5), 0, 2**bits - 1), as float32."""
    u = x.float() / step
    if zero_point is not None:
        u += zero_point
    return u.add_(0.5).clamp_(0, 2**bits - 0.5).floor_()


def quantize_activation(
    x: Tensor, step: Tensor, zero_point: Tensor | None, bits: int, grad_scale: float
) -> Tensor:
    """Round x to (q - zero_point) * step, q in 0..2**bits - 1.

    With u = x / step + zero_point:  dy/dx = 1 where 0 <= u <= 2**bits - 1, else 0;
    dy/dstep = grad_scale * (q - u inside, q - zero_point outside).  LSQ (Esser et al., 2020), eq. 1-3.
    x: any shape; step, zero_point: scalars. For zero_point None (0) a ReLU before it changes nothing.
    """
    if fused := fused_for(x):
        return fused.quantize_activation(x, step, zero_point, bits, grad_scale)
    if not torch.is_grad_enabled():
        return _activation_values(x, step, zero_point, bits)
    return _QuantizeActivation.apply(x, step, zero_point, bits, grad_scale)


def _activation_values(x: Tensor, step: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    q = activation_codes(x, step, zero_point, bits)
    if zero_point is not None:
        q -= zero_point
    return q.mul_(step).to(x.dtype)


class _QuantizeActivation(Function):
    @staticmethod
    def forward(ctx, x, step, zero_point, bits, grad_scale):
        ctx.save_for_backward(x, step, zero_point)
        ctx.bits, ctx.grad_scale = bits, grad_scale
        return _activation_values(x, step, zero_point, bits)

    @staticmethod
    def backward(ctx, grad):
        x, step, zero_point = ctx.saved_tensors
        u = x.float() / step
        if zero_point is not None:
            u += zero_point
        clipped = u.clamp(0, 2**ctx.bits - 1)
        inside = u.eq_(clipped)
        grad_x = grad * inside.to(grad.dtype)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None, None
        slope = (clipped + 0.5).floor_()  # q, from which u is taken inside and zero_point outside
        if zero_point is None:
            slope.addcmul_(clipped, inside, value=-1)
        else:
            slope -= torch.where(inside.bool(), clipped, zero_point)
        grad_step = slope.mul_(grad).sum()
        return grad_x, (grad_step * ctx.grad_scale).reshape(step.shape), None, None, None


def weight_codes(w: Tensor, step: Tensor, grid: WeightGrid) -> Tensor:
    """b = clip(floor((w / step + z) / k + 0.5), 0, 2**bits - 1), as float32."""
    u = (w.float() / step).add_(grid.z).div_(grid.k)
    return u.add_(0.5).clamp_(0, 2**grid.bits - 0.5).floor_()


def quantize_weight(w: Tensor, step: Tensor, grid: WeightGrid, grad_scale: float) -> Tensor:
    """Round w to v * step, v = k * b - z on the grid; step broadcasts against w.

    dy/dw = 1 where low <= w / step <= high, else 0 (1 everywhere at 1 bit, where each weight is
    outside or inside by its size alone); dy/dstep = grad_scale * (v - w / step inside, v outside).
    LSQ (Esser et al., 2020), eq. 1-3.
    """
    if fused := fused_for(w):
        return fused.quantize_weight(w, step, *grid, grad_scale)
    return _QuantizeWeight.apply(w, step, grid, grad_scale)


class _QuantizeWeight(Function):
    @staticmethod
    def forward(ctx, w, step, grid, grad_scale):
        v = weight_codes(w, step, grid).mul_(grid.k).sub_(grid.z)
        ctx.save_for_backward(w, step)
        ctx.grid, ctx.grad_scale = grid, grad_scale
        return v.mul_(step).to(w.dtype)

    @staticmethod
    def backward(ctx, grad):
        w, step = ctx.saved_tensors
        grid = ctx.grid
        u = w.float() / step
        v = weight_codes(w, step, grid).mul_(grid.k).sub_(grid.z)
        g = grad.float()
        if grid.bits == 1:
            grad_w = grad
        else:
            inside = (u >= grid.low) & (u <= grid.high)
            grad_w = grad * inside.to(grad.dtype)
            v -= u * inside
        grad_step = (g * v).sum_to_size(step.shape) * ctx.grad_scale
        return grad_w, grad_step, None, None


def learned_step(placed: Tensor, drift: Tensor) -> Tensor:
    """placed * (1 + ELU(drift)), with dL/ddrift = dL/dstep / placed.

    An optimizer then moves a step by a share of the size it was placed with: Adam by its learning rate,
    whatever that size is (8-bit weights have steps around 0.002: moved by a rate of 0.003 as plain
    numbers they would be lost), SGD as it moves the step itself in LSQ. ELU lets it grow linearly and
    shrink without end, so that it stays positive.
    """
    return (_LearnedStep.apply if torch.is_grad_enabled() else _drifted)(placed, drift)


def _drifted(placed: Tensor, drift: Tensor) -> Tensor:
    return placed * (1 + torch.nn.functional.elu(drift))


class _LearnedStep(Function):
    @staticmethod
    def forward(ctx, placed, drift):
        ctx.save_for_backward(placed)
        return _drifted(placed, drift)

    @staticmethod
    def backward(ctx, grad):
        (placed,) = ctx.saved_tensors
        return None, grad / placed


def quantize_unit(x: Tensor, bits: int) -> Tensor:
    """Round x in [0, 1] to 2**bits levels.

    q(x) = floor(x * (2**bits - 1) + 0.5) / (2**bits - 1);  dq/dx = 1.
    DoReFa-Net (Zhou et al., 2016), eq. 5.
    """
    levels = 2**bits - 1
    return straight_through(round_half_up(x * levels) / levels, x)


def straight_through(y: Tensor, x: Tensor) -> Tensor:
    """y, exactly, with the gradient of x. (x + (y - x).detach() would round y off its grid.)"""
    return _StraightThrough.apply(y, x)


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx, y, x):
        return y.detach().clone()

    @staticmethod
    def backward(ctx, grad):
        return None, grad
