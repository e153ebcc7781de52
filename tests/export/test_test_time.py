"""What a config does at test time is what the packed file does, or it is refused by key and value."""

import pytest
import torch
from helpers.segmentor import Body, Segmentor, conv
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import DefaultScope
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from bfcn_mm.export import ExportError, pack
from bfcn_mm.export.checkpoint import load_segmentor
from bfcn_mm.export.test_time import check_config

NAME = 'bfcn_wide_2_levels'


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(48, 48))),
            ["model.test_cfg.mode='slide'", '--cfg-options model.test_cfg.mode=whole'],
        ),
        (
            dict(data_preprocessor=dict(test_cfg=dict(size=(64, 64)))),
            [
                "model.data_preprocessor.test_cfg={'size': (64, 64)}",
                '--cfg-options model.data_preprocessor.test_cfg=None',
            ],
        ),
        (
            dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32))),
            ["model.data_preprocessor.test_cfg={'size_divisor': 32}", 'without padding'],
        ),
        (
            dict(data_preprocessor=dict(rgb_to_bgr=True)),
            ['model.data_preprocessor.rgb_to_bgr=True', 'bgr_to_rgb=True'],
        ),
        (
            dict(decode_head=dict(num_classes=2, out_channels=1, threshold=0.3)),
            ['model.decode_head.out_channels=1 (threshold=0.3)', 'out_channels=2'],
        ),
        (dict(decode_head=dict(num_classes=1)), ['model.decode_head.out_channels=1']),
    ],
)
def test_the_key_is_named_with_its_value_and_the_way_out(changes, words):
    with pytest.raises(ExportError) as error:
        check_config(dict(type='EncoderDecoder', **changes))
    for word in words:
        assert word in str(error.value)


def test_plain_configs_pass():
    check_config(dict(test_cfg=dict(mode='whole'), data_preprocessor=dict(bgr_to_rgb=True)))
    check_config(dict(decode_head=[dict(num_classes=1)], data_preprocessor=None, test_cfg=None))


def changed(segmentor, name, value):
    target = segmentor
    *path, last = name.split('.')
    for part in path:
        target = getattr(target, part)
    setattr(target, last, value)
    return segmentor


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('test_cfg', dict(mode='slide'), "test_cfg.mode='slide'"),
        ('data_preprocessor.test_cfg', dict(size_divisor=8), r"test_cfg=\{'size_divisor': 8\}"),
        ('decode_head.out_channels', 1, r'out_channels=1 \(threshold=None\)'),
        ('data_preprocessor.mean', torch.zeros(4, 1, 1), 'data_preprocessor.mean has 4 numbers'),
    ],
)
def test_a_segmentor_in_python_is_refused_alike(segmentor_of, name, value, words):
    with pytest.raises(ExportError, match=words):
        pack(changed(segmentor_of(NAME), name, value))


def test_a_prediction_of_its_own_is_refused(segmentor_of):
    for part, name in (('', 'postprocess_result'), ('decode_head', 'predict_by_feat')):
        segmentor = segmentor_of(NAME)
        module = segmentor.get_submodule(part)
        kind = type(module)
        module.__class__ = type('Other', (kind,), {name: lambda self, *args: None})
        with pytest.raises(ExportError, match=rf'Other\.{name} is not that of'):
            pack(segmentor)


def test_a_preprocessor_that_does_more_is_refused():
    class Halves(SegDataPreProcessor):
        def forward(self, data, training=False):
            data = super().forward(data, training)
            return data | dict(inputs=data['inputs'] / 2)

    segmentor = Segmentor(Body(lambda m, x: m.c(x), c=conv()))
    segmentor.data_preprocessor = Halves(mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(ExportError, match='Halves does more to images than'):
        pack(segmentor)
    segmentor.data_preprocessor = ImgDataPreprocessor(pad_size_divisor=32)
    with pytest.raises(ExportError, match='ImgDataPreprocessor does more to images'):
        pack(segmentor)


@pytest.mark.parametrize('kind', [SegDataPreProcessor, ImgDataPreprocessor])
@pytest.mark.parametrize('order', [dict(), dict(bgr_to_rgb=True)])
def test_other_preprocessors_of_the_same_arithmetic_pass(kind, order):
    segmentor = Segmentor(Body(lambda m, x: m.c(x), c=conv()))
    segmentor.data_preprocessor = kind(mean=[2.0, 1.0, 0.0], std=[3.0, 1.0, 2.0], **order)
    image = pack(segmentor).model.metadata
    assert image.mean == ((2.0, 1.0, 0.0) if order else (0.0, 1.0, 2.0))


def test_one_mean_stands_for_three():
    segmentor = Segmentor(Body(lambda m, x: m.c(x), c=conv()))
    segmentor.data_preprocessor = SegDataPreProcessor(mean=[4.0], std=[2.0])
    packed = pack(segmentor).model
    assert packed.metadata.mean == (4.0, 4.0, 4.0)
    assert packed.metadata.std == (2.0, 2.0, 2.0)


def test_a_preprocessor_at_the_top_of_the_config_is_the_models(tmp_path, config_of):
    """As mmengine's Runner has it; it is where mean and std are."""
    model = config_of(NAME)
    preprocessor = model.pop('data_preprocessor') | dict(mean=[1.0, 2.0, 3.0])
    config = Config(dict(model=model, data_preprocessor=preprocessor, default_scope='mmseg'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), tmp_path / 'x.pth')
    segmentor, _ = load_segmentor(config, tmp_path / 'x.pth')
    assert segmentor.data_preprocessor.mean.flatten().tolist() == [1.0, 2.0, 3.0]
