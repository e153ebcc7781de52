"""The same seed gives the same initial weights as in float; init_cfg loads low-bit backbones."""

import copy

import pytest
import torch
from helpers import tiny_model
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmseg.models.backbones import ResNetV1c
from mmseg.registry import MODELS

from bfcn_mm.convert import other_bits, quantizers

LAYER = 'backbone.layer1.0.conv1'


def low_bit(model, **quant):
    kind, rest = model['type'], {k: v for k, v in model.items() if k != 'type'}
    quant = dict(w=2, a=2) | quant
    return dict(type='QuantSegmentor', segmentor=kind, quant=quant) | copy.deepcopy(rest)


def built(model, seed=0):
    torch.manual_seed(0)
    segmentor = MODELS.build(model)
    torch.manual_seed(seed)
    segmentor.init_weights()
    return segmentor


def head(**changes):
    return tiny_model()['decode_head'] | changes


def backbone(**changes):
    return dict(depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN')) | changes


NETWORKS = {
    'fcn': tiny_model(),
    'mobilenetv3': tiny_model(
        backbone=dict(type='MobileNetV3', arch='small', out_indices=(0, 1, 12)),
        decode_head=head(in_channels=576, in_index=2),
        auxiliary_head=None,
    ),
    'adaptive padding': tiny_model(
        backbone=backbone(type='ResNet', conv_cfg=dict(type='Conv2dAdaptivePadding'))
    ),
    'init_cfg by class': tiny_model(
        backbone=backbone(
            type='ResNet',
            conv_cfg=dict(type='Conv2dAdaptivePadding'),
            init_cfg=[dict(type='Constant', layer='Conv2d', val=0.5)],
        )
    ),
    'deconvolution': tiny_model(
        backbone=dict(
            type='UNet', base_channels=8, num_stages=3, strides=(1, 1, 1), enc_num_convs=(1, 1, 1),
            dec_num_convs=(1, 1), downsamples=(True, True), enc_dilations=(1, 1, 1),
            dec_dilations=(1, 1), upsample_cfg=dict(type='DeconvModule'),
        ),
        decode_head=head(in_channels=8, in_index=2),
        auxiliary_head=None,
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', NETWORKS)
def test_initial_weights_are_those_of_the_float_network(name):
    expected = built(copy.deepcopy(NETWORKS[name]), seed=1).state_dict()
    got = built(low_bit(NETWORKS[name]), seed=1).state_dict()
    assert [k for k, v in expected.items() if not torch.equal(v, got[k])] == []


@MODELS.register_module(force=True)
class LoadsByItself(ResNetV1c):
    """A backbone that reads its checkpoint itself, as mmseg's transformers do."""

    def __init__(self, checkpoint, **options):
        super().__init__(**options)
        self.checkpoint = checkpoint

    def init_weights(self):
        load_state_dict(self, torch.load(self.checkpoint), strict=False)


@pytest.fixture
def checkpoint(tmp_path):
    """A function (bits) -> (segmentor of those bits with placed grids, its checkpoint)."""

    def make(bits):
        segmentor = built(low_bit(tiny_model(), w=bits, a=bits), seed=2).train()
        with torch.no_grad():
            segmentor(torch.randn(2, 3, 64, 64))
        path = tmp_path / f'{bits}.pth'
        torch.save(dict(state_dict=segmentor.state_dict()), path)
        state = {k[9:]: v for k, v in segmentor.state_dict().items() if k.startswith('backbone.')}
        torch.save(state, tmp_path / f'backbone{bits}.pth')
        return segmentor, str(path), str(tmp_path / f'backbone{bits}.pth')

    return make


@pytest.mark.parametrize('form', ['prefix', 'classifier', 'by itself', 'whole'])
@pytest.mark.parametrize(('before', 'now'), [(8, 2), (2, 8), (2, 2)])
def test_a_low_bit_checkpoint_as_init_cfg(checkpoint, monkeypatch, form, before, now):
    lines = []
    monkeypatch.setattr(other_bits, 'print_log', lambda line, **_: lines.append(line))
    source, path, alone = checkpoint(before)
    init = dict(
        prefix=dict(type='Pretrained', checkpoint=path, prefix='backbone.'),
        classifier=dict(type='Pretrained', checkpoint=alone),
        whole=dict(type='Pretrained', checkpoint=path),
    )
    if form == 'by itself':
        model = tiny_model(backbone=backbone(type='LoadsByItself', checkpoint=alone))
    elif form == 'whole':
        model = tiny_model(init_cfg=init[form])
    else:
        model = tiny_model(backbone=backbone(type='ResNetV1c', init_cfg=init[form]))
    segmentor = built(low_bit(model, w=now, a=now), seed=3)
    layer = segmentor.get_submodule(LAYER)
    theirs = source.get_submodule(LAYER)
    assert torch.equal(layer.weight, theirs.weight)
    assert layer.weight_quant.bits == now
    assert layer.weight_quant.initialized == (before == now)
    stem = segmentor.backbone.stem[0].input_quant  # 8 bits in both
    assert torch.equal(stem.placed, source.backbone.stem[0].input_quant.placed)
    assert len(lines) == (before != now)
    assert all('start again from its weights' in line for line in lines)
    segmentor.eval()
    assert layer.quantized_weight().unique().numel() > (2 if now == 2 else 100)


def test_decay_starts_again_from_an_init_cfg_of_the_target_bits(checkpoint):
    _, path, _ = checkpoint(2)
    init = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    model = tiny_model(backbone=backbone(type='ResNetV1c', init_cfg=init))
    segmentor = built(low_bit(model, decay=dict(stages=[8, 2])))
    assert not segmentor.get_submodule(LAYER).weight_quant.initialized


def test_testing_a_checkpoint_of_other_bits_stays_an_error(checkpoint):
    _, path, _ = checkpoint(8)
    segmentor = built(low_bit(tiny_model()))
    with pytest.raises(ValueError, match=r'the checkpoint has 8 bits at .*, the config 2'):
        load_checkpoint(segmentor, path, map_location='cpu')
    assert all(q.bits in (2, 8) for _, q in quantizers(segmentor))
