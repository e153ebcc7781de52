"""A quantized layer is the float layer of quantized parts."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from torch import nn

from bfcn_mm.layers import QuantAdaptiveConv, QuantConv, QuantConvTranspose2d, QuantLinear, derive
from bfcn_mm.quantizers import METHODS, ActivationQuantizer


def quantized(layer, mixin, w=2, a=2, method='lsq', per_channel=True):
    layer.__class__ = derive(mixin, type(layer))
    layer.attach(w, None if a == 32 else ActivationQuantizer(a, True, method), method, per_channel)
    return layer


def parts(layer, x):
    """(input values, weight values) from codes and steps, as an integer engine has them."""
    quant, (codes, step) = layer.input_quant, layer.weight_quant.codes(layer.weight)
    grid = layer.weight_quant.grid
    values = (quant.codes(x).float() - quant.zero_point) * quant.step
    return values, (grid.k * codes.float() - grid.z) * step


CONVS = [
    dict(in_channels=6, out_channels=4, kernel_size=3, padding=1),
    dict(in_channels=6, out_channels=4, kernel_size=3, stride=2, padding=1, bias=False),
    dict(in_channels=6, out_channels=4, kernel_size=3, dilation=2, padding=2),
    dict(in_channels=6, out_channels=4, kernel_size=3, groups=2),
    dict(in_channels=6, out_channels=6, kernel_size=5, groups=6, padding=2),
    dict(in_channels=6, out_channels=4, kernel_size=1),
]


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('settings', CONVS)
def test_conv(settings, method):
    layer = quantized(nn.Conv2d(**settings), QuantConv, method=method)
    x = torch.randn(2, 6, 9, 11)
    y = layer(x)
    values, weight = parts(layer, x)
    expected = F.conv2d(
        values, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize('output_size', [None, (18, 21)])
@pytest.mark.parametrize('groups', [1, 2])
def test_conv_transpose(groups, output_size):
    settings = dict(stride=2, padding=1, groups=groups)
    layer = quantized(nn.ConvTranspose2d(6, 4, 3, **settings), QuantConvTranspose2d)
    x = torch.randn(2, 6, 9, 11)
    y = layer(x, output_size)
    values, weight = parts(layer, x)
    plain = nn.ConvTranspose2d(6, 4, 3, **settings)
    plain.weight.data, plain.bias = weight.detach(), layer.bias
    torch.testing.assert_close(y, plain(values, output_size))
    channels = layer.weight_quant.step.numel()
    assert channels == 4 // groups
    assert layer.weight_quant.step.shape[1] == channels


@pytest.mark.parametrize('per_channel', [True, False])
def test_linear(per_channel):
    layer = quantized(nn.Linear(7, 5), QuantLinear, per_channel=per_channel)
    x = torch.randn(2, 3, 7)
    y = layer(x)
    torch.testing.assert_close(y, F.linear(*parts(layer, x), layer.bias))
    assert layer.weight_quant.step.numel() == (5 if per_channel else 1)


@pytest.mark.parametrize('size', [(8, 8), (9, 11), (1, 3)])
@pytest.mark.parametrize('settings', [dict(stride=2), dict(stride=1, dilation=2), dict(stride=3)])
def test_adaptive_padding_is_that_of_mmcv(settings, size):
    plain = Conv2dAdaptivePadding(4, 4, 3, **settings)
    expected = plain(x := torch.randn(1, 4, *size))
    layer = quantized(plain, QuantAdaptiveConv, 32, 32)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(('w', 'a'), [(32, 2), (2, 32), (32, 32)])
def test_32_is_untouched(w, a):
    plain = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 6, 6)
    expected = plain(x)
    layer = quantized(plain, QuantConv, w, a)
    assert (layer.weight_quant is None, layer.input_quant is None) == (w == 32, a == 32)
    assert torch.equal(layer(x), expected) == (w == a == 32)


def test_names_and_identity_of_parameters_stay():
    plain = nn.Conv2d(3, 4, 3)
    weight, names = plain.weight, set(plain.state_dict())
    layer = quantized(plain, QuantConv)
    assert layer.weight is weight
    assert names < set(layer.state_dict())
    assert isinstance(layer, nn.Conv2d)
    assert type(layer).__name__ == 'QuantConv2d'
    assert derive(QuantConv, nn.Conv2d) is derive(QuantConv, nn.Conv2d)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Steps stay in float32 and the result has the type of the float layer's."""
    layer = quantized(nn.Conv2d(6, 4, 3, padding=1), QuantConv)
    x = torch.randn(2, 6, 8, 8)
    with torch.autocast('cpu', dtype=dtype):
        y = layer(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


def test_channels_last_stays():
    layer = quantized(nn.Conv2d(8, 4, 3, padding=1), QuantConv)
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    assert layer.quantized_weight().is_contiguous(memory_format=torch.channels_last)
