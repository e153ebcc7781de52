"""Fake quantization for training, each pass one kernel: the formulas of bfcn_mm.quantizers.fake_quant.

All arithmetic is float32, each operation rounded by itself, so values and gradients of inputs are those
of the formulas in torch ops, bit for bit; the gradient of a step is a sum and differs in its order,
and that of a tanh may be off by one rounding where torch fuses it.
Operators of torch.library: torch.compile keeps them in its graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfcn_kernels.triton.codes import EXACT
from bfcn_kernels.triton.device import INTERPRETED

BLOCK = 1 << 16 if INTERPRETED else 4096  # numbers a program
WARPS = 8


def quantize_activation(
    x: Tensor, step: Tensor, zero_point: Tensor | None, bits: int, grad_scale: float
) -> Tensor:
    """Round x to (q - zero_point) * step, q = clip(floor(x / step + zero_point + 0.5), 0, 2**bits - 1).

    With u = x / step + zero_point:  dy/dx = 1 where 0 <= u <= 2**bits - 1, else 0;
    dy/dstep = grad_scale * (q - u inside, q - zero_point outside).  LSQ (Esser et al., 2020), eq. 1-3;
    the sum dL/dstep is clipped to step * |dL/dy|.
    x: any shape, float; step, zero_point: float32 scalars on its device.
    """
    _check(x, step=step, zero_point=zero_point)
    return _activation(_dense(x), step, zero_point, bits, grad_scale)


def quantize_weight(
    w: Tensor, step: Tensor, bits: int, k: int, z: int, grad_scale: float
) -> Tensor:
    """Round w to v * step, v = k * b - z, b = clip(floor((w / step + z) / k + 0.5), 0, 2**bits - 1).

    dy/dw = 1 where -z <= w / step <= k * (2**bits - 1) - z, else 0 (1 everywhere at 1 bit);
    dy/dstep = grad_scale * (v - w / step inside, v outside).  LSQ (Esser et al., 2020), eq. 1-3;
    the sum dL/dstep is clipped to step * |dL/dy|.
    step: float32, one number, or one for each index of a single axis of w.
    """
    _check(w, step=step)
    return _weight(_dense(w, step), step, bits, k, z, grad_scale)


def quantize_dorefa(w: Tensor, t: Tensor, step: Tensor, bits: int) -> Tensor:
    """Round t / T to 2**bits levels from -1 to 1, times T = step * (2**bits - 1); 1 bit: sign(t) * step.

    dy/dw = 1 - t * t, 1 at 1 bit; none through step.  DoReFa-Net (Zhou et al., 2016), eq. 7 and 9.
    t: tanh(w), w itself at 1 bit, float32; step: float32, one number, or one for each index of an axis.
    """
    _check(w, t=t, step=step)
    w = _dense(w, step)
    return _dorefa(w, _laid_out(t, w), step, bits)


@torch.library.custom_op('bfcn::quantize_activation', mutates_args=())
def _activation(
    x: Tensor, step: Tensor, zero_point: Tensor | None, bits: int, grad_scale: float
) -> Tensor:
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        activation_kernel[_blocks(x)](
            y, x, step, step if zero_point is None else zero_point, x.numel(),
            SIGNED=zero_point is not None, BITS=bits, BLOCK=BLOCK, num_warps=WARPS, **EXACT,
        )  # fmt: skip
    return y


@torch.library.custom_op('bfcn::quantize_activation_backward', mutates_args=())
def _activation_backward(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor | None, bits: int
) -> tuple[Tensor, Tensor]:
    """The gradient of x, and of step before its factor."""
    grad_x = torch.empty_like(x, dtype=grad.dtype)
    grid = _blocks(x)
    parts = torch.empty(grid, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        activation_backward_kernel[grid](
            grad_x, parts, _laid_out(grad, x), x, step, step if zero_point is None else zero_point,
            x.numel(), SIGNED=zero_point is not None, BITS=bits, BLOCK=BLOCK, num_warps=WARPS,
            **EXACT,
        )  # fmt: skip
    return grad_x, parts.sum().reshape(step.shape)


@torch.library.custom_op('bfcn::quantize_weight', mutates_args=())
def _weight(w: Tensor, step: Tensor, bits: int, k: int, z: int, grad_scale: float) -> Tensor:
    y = torch.empty_like(w)
    channels, inner = _channels(w, step)
    with torch.cuda.device_of(w):
        weight_kernel[_blocks(w)](
            y, w, step, w.numel(), channels, inner, BITS=bits, FORM=k, Z=z, BLOCK=BLOCK,
            num_warps=WARPS, **EXACT,
        )  # fmt: skip
    return y


@torch.library.custom_op('bfcn::quantize_weight_backward', mutates_args=())
def _weight_backward(
    grad: Tensor, w: Tensor, step: Tensor, bits: int, k: int, z: int
) -> tuple[Tensor, Tensor]:
    """The gradient of w, and of step before its factor."""
    grad_w = torch.empty_like(w, dtype=grad.dtype)
    channels, inner = _channels(w, step)
    count = w.numel() // channels  # numbers of a channel
    block = min(BLOCK, triton.next_power_of_2(count))
    parts = torch.empty(channels, triton.cdiv(count, block), dtype=torch.float32, device=w.device)
    with torch.cuda.device_of(w):
        weight_backward_kernel[(channels, parts.shape[1])](
            grad_w, parts, _laid_out(grad, w), w, step, count, channels, inner, BITS=bits, FORM=k,
            Z=z, BLOCK=block, num_warps=WARPS if block == BLOCK else 4, **EXACT,
        )  # fmt: skip
    return grad_w, parts.sum(1).reshape(step.shape)


@torch.library.custom_op('bfcn::quantize_dorefa', mutates_args=())
def _dorefa(w: Tensor, t: Tensor, step: Tensor, bits: int) -> Tensor:
    y = torch.empty_like(w)
    channels, inner = _channels(w, step)
    with torch.cuda.device_of(w):
        dorefa_kernel[_blocks(w)](
            y, t, step, w.numel(), channels, inner, BITS=bits, BLOCK=BLOCK, num_warps=WARPS, **EXACT
        )
    return y


@torch.library.custom_op('bfcn::quantize_dorefa_backward', mutates_args=())
def _dorefa_backward(grad: Tensor, t: Tensor) -> Tensor:
    """grad * (1 - t * t)"""
    grad_w = torch.empty_like(t, dtype=grad.dtype)
    with torch.cuda.device_of(t):
        dorefa_backward_kernel[_blocks(t)](
            grad_w, _laid_out(grad, t), t, t.numel(), BLOCK=BLOCK, num_warps=WARPS, **EXACT
        )
    return grad_w


@triton.jit
def activation_kernel(
    y_ptr, x_ptr, step_ptr, zero_point_ptr, count,
    SIGNED: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = (q - zero_point) * step"""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < count, other=0.0).to(tl.float32)
    step = tl.load(step_ptr)
    u = tl.div_rn(x, step)
    if SIGNED:
        u += tl.load(zero_point_ptr)
    q = tl.floor(clamp(u + 0.5, 0.0, (1 << BITS) - 0.5))
    if SIGNED:
        q -= tl.load(zero_point_ptr)
    tl.store(y_ptr + i, (q * step).to(y_ptr.dtype.element_ty), mask=i < count)


@triton.jit
def activation_backward_kernel(
    grad_x_ptr, part_ptr, grad_ptr, x_ptr, step_ptr, zero_point_ptr, count,
    SIGNED: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x = grad * inside; part = sum of grad * (q - (u inside, zero_point outside))"""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    x = tl.load(x_ptr + i, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + i, mask=mask, other=0.0).to(tl.float32)
    u = tl.div_rn(x, tl.load(step_ptr))
    if SIGNED:
        u += tl.load(zero_point_ptr)
    clipped = clamp(u, 0.0, (1 << BITS) - 1.0)
    inside = u == clipped
    grad_x = grad * inside.to(tl.float32)  # a product with 1 or 0 is exact in every type
    tl.store(grad_x_ptr + i, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    slope = tl.floor(clipped + 0.5)
    if SIGNED:
        slope -= tl.where(inside, clipped, tl.load(zero_point_ptr))
    else:
        slope -= clipped * inside.to(tl.float32)
    tl.store(part_ptr + tl.program_id(0), tl.sum(slope * grad))


@triton.jit
def weight_kernel(
    y_ptr, w_ptr, step_ptr, count, channels, inner,
    BITS: tl.constexpr, FORM: tl.constexpr, Z: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = v * step[channel]"""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    step = tl.load(step_ptr + i // inner % channels, mask=mask, other=1.0)
    u = tl.div_rn(tl.load(w_ptr + i, mask=mask, other=0.0).to(tl.float32), step)
    v = weight_integers(u, BITS, FORM, Z)
    tl.store(y_ptr + i, (v * step).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def weight_backward_kernel(
    grad_w_ptr, part_ptr, grad_ptr, w_ptr, step_ptr, count, channels, inner,
    BITS: tl.constexpr, FORM: tl.constexpr, Z: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK of the `count` numbers of one channel: grad_w = grad * inside, part = sum of grad * slope"""
    channel = tl.program_id(0)
    j = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    i = (j // inner * channels + channel) * inner + j % inner
    mask = j < count
    grad = tl.load(grad_ptr + i, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + i, mask=mask, other=0.0).to(tl.float32)
    u = tl.div_rn(w, tl.load(step_ptr + channel))
    v = weight_integers(u, BITS, FORM, Z)
    if BITS == 1:
        grad_w = grad
    else:
        inside = (u >= -Z) & (u <= FORM * ((1 << BITS) - 1) - Z)
        grad_w = grad * inside.to(tl.float32)
        v -= u * inside.to(tl.float32)
    tl.store(grad_w_ptr + i, grad_w.to(grad_w_ptr.dtype.element_ty), mask=mask)
    part = tl.sum(grad * v)
    tl.store(part_ptr + channel * tl.num_programs(1) + tl.program_id(1), part)


@triton.jit
def dorefa_kernel(
    y_ptr, t_ptr, step_ptr, count, channels, inner, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    """y = (2 * b - z) * step[channel], z = 2**BITS - 1"""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    step = tl.load(step_ptr + i // inner % channels, mask=mask, other=1.0)
    t = tl.load(t_ptr + i, mask=mask, other=0.0)
    if BITS == 1:
        b = (t >= 0).to(tl.float32)
    else:
        unit = tl.div_rn(t, step * 2 * ((1 << BITS) - 1.0)) + 0.5
        b = tl.floor(unit * ((1 << BITS) - 1.0) + 0.5)
    y = (b * 2 - ((1 << BITS) - 1.0)) * step
    tl.store(y_ptr + i, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def dorefa_backward_kernel(grad_w_ptr, grad_ptr, t_ptr, count, BLOCK: tl.constexpr):
    """grad_w = grad * (1 - t * t)"""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    grad = tl.load(grad_ptr + i, mask=mask, other=0.0).to(tl.float32)
    t = tl.load(t_ptr + i, mask=mask, other=0.0)
    tl.store(grad_w_ptr + i, (grad * (1.0 - t * t)).to(grad_w_ptr.dtype.element_ty), mask=mask)


@triton.jit
def weight_integers(u, BITS: tl.constexpr, FORM: tl.constexpr, Z: tl.constexpr):
    """v = FORM * b - Z of u = w / step, float32."""
    b = tl.floor(clamp(tl.div_rn(u + Z, FORM * 1.0) + 0.5, 0.0, (1 << BITS) - 0.5))
    return b * FORM - Z


@triton.jit
def clamp(x, low: tl.constexpr, high: tl.constexpr):
    """x within low .. high; NaN stays NaN, as in torch."""
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


def _activation_setup(ctx, inputs, output) -> None:
    x, step, zero_point, ctx.bits, ctx.grad_scale = inputs
    ctx.save_for_backward(x, step, zero_point)


def _activation_gradient(ctx, grad: Tensor):
    x, step, zero_point = ctx.saved_tensors
    grad_x, grad_step = _activation_backward(grad, x, step, zero_point, ctx.bits)
    if ctx.needs_input_grad[1]:
        grad_step = _limited(grad_step * ctx.grad_scale, grad, step)
    else:
        grad_step = None
    return grad_x, grad_step, None, None, None


def _weight_setup(ctx, inputs, output) -> None:
    w, step, *ctx.grid, ctx.grad_scale = inputs
    ctx.save_for_backward(w, step)


def _weight_gradient(ctx, grad: Tensor):
    w, step = ctx.saved_tensors
    grad_w, grad_step = _weight_backward(grad, w, step, *ctx.grid)
    grad_step = _limited(grad_step * ctx.grad_scale, grad, step)
    return grad_w, grad_step, None, None, None, None


def _limited(grad_step: Tensor, grad: Tensor, step: Tensor) -> Tensor:
    """Clip dL/dstep to step * |dL/dy|, the norm over the values that share the step."""
    axes = tuple(d for d in range(grad.dim()) if step.dim() == 0 or step.shape[d] == 1)
    norm = torch.linalg.vector_norm(grad, dim=axes or None, dtype=torch.float32)
    bound = step * norm.reshape(step.shape)
    return torch.minimum(torch.maximum(grad_step, -bound), bound)


def _dorefa_setup(ctx, inputs, output) -> None:
    _, t, _, bits = inputs
    ctx.save_for_backward(None if bits == 1 else t)


def _dorefa_gradient(ctx, grad: Tensor):
    (t,) = ctx.saved_tensors
    return grad if t is None else _dorefa_backward(grad, t), None, None, None


_activation.register_autograd(_activation_gradient, setup_context=_activation_setup)
_weight.register_autograd(_weight_gradient, setup_context=_weight_setup)
_dorefa.register_autograd(_dorefa_gradient, setup_context=_dorefa_setup)


@_activation.register_fake
def _(x, step, zero_point, bits, grad_scale):
    return torch.empty_like(x)


@_activation_backward.register_fake
def _(grad, x, step, zero_point, bits):
    return torch.empty_like(x, dtype=grad.dtype), torch.empty_like(step)


@_weight.register_fake
def _(w, step, bits, k, z, grad_scale):
    return torch.empty_like(w)


@_weight_backward.register_fake
def _(grad, w, step, bits, k, z):
    return torch.empty_like(w, dtype=grad.dtype), torch.empty_like(step)


@_dorefa.register_fake
def _(w, t, step, bits):
    return torch.empty_like(w)


@_dorefa_backward.register_fake
def _(grad, t):
    return torch.empty_like(t, dtype=grad.dtype)


def _check(x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError for a tensor on another device than x or of the wrong type."""
    if not x.is_floating_point() or x.dtype == torch.float64:
        raise ValueError(f'fake quantization takes float16, bfloat16 or float32, got {x.dtype}')
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise ValueError(f'{name} must be on {x.device}, as the input is, got {tensor.device}')
        if tensor.dtype != torch.float32:
            raise ValueError(f'{name} must be float32, got {tensor.dtype}')


def _dense(x: Tensor, step: Tensor | None = None) -> Tensor:
    """x itself if its numbers fill its memory in an order that kernels can take, else a copy.

    With a step for each index of an axis other than the first, only the contiguous order will do.
    """
    rows = step is None or step.numel() == 1 or step.shape[0] == step.numel()
    if rows and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """grad with its numbers where those of x are."""
    if grad.stride() == x.stride():
        return grad
    return torch.empty_like(x, dtype=grad.dtype).copy_(grad)


def _channels(w: Tensor, step: Tensor) -> tuple[int, int]:
    """(channels, numbers between two channels) of a step that broadcasts against w."""
    axes = [axis for axis, size in enumerate(step.shape) if size > 1]
    if len(axes) > 1 or (axes and step.shape[axes[0]] != w.shape[axes[0] - step.dim()]):
        raise ValueError(
            f'step must be one number or one for each index of an axis of {tuple(w.shape)}, '
            f'got {tuple(step.shape)}'
        )
    if not axes:
        return 1, w.numel()
    inner = 1
    for size in w.shape[w.dim() + axes[0] - step.dim() + 1 :]:
        inner *= size
    return step.numel(), inner


def _blocks(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)
