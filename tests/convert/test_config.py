"""A top-level `quant` becomes part of the model dict, however the config is made or changed."""

import copy

import pytest
from helpers import tiny_config, write_config
from mmengine.config import Config

HOOKS = ['CalibrationHook', 'CollapseGuardHook', 'ExactResumeHook']


@pytest.fixture
def write(tmp_path):
    def make(**changes):
        return write_config(tmp_path / 'c.py', tiny_config(tmp_path, **changes))

    return make


def hooks(config):
    return [hook['type'] for hook in config.custom_hooks]


def assert_lowered(config, **quant):
    assert 'quant' not in config
    assert config.model.type == 'QuantSegmentor'
    assert config.model.segmentor == 'EncoderDecoder'
    assert config.model.quant.to_dict() == quant
    assert set(HOOKS) <= set(hooks(config))
    assert config.optim_wrapper.constructor == 'QuantOptimWrapperConstructor'
    assert 'bfcn_mm' in config.custom_imports.imports


def test_from_a_file(write):
    config = Config.fromfile(write(quant=dict(w=1, a=2)))
    assert_lowered(config, w=1, a=2)
    assert hooks(config) == HOOKS
    assert config.model.backbone.type == 'ResNetV1c'


def test_a_config_without_quant_is_left_alone(write, tmp_path):
    plain = Config.fromfile(write())
    assert plain.to_dict() == tiny_config(tmp_path)


def test_a_base_and_its_child(write, tmp_path):
    write(quant=dict(w=1, a=2))
    child = tmp_path / 'child.py'
    child.write_text("_base_ = './c.py'\nquant = dict(a=4, first=None)\n")
    assert_lowered(Config.fromfile(child), w=1, a=4, first=None)


DECAYING = dict(w=1, a=2, decay=dict(start=4, every=7), overrides={'backbone': dict(w=4, a=4)})
CHILDREN = {
    'a key': (dict(w=2), DECAYING | dict(w=2)),
    'all': (dict(_delete_=True, w=2, a=2), dict(w=2, a=2)),
    'not all': (dict(_delete_=False, w=2), DECAYING | dict(w=2)),
    'decay': (
        dict(decay=dict(_delete_=True, stages=[8, 1])),
        DECAYING | dict(decay=dict(stages=[8, 1])),
    ),
    'overrides': (dict(overrides=dict(_delete_=True)), DECAYING | dict(overrides={})),
    'none of it': (dict(decay=None), DECAYING | dict(decay=None)),
}


@pytest.mark.parametrize('base', ['written', 'dumped'])
@pytest.mark.parametrize('case', CHILDREN)
def test_a_child_merges_or_deletes_as_in_any_mmengine_config(write, tmp_path, base, case):
    path = write(quant=DECAYING)
    if base == 'dumped':
        Config.fromfile(path).dump(tmp_path / 'dumped.py')
        path = tmp_path / 'dumped.py'
    child, expected = CHILDREN[case]
    (tmp_path / 'child.py').write_text(f"_base_ = './{path.name}'\nquant = {child!r}\n")
    assert_lowered(Config.fromfile(tmp_path / 'child.py'), **expected)


def test_delete_without_a_base_and_by_cfg_options(write):
    config = Config.fromfile(write(quant=dict(_delete_=True) | DECAYING))
    assert_lowered(config, **DECAYING)
    config.merge_from_dict({'quant.decay._delete_': True, 'quant.decay.stages': [8, 1]})
    assert_lowered(config, **DECAYING | dict(decay=dict(stages=[8, 1])))


def test_another_segmentor_in_a_lowered_config(write, tmp_path):
    config = Config.fromfile(write(quant=dict(w=1, a=2)))
    config.merge_from_dict({'model.type': 'CascadeEncoderDecoder'})
    assert config.model.type == 'QuantSegmentor'
    assert config.model.segmentor == 'CascadeEncoderDecoder'
    config.quant = None
    assert config.model.type == 'CascadeEncoderDecoder'


def test_a_config_made_from_a_config_is_the_same(write):
    config = Config.fromfile(write(quant=DECAYING))
    assert Config(config.to_dict()).to_dict() == config.to_dict()
    assert Config(config._cfg_dict).to_dict() == config.to_dict()


def test_cfg_options_change_single_keys(write):
    config = Config.fromfile(write(quant=dict(w=1, a=2, decay=dict(start=4))))
    assert 'BitWidthDecayHook' in hooks(config)
    config.merge_from_dict({'quant.w': 2, 'quant.decay.every': 7})
    assert_lowered(config, w=2, a=2, decay=dict(start=4, every=7))
    assert hooks(config).count('BitWidthDecayHook') == 1
    config.merge_from_dict({'quant.decay': None})
    assert 'BitWidthDecayHook' not in hooks(config)


@pytest.mark.parametrize('how', ['attribute', 'item', 'merge'])
def test_assigned_to_a_float_config_and_taken_out_again(write, how, tmp_path):
    def put(config, value):
        if how == 'attribute':
            config.quant = value
        elif how == 'item':
            config['quant'] = value
        else:
            config.merge_from_dict(dict(quant=value))

    config = Config.fromfile(write())
    put(config, dict(w=1, a=2))
    assert_lowered(config, w=1, a=2)
    put(config, None)
    given = tiny_config(tmp_path)
    assert config.model.to_dict() == given['model']
    assert config.custom_hooks == []
    assert config.optim_wrapper.to_dict() == given['optim_wrapper']


def test_a_dumped_config_says_all_by_itself(write, tmp_path):
    config = Config.fromfile(
        write(quant=dict(w=1, a=2, overrides={'backbone.layer4': dict(w=4, a=4)}))
    )
    config.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == config.to_dict()
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_what_the_user_lists_is_kept(write):
    own = [dict(type='EMAHook'), dict(type='CollapseGuardHook', interval=7)]
    optimizer = dict(optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=dict(bias_lr_mult=2.0))
    config = Config.fromfile(write(quant=dict(w=1, a=2), custom_hooks=own, optim_wrapper=optimizer))
    assert [hook.to_dict() for hook in config.custom_hooks[:2]] == own
    assert hooks(config).count('CollapseGuardHook') == 1
    assert config.optim_wrapper.paramwise_cfg.bias_lr_mult == 2.0
    optimizer = optimizer | dict(constructor='LearningRateDecayOptimizerConstructor')
    config = Config.fromfile(write(quant=dict(w=1, a=2), optim_wrapper=optimizer))
    assert config.optim_wrapper.constructor == 'QuantOptimWrapperConstructor'
    assert config.optim_wrapper.inner_constructor == 'LearningRateDecayOptimizerConstructor'


def test_hooks_named_by_scope_or_import_path_are_not_added_twice(write):
    own = [
        dict(type='mmseg.CollapseGuardHook', interval=7),
        dict(type='bfcn_mm.engine.ExactResumeHook'),
    ]
    config = Config.fromfile(write(quant=dict(w=1, a=2), custom_hooks=own))
    assert hooks(config) == [hook['type'] for hook in own] + ['CalibrationHook']
    config.quant = None
    assert config.custom_hooks == []


def test_hooks_that_are_assigned_later_join_those_of_quant(write):
    config = Config.fromfile(write(quant=dict(w=1, a=2)))
    config.custom_hooks = [dict(type='EMAHook')]
    assert hooks(config) == ['EMAHook', *HOOKS]


def test_lazy_configs(tmp_path):
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from mmengine.config import read_base\n'
        'from mmseg.models.segmentors import EncoderDecoder\n'
        'from mmseg.models.backbones import ResNetV1c\n'
        'from mmseg.models.decode_heads import FCNHead\n'
        "default_scope = 'mmseg'\n"
        'model = dict(type=EncoderDecoder, backbone=dict(type=ResNetV1c, depth=18, base_channels=8,'
        ' stem_channels=8), decode_head=dict(type=FCNHead, in_channels=64, channels=8, num_classes=3))\n'
        'quant = dict(w=1, a=2)\n'
    )
    config = Config.fromfile(path)
    from mmseg.registry import MODELS

    model = MODELS.build(config.model)
    assert type(model).__name__ == 'EncoderDecoder'
    assert type(model.decode_head.conv_seg).__name__ == 'QuantConv2d'
    config.dump(tmp_path / 'dumped.py')
    again = MODELS.build(Config.fromfile(tmp_path / 'dumped.py').model)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_quant_without_a_model():
    with pytest.raises(ValueError, match=r'quant: the config has no model to quantize'):
        Config(dict(quant=dict(w=1, a=2)))


def test_a_model_without_a_type():
    with pytest.raises(ValueError, match=r'quant: the config has a model without a type'):
        Config(dict(model=dict(backbone=dict(type='ResNet')), quant=dict(w=1, a=2)))


@pytest.mark.parametrize(
    'quant', [dict(w=0, a=2), dict(w=1), dict(w=1, a=2, x=3), 5, 0, {}, [], '', 'w1a2']
)
def test_bad_values_are_refused_when_the_config_is_read(write, quant):
    with pytest.raises(ValueError, match='quant'):
        Config.fromfile(write(quant=quant))
