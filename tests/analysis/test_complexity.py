from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

import bfcn_mm
from bfcn_mm.analysis import complexity

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


def tiny() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 6x10 -> 3x5
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False),  # 3x5 -> 6x10
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(240, 7),
    )


HAND_COUNT = {'0': 27 * 8 * 15, '2': 9 * 8 * 15, '5': 8 * 4 * 4 * 15, '8': 240 * 7}


def test_macs_of_a_tiny_net_are_those_counted_by_hand():
    cost = complexity(tiny(), (6, 10))
    assert {layer.name: layer.macs for layer in cost.layers} == HAND_COUNT
    assert cost.float_macs == cost.macs == sum(HAND_COUNT.values())
    assert [layer.kind for layer in cost.layers] == [
        'conv 3x3',
        'conv 3x3 dw',
        'deconv 2x2',
        'linear',
    ]
    assert cost.weights == sum(p.numel() for p in tiny().parameters())
    assert cost.others == {'bias': 8 + 7, 'BatchNorm2d': 16}
    assert cost.speedup('CPU') == 1


def test_bit_operations_are_m_times_n_macs_and_bytes_are_rounded_up():
    model = tiny()
    example = torch.randn(1, 3, 6, 10)
    bfcn_mm.quantize_(model, w=1, a=2, overrides={'8': dict(w=32, a=32)}, example=example)
    cost = complexity(model, (6, 10))
    bits = {'0': 64, '2': 2, '5': 2}
    assert {y.name: y.bitops for y in cost.layers} == {
        n: bits.get(n, 0) * m for n, m in HAND_COUNT.items()
    }
    assert cost.float_macs == HAND_COUNT['8']
    assert [layer.bytes for layer in cost.layers] == [216, 9, 16, 4 * 1680]
    assert cost.weights == complexity(tiny(), (6, 10)).weights
    price = cost.bitops + 18 * HAND_COUNT['8']
    assert cost.speedup('CPU') == 18 * sum(HAND_COUNT.values()) / price


@pytest.mark.parametrize('quant', [None, dict(w=2, a=2)])
def test_attention_counts_projections_and_products_apart(quant):
    model = Attention()
    if quant:
        bfcn_mm.quantize_(model, example=torch.randn(1, 3, 4, 4), **quant)
    cost = complexity(model, (4, 4))
    attention = next(y for y in cost.layers if y.name == 'attention')
    assert attention.weights == 4 * 8 * 8
    assert attention.macs == 4 * 16 * 8 * 8
    assert cost.products == {'attention': 2 * 16 * 16 * 8}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.attention(x, x, x, need_weights=False)[0]


def test_agrees_with_mmengine_on_a_float_network():
    config = Config.fromfile(CONFIGS / 'bfcn_r18_camvid_fp32.py')
    model = MODELS.build(config.model).eval()
    cost = complexity(model, (64, 96))
    model.forward = model._forward
    image = torch.randn(1, 3, 64, 96)
    theirs = FlopAnalyzer(model, image).by_operator()
    assert cost.macs == theirs['conv']
    assert cost.weights == sum(p.numel() for p in model.parameters())


def test_what_inference_never_runs_is_in_no_sum():
    model = MODELS.build(tiny_model())
    cost = complexity(model, (64, 64))
    auxiliary = sum(p.numel() for p in model.auxiliary_head.parameters())
    assert cost.idle == {'auxiliary_head': auxiliary}
    assert cost.weights == sum(p.numel() for p in model.parameters()) - auxiliary


def test_the_model_is_left_as_it_is():
    model = tiny()
    bfcn_mm.quantize_(model, w=2, a=2, example=torch.randn(1, 3, 6, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    complexity(model, (6, 10))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_the_paper_network_has_the_paper_size():
    config = Config.fromfile(CONFIGS / 'bfcn_r50_cityscapes_1w2a.py')
    config.model.backbone.init_cfg = None
    cost = complexity(MODELS.build(config.model), (160, 256))
    assert cost.weights == pytest.approx(34.4e6, rel=0.01)
    assert cost.float32_bytes == pytest.approx(137.7e6, rel=0.01)
    assert cost.bytes_at(1) == pytest.approx(4.3e6, rel=0.01)
    low = [layer for layer in cost.layers if layer.name != 'backbone.conv1']
    assert {(layer.w, layer.a) for layer in low} == {(1, 2)}


def test_a_size_the_model_cannot_take_is_told_in_one_line():
    with pytest.raises(RuntimeError, match='on shapes alone at 7x10'):
        complexity(tiny(), (7, 10))
