"""The probe makes the images, and the labels, that a network takes."""

import pytest
import torch
from helpers import tiny_model
from mmengine.config import Config
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import nn

from bfcn_mm import calibrate, quantize_
from bfcn_mm.convert import quantizers, summarize

HEAD = tiny_model()['decode_head']


def build(quant=None, **changes):
    torch.manual_seed(0)
    return MODELS.build(
        Config(dict(model=tiny_model(**changes), quant=quant or dict(w=1, a=2))).model
    )


def preprocessor(channels, **changes):
    size = dict(size=(64, 64), mean=[120.0] * channels, std=[60.0] * channels)
    return dict(type='SegDataPreProcessor') | size | changes


@pytest.mark.parametrize('channels', [1, 4, 12])
def test_images_have_the_channels_of_the_config(channels):
    backbone = tiny_model()['backbone'] | dict(in_channels=channels)
    model = build(backbone=backbone, data_preprocessor=preprocessor(channels))
    assert model.quant_plan.shape == (1, channels, 128, 128)
    assert model.quant_plan.first == ['backbone.stem.0']
    assert model.quant_plan.notes == []


def test_the_channels_of_the_first_convolution_do_where_the_config_does_not_say():
    model = nn.Sequential(nn.Conv2d(5, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert quantize_(model, w=1, a=2).quant_plan.shape == (1, 5, 128, 128)


def beit(size):
    backbone = dict(
        type='BEiT',
        img_size=(size, size),
        patch_size=size // 8,
        in_channels=3,
        embed_dims=32,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2,
        out_indices=(1,),
        qv_bias=True,
    )
    heads = dict(decode_head=HEAD | dict(in_channels=32, in_index=0), auxiliary_head=None)
    return build(backbone=backbone, data_preprocessor=preprocessor(3, size=(size, size)), **heads)


@pytest.mark.parametrize('size', [128, 160, 640])
def test_networks_of_one_size_are_probed_at_that_size(size):
    model = beit(size)
    assert model.quant_plan.shape == (1, 3, size, size)
    assert model.quant_plan.notes == []
    kept = model.quant_plan.kept['backbone.layers.0.attn.qkv']
    assert kept == 'its weights are read by linear in BEiTAttention, not through its own forward'
    assert 'backbone.layers.0.attn.proj' in model.quant_plan.layers


def test_the_error_names_what_was_tried():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(7, 4, 1)

        def forward(self, x):
            raise KeyError('no such image')

    with pytest.raises(
        ValueError, match=r'of 7, 3 channels at 128x128, 512x512, 1024x1024'
    ) as error:
        quantize_(Picky(), w=1, a=2)
    assert "model(images): KeyError: 'no such image'" in str(error.value)
    assert 'example=' in str(error.value)
    with pytest.raises(ValueError, match=r'does not take the example: .*no such image'):
        quantize_(Picky(), w=1, a=2, example=torch.randn(1, 7, 8, 8))


def point_rend():
    norm = dict(type='BN')
    fpn = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4)
    head = dict(channels=8, num_classes=4, norm_cfg=norm, align_corners=False)
    loss = dict(loss_decode=dict(type='CrossEntropyLoss'))
    first = dict(type='FPNHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3])
    first['feature_strides'] = [4, 8, 16, 32]
    points = dict(type='PointHead', in_channels=[16], in_index=[0], channels=16, num_fcs=2)
    points.update(coarse_pred_each_layer=True, num_classes=4, align_corners=False)
    return dict(
        type='CascadeEncoderDecoder',
        num_stages=2,
        neck=fpn,
        decode_head=[first | head | loss, points | loss],
        auxiliary_head=None,
        train_cfg=dict(num_points=64, oversample_ratio=3, importance_sample_ratio=0.75),
        test_cfg=dict(
            mode='whole', subdivision_steps=2, subdivision_num_points=256, scale_factor=2
        ),
    )


def test_a_head_that_takes_points_is_run_as_evaluation_runs_it():
    model = build(**point_rend())
    assert 'decode_head.0.conv_seg' in model.quant_plan.layers
    assert {n for n in model.quant_plan.kept if n.startswith('decode_head.1')} == {
        'decode_head.1.fcs.0.conv',
        'decode_head.1.fcs.1.conv',
        'decode_head.1.fc_seg',
    }
    assert set(model.quant_plan.kept.values()) == {'Conv1d has no handler'}
    assert model.quant_plan.notes == []


@MODELS.register_module()
class SampleHead(FCNHead):
    """As MaskFormer's: the forward wants data samples, which loss and predict hand on."""

    def forward(self, inputs, samples):
        assert all(sample['img_shape'] for sample in samples)
        return super().forward(inputs)

    def predict(self, inputs, batch_img_metas, test_cfg):
        return self.predict_by_feat(self.forward(inputs, batch_img_metas), batch_img_metas)

    def loss(self, inputs, batch_data_samples, train_cfg):
        logits = self.forward(inputs, [sample.metainfo for sample in batch_data_samples])
        return self.loss_by_feat(logits, batch_data_samples)


def test_a_head_that_wants_data_samples_is_given_some():
    model = build(decode_head=HEAD | dict(type='SampleHead'))
    assert 'decode_head.conv_seg' in model.quant_plan.layers
    assert 'auxiliary_head.conv_seg' in model.quant_plan.layers
    assert model.quant_plan.last == ['decode_head.conv_seg']
    assert model.quant_plan.notes == []


@MODELS.register_module()
class LossHead(FCNHead):
    """Training calls one more convolution and one more ReLU than forward does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.relu, self.mid = nn.ReLU(), nn.Conv2d(64, 64, 1)
        self.extra, self.spare = nn.Conv2d(64, 9, 1), nn.Conv2d(64, 9, 1)
        self.spare_act = nn.ReLU()

    def forward(self, inputs):
        return super().forward([*inputs[:-1], self.relu(self.mid(inputs[-1]))])

    def loss(self, inputs, *args):
        inputs = [*inputs[:-1], self.relu(inputs[-1] * 2)]
        losses = super().loss(inputs, *args)
        return losses | dict(loss_extra=self.extra(inputs[-1]).square().mean())


def test_what_only_the_loss_runs_is_quantized_and_what_nothing_runs_is_not():
    model = build(decode_head=HEAD | dict(type='LossHead'))
    layers = model.quant_plan.layers
    assert not layers['decode_head.extra'].own_input
    assert len(model.decode_head.relu.quants) == 2
    unreached = {n for n, why in model.quant_plan.kept.items() if why == 'no forward reaches it'}
    assert unreached == {'decode_head.spare', 'decode_head.spare_act'}
    assert 'decode_head.spare, decode_head.spare_act (no forward reaches it)' in summarize(model)
    x = torch.randn(2, 3, 64, 64)

    def losses(x):
        from bfcn_mm.convert.inputs import _samples

        return model.loss(x, _samples(model, x))

    calibrate(model.train(), [x], losses)
    total = sum(v for k, v in losses(x).items() if 'loss' in k)
    total.backward()
    assert all(q.initialized for n, q in quantizers(model) if 'weight' not in n)
    model.eval().predict(x)


class EvaluatedOnly(nn.Module):
    """A branch that only evaluation runs; a residual branch that training leaves out at random."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 8, 1), nn.ReLU()
        self.body, self.more, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.act = nn.ReLU()

    def forward(self, x):
        y = self.relu(self.stem(x))
        if not self.training or torch.rand(1) < 0.5:
            y = y + self.body(y)
        if not self.training:
            y = self.act(self.more(self.relu(y) * 2))
        return self.last(y)


def test_what_only_evaluation_runs_stays_in_float():
    model = quantize_(EvaluatedOnly(), w=2, a=2)
    reason = 'only evaluation runs it: nothing would train it'
    assert model.quant_plan.kept == {'more': reason, 'act': reason}
    assert list(model.quant_plan.layers) == ['stem', 'body', 'last']
    assert [q is None for q in model.relu.quants] == [False, True]
    assert model.last.input_quant is not None
    calibrate(model.train(), [torch.randn(2, 3, 16, 16)])
    assert all(q.initialized for n, q in quantizers(model) if 'weight' not in n)
    model.eval()(torch.randn(2, 3, 16, 16))


def test_a_training_forward_that_fails_is_a_note_in_the_summary():
    class Labels(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x, labels=None):
            if self.training:
                raise TypeError('labels, please')
            return self.last(torch.relu(self.conv(x)))

    model = quantize_(Labels(), w=1, a=2)
    assert list(model.quant_plan.layers) == ['conv', 'last']
    note = next(s for s in summarize(model).splitlines() if s.startswith('note: '))
    assert 'could not run the model in training mode' in note
    assert 'labels, please' in note


def test_binary_segmentation_of_one_channel_is_probed_in_training_too():
    head = HEAD | dict(num_classes=2, out_channels=1, threshold=0.3)
    head['loss_decode'] = dict(type='CrossEntropyLoss', use_sigmoid=True)
    model = build(decode_head=head, auxiliary_head=None)
    assert model.quant_plan.notes == []
