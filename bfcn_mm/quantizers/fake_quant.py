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
    dy/dstep = grad_scale * (q - u inside, q - zero_point outside).  LSQ (Esser et al., 2020), eq. 1-3;
    the sum dL/dstep is limited, see limited_step_gradient.
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
        grad_step = (slope.mul_(grad).sum() * ctx.grad_scale).reshape(step.shape)
        return grad_x, limited_step_gradient(grad_step, grad, step), None, None, None


def weight_codes(w: Tensor, step: Tensor, grid: WeightGrid) -> Tensor:
    """b = clip(floor((w / step + z) / k + 0.5), 0, 2**bits - 1), as float32."""
    u = (w.float() / step).add_(grid.z).div_(grid.k)
    return u.add_(0.5).clamp_(0, 2**grid.bits - 0.5).floor_()


def quantize_weight(w: Tensor, step: Tensor, grid: WeightGrid, grad_scale: float) -> Tensor:
    """Round w to v * step, v = k * b - z on the grid; step broadcasts against w.

    dy/dw = 1 where low <= w / step <= high, else 0 (1 everywhere at 1 bit, where each weight is
    outside or inside by its size alone); dy/dstep = grad_scale * (v - w / step inside, v outside).
    LSQ (Esser et al., 2020), eq. 1-3; the sum dL/dstep is limited, see limited_step_gradient.
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
        return grad_w, limited_step_gradient(grad_step, grad, step), None, None


def limited_step_gradient(grad_step: Tensor, grad: Tensor, step: Tensor) -> Tensor:
    """dL/dstep, clipped to step * |dL/dy|, so that dL/dlog(step) is at most the norm of dL/dy.

    grad: dL/dy of the quantized values y that share the step; the norm is taken over those.
    Without the limit the gradients of learned steps, per share of the step, are up to a hundred times
    those of all weights together, and rule every gradient norm and `clip_grad`. With it a step moves by
    no larger a share of its size than the weights do, which is what LSQ's gradient scale is meant to give
    (Esser et al., 2020, section 2.2: R of about 1).
    """
    axes = tuple(d for d in range(grad.dim()) if step.dim() == 0 or step.shape[d] == 1)
    norm = torch.linalg.vector_norm(grad, dim=axes or None, dtype=torch.float32)
    bound = step * norm.reshape(step.shape)
    return torch.minimum(torch.maximum(grad_step, -bound), bound)


# A learned step stays above exp(-16) = 1.1e-7 of the size it was placed with.
_LOWEST_DRIFT = -16.0


def learned_step(placed: Tensor, drift: Tensor) -> Tensor:
    """placed * growth(drift); growth(d) = 1 + d for d >= 0, exp(d) for -16 <= d < 0.

    dL/ddrift = dL/dstep / (placed * growth'(drift)): SGD then moves the step itself as LSQ does, while
    Adam moves it by its learning rate times the step's own size. As a plain number Adam would move every
    step by the same amount: 8-bit weights have steps around 0.002, which a rate of 0.003 destroys at
    once. The step is positive for every drift; below -16 it stands still and only a gradient that lets
    it grow passes.
    """
    return (_LearnedStep.apply if torch.is_grad_enabled() else _grown)(placed, drift)


def _grown(placed: Tensor, drift: Tensor) -> Tensor:
    return placed * (drift.clamp(_LOWEST_DRIFT, 0).exp() + drift.clamp(min=0))


class _LearnedStep(Function):
    @staticmethod
    def forward(ctx, placed, drift):
        ctx.save_for_backward(placed, drift)
        return _grown(placed, drift)

    @staticmethod
    def backward(ctx, grad):
        placed, drift = ctx.saved_tensors
        grad = torch.where(drift < _LOWEST_DRIFT, grad.clamp(max=0), grad)
        return None, grad / (placed * drift.clamp(_LOWEST_DRIFT, 0).exp())


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
