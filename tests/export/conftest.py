"""Narrow segmentors with random weights and batch statistics, calibrated on noise."""

from functools import cache  # noqa: I001 - bfcn_mm comes before mmseg, whose imports it mends

import bfcn_mm
import mmseg.models  # noqa: F401 - registers
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from bfcn_mm.export import pack

NORM = dict(type='BN', requires_grad=True)
LOSS = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
PREPROCESSOR = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
)


def resnet(depth=18, width=8, **more):
    return dict(
        depth=depth,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        stem_channels=width,
        base_channels=width,
        norm_cfg=NORM,
        **{'type': 'ResNet', 'style': 'pytorch', **more},
    )


def dilated(**more):
    return resnet(type='ResNetV1c', **D8, **more)


D8 = dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True)


def head(kind, in_channels, **more):
    return dict(
        type=kind,
        in_channels=in_channels,
        num_classes=5,
        norm_cfg=NORM,
        align_corners=False,
        loss_decode=LOSS,
        **more,
    )


def laplacian(depth=18, **more):
    scale = 1 if depth == 18 else 4
    widths = [8 * scale << i for i in range(4)]
    defaults = dict(channels=[8, 12, 16, 24], num_blocks=1, dropout_ratio=0.1)
    return head('ResidualLaplacianHead', widths, **(defaults | more))


def d8_head(kind, **more):
    return head(kind, 64, in_index=3, channels=16, dropout_ratio=0.1, **more)


NETWORKS = {
    'bfcn_r18': lambda: (resnet(), laplacian()),
    'bfcn_r50': lambda: (resnet(50), laplacian(50)),
    'bfcn_conv_mask': lambda: (resnet(), laplacian(block='conv', mask=True, mask_dilation=2)),
    'bfcn_wide_2_levels': lambda: (resnet(), laplacian(block='wide', num_levels=2, mask=True)),
    'fcn': lambda: (dilated(), d8_head('FCNHead', num_convs=2, concat_input=True)),
    'pspnet': lambda: (dilated(), d8_head('PSPHead', pool_scales=(1, 2, 3, 6))),
    'deeplabv3plus': lambda: (
        dilated(),
        d8_head(
            'DepthwiseSeparableASPPHead',
            dilations=(1, 12, 24, 36),
            c1_in_channels=8,
            c1_channels=8,
        ),
    ),
    'unet': lambda: (
        dict(
            type='UNet',
            in_channels=3,
            base_channels=8,
            num_stages=5,
            strides=(1, 1, 1, 1, 1),
            norm_cfg=NORM,
            upsample_cfg=dict(type='InterpConv'),
            norm_eval=False,
        ),
        head('FCNHead', 8, in_index=4, channels=8, num_convs=1, concat_input=False),
    ),
}


@pytest.fixture(scope='session')
def network():
    """A function name -> (segmentor with w=1, a=2, what it packs to), each made once."""

    @cache
    def make(name):
        segmentor = build(name)
        return segmentor, pack(segmentor)

    return make


@pytest.fixture(scope='session')
def segmentor_of():
    """A function (name, **quant) -> segmentor, calibrated, in evaluation mode."""
    return build


@pytest.fixture(scope='session')
def config_of():
    """A function name -> the `model` of an mmseg config, before quantization."""
    return model_config


def build(name, preprocessor=PREPROCESSOR, **quant):
    """The network `name`, quantized (w=1, a=2 by default), calibrated on noise."""
    torch.manual_seed(0)
    config = ConfigDict(model_config(name, preprocessor))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, _BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    bfcn_mm.quantize_(model, **({'w': 1, 'a': 2} | quant))
    noise = torch.rand(2, 3, 64, 64) * 4 - 2
    with torch.no_grad():
        for _ in range(20):  # until running statistics have forgotten where they began
            model.train().decode_head.forward(model.extract_feat(noise))
    return model.eval()


def model_config(name, preprocessor=PREPROCESSOR):
    """The `model` of an mmseg config, before quantization."""
    backbone, decode_head = NETWORKS[name]()
    return dict(
        type='EncoderDecoder',
        data_preprocessor=preprocessor,
        backbone=backbone,
        decode_head=decode_head,
        test_cfg=dict(mode='whole'),
    )
