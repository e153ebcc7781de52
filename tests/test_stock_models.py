"""Eight networks of mmseg convert and train by one line over mmseg's own configs."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

import bfcn_mm
from bfcn_mm.layers import QuantizedLayer

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[1] / 'configs'
# LR-ASPP pools windows of 49 pixels at stride 8: 392 is its smallest input.
SIZES = dict(
    fcn=64,
    pspnet=64,
    deeplabv3plus=64,
    unet=64,
    hrnet=64,
    bisenetv2=64,
    mobilenetv3=392,
    segformer=64,
)
# name of the layer that stays in float -> why
LEFT_IN_FLOAT: dict[str, dict[str, str]] = {name: {} for name in SIZES}


@pytest.mark.parametrize('name', SIZES)
def test_every_quantized_layer_learns_in_one_step(name):
    model = build(name)
    assert model.quant_plan.kept == LEFT_IN_FLOAT[name]
    float_layers = [
        n
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        and not isinstance(m, QuantizedLayer)
    ]
    assert not [n for n in float_layers if not n.endswith('attn.out_proj')]

    loss, _ = model.parse_losses(model(*batch(SIZES[name]), mode='loss'))
    loss.backward()

    assert torch.isfinite(loss)
    learned = quantized_parameters(model)
    assert len([n for n in learned if n.endswith('weight')]) >= len(model.quant_plan.layers)
    assert len([n for n in learned if n.endswith('drift')]) > len(model.quant_plan.layers)
    assert not [n for n, p in learned.items() if p.grad is None]
    assert not [n for n, p in learned.items() if not torch.isfinite(p.grad).all()]
    assert not [n for n, p in learned.items() if not p.grad.any()]


def build(name: str) -> nn.Module:
    """The config's model as the runner of one process has it, with random weights."""
    config = Config.fromfile(CONFIGS / f'quant_{name}.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    forget_downloads(config.model)
    return revert_sync_batchnorm(MODELS.build(config.model)).train()


def forget_downloads(node: object) -> None:
    if isinstance(node, dict):
        node.update({key: None for key in ('init_cfg', 'pretrained') if key in node})
        for value in node.values():
            forget_downloads(value)
    elif isinstance(node, list | tuple):
        for value in node:
            forget_downloads(value)


def batch(size: int) -> tuple[torch.Tensor, list[SegDataSample]]:
    labels = torch.randint(0, 19, (2, 1, size, size))
    return torch.randn(2, 3, size, size), [
        SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels
    ]


def quantized_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of quantized layers and every learned step, by name."""
    layers = [n for n, m in model.named_modules() if isinstance(m, QuantizedLayer)]
    steps = [f'{n}.drift' for n, _ in bfcn_mm.convert.quantizers(model)]
    own = {f'{n}.{key}' for n in layers for key in ('weight', 'in_proj_weight', 'out_proj.weight')}
    return {n: p for n, p in model.named_parameters() if n in own or n in steps}
