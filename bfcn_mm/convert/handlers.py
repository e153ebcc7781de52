"""How each module type is converted: one small handler a type, found along the class's MRO."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from torch import nn

from ..layers import (
    QuantActivation,
    QuantAdaptiveConv,
    QuantAttention,
    QuantConv,
    QuantConvTranspose2d,
    QuantizedLayer,
    QuantLinear,
    derive,
)


class Handler(NamedTuple):
    """mixin: what a conversion adds to the class. refuses(module): why it must stay float, or ''."""

    mixin: type
    refuses: Callable[[nn.Module], str]


_LAYERS: dict[type, Handler] = {}
_ACTIVATIONS: dict[type, bool] = {
    nn.ReLU: True,
    nn.ReLU6: True,
    nn.LeakyReLU: False,
    nn.PReLU: False,
    nn.ELU: False,
    nn.GELU: False,
    nn.SiLU: False,
    nn.Hardswish: False,
}


def register_layer(kind: type, mixin: type) -> Callable:
    """Register a layer type; the decorated function says why a module of it must stay float."""

    def add(refuses: Callable[[nn.Module], str]) -> Callable:
        _LAYERS[kind] = Handler(mixin, refuses)
        return refuses

    return add


@register_layer(nn.Conv2d, QuantConv)
def _conv(module: nn.Conv2d) -> str:
    own = type(module).forward is not nn.Conv2d.forward and not _from_mmcv(type(module))
    return f'{type(module).__name__} has a forward of its own' if own else ''


@register_layer(Conv2dAdaptivePadding, QuantAdaptiveConv)
def _adaptive_conv(module: Conv2dAdaptivePadding) -> str:
    return ''


@register_layer(nn.ConvTranspose2d, QuantConvTranspose2d)
def _conv_transpose(module: nn.ConvTranspose2d) -> str:
    return ''


@register_layer(nn.Linear, QuantLinear)
def _linear(module: nn.Linear) -> str:
    own = type(module).forward is not nn.Linear.forward and not _from_mmcv(type(module))
    return f'{type(module).__name__} has a forward of its own' if own else ''


@register_layer(nn.MultiheadAttention, QuantAttention)
def _attention(module: nn.MultiheadAttention) -> str:
    if module.in_proj_weight is None:
        return 'keys or values of another width (kdim, vdim) are not supported'
    if module.bias_k is not None or module.add_zero_attn:
        return 'add_bias_kv and add_zero_attn are not supported'
    return ''


def layer_handler(module: nn.Module) -> Handler | None:
    return next((_LAYERS[kind] for kind in type(module).__mro__ if kind in _LAYERS), None)


def activation_sign(module: nn.Module) -> bool | None:
    """Whether the activation function is non-negative; None: not one that is quantized."""
    if isinstance(module, QuantActivation):
        return None
    kinds = (_ACTIVATIONS[kind] for kind in type(module).__mro__ if kind in _ACTIVATIONS)
    return next(kinds, None)


def swap_class(module: nn.Module, mixin: type) -> None:
    """Give the module the quantized class of its class; see layers.base."""
    module.__class__ = derive(mixin, type(module))


def is_converted(module: nn.Module) -> bool:
    return isinstance(module, QuantizedLayer | QuantActivation)


def _from_mmcv(kind: type) -> bool:
    """mmcv's wrappers only see to empty batches before they call the forward of torch."""
    return kind.__module__.startswith('mmcv.cnn.bricks.wrappers')
