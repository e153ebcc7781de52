"""Learned steps have no weight decay, whichever constructor builds the optimizer."""

import copy

import pytest
import torch
from helpers import tiny_config, tiny_model
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from torch.optim import SGD

from bfcn_mm.convert import quantizers
from bfcn_mm.engine.optim_wrapper_constructor import optimizers

ADAMW = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
QUANT = dict(w=2, a=2, calibrate=1)


def beit():
    backbone = dict(
        type='BEiT', img_size=(128, 128), patch_size=32, embed_dims=32, num_layers=2, num_heads=2,
        mlp_ratio=2, out_indices=(1,), qv_bias=True,
    )  # fmt: skip
    head = tiny_model()['decode_head'] | dict(in_channels=32, in_index=0)
    return tiny_model(backbone=backbone, decode_head=head, auxiliary_head=None)


def layer_decay(name='LearningRateDecayOptimizerConstructor'):
    rates = dict(decay_rate=0.9, decay_type='layer_wise', num_layers=2)
    return dict(optimizer=ADAMW, constructor=name, paramwise_cfg=rates)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class BodyAndHead:
    """Two optimizers, as for a generator and a discriminator."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.given = optim_wrapper_cfg

    def __call__(self, model):
        parts = dict(body=model.backbone, head=model.decode_head)
        return OptimWrapperDict(
            **{k: DefaultOptimWrapperConstructor(self.given[k])(part) for k, part in parts.items()}
        )


@MODELS.register_module(force=True)
class TwoOptimizers(EncoderDecoder):
    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss, log = self.parse_losses(self(**data, mode='loss'))
        optim_wrapper.zero_grad()
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        return log


TWO = dict(constructor='BodyAndHead', body=dict(optimizer=ADAMW), head=dict(optimizer=ADAMW))
CASES = {
    'none': (dict(optimizer=ADAMW), tiny_model),
    'paramwise_cfg': (
        dict(
            optimizer=ADAMW,
            paramwise_cfg=dict(
                custom_keys={'backbone': dict(lr_mult=0.1), 'head': dict(decay_mult=2.0)},
                norm_decay_mult=0.0,
            ),
        ),
        tiny_model,
    ),
    'layer decay': (layer_decay(), beit),
    'a scope': (layer_decay('mmseg.LearningRateDecayOptimizerConstructor'), beit),
    'default by name': (
        dict(optimizer=ADAMW, constructor='DefaultOptimWrapperConstructor'),
        tiny_model,
    ),
    'forced default': (
        dict(optimizer=ADAMW, constructor='ForceDefaultOptimWrapperConstructor'),
        tiny_model,
    ),
    'two optimizers': (TWO, lambda: tiny_model(auxiliary_head=None)),
}


def built(make_runner, wrapper, model, quant=QUANT):
    runner = make_runner(model=model, optim_wrapper=copy.deepcopy(wrapper), quant=quant)
    return runner, runner.build_optim_wrapper(runner.cfg.optim_wrapper)


def groups_of(runner, wrapper):
    """name of each parameter -> its groups, without the parameters."""
    names = {id(p): n for n, p in runner.model.named_parameters()}
    result = {}
    for optimizer in optimizers(wrapper):
        for group in optimizer.param_groups:
            options = {k: v for k, v in group.items() if k not in ('params', 'param_names')}
            if 'param_names' in group:
                assert group['param_names'] == [names[id(p)] for p in group['params']]
            for p in group['params']:
                result.setdefault(names[id(p)], []).append(options)
    return result


@pytest.mark.parametrize('case', CASES)
def test_learned_steps_have_no_weight_decay_and_all_else_stays(make_runner, monkeypatch, case):
    wrapper, model = CASES[case]
    runner, made = built(make_runner, wrapper, model())
    got = groups_of(runner, made)
    stock = runner.build_optim_wrapper(copy.deepcopy(wrapper))  # what the user's constructor makes
    expected = groups_of(runner, stock)
    steps = {f'{n}.{k}' for n, q in quantizers(runner.model) for k, _ in q.named_parameters()}
    assert steps <= got.keys() == expected.keys()
    assert any(group['weight_decay'] for n in steps for group in expected[n])
    for name, groups in got.items():
        assert len(groups) == 1, name
        change = dict(weight_decay=0.0) if name in steps else {}
        assert groups[0] == expected[name][0] | change, name


def test_layer_decay_keeps_the_rates_of_the_steps_layers(make_runner):
    runner, made = built(make_runner, layer_decay(), beit())
    got = groups_of(runner, made)
    rates = {n: g[0]['lr'] for n, g in got.items() if n.endswith('drift')}
    assert len(set(rates.values())) > 2
    for name, rate in rates.items():
        owner = name.rpartition('.weight_quant')[0] + '.weight'
        assert owner not in got or got[owner][0]['lr'] == rate


def test_a_run_with_two_optimizers_decays_and_rewarms(make_runner):
    decay = dict(stages=[4, 2], every=2, rewarm=dict(iters=2, factor=0.5))
    runner = make_runner(
        4,
        model=tiny_model(type='TwoOptimizers', auxiliary_head=None),
        optim_wrapper=TWO,
        param_scheduler=None,
        quant=QUANT | dict(decay=decay),
    )
    rates = []
    step = OptimWrapper.step

    def watched(self, **options):
        rates.append(self.optimizer.param_groups[0]['lr'])
        step(self, **options)

    for name in ('body', 'head'):
        assert name in runner.cfg.optim_wrapper
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptimWrapper, 'step', watched)
        runner.train()
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * 2 + [7.5e-4] * 2)
    assert runner.message_hub.get_scalar('train/w_bits').data[0].tolist() == [4, 4, 2, 2]


def test_an_optimizer_built_outside_of_the_config_is_warned_of(make_runner):
    runner = make_runner(1, quant=QUANT)
    runner.optim_wrapper = OptimWrapper(SGD(runner.model.parameters(), 0.01, weight_decay=0.1))
    lines = []
    runner.logger.warning = lines.append
    runner.train()
    assert [line for line in lines if 'weight decay acts on' in line and 'learned steps' in line]


@pytest.mark.parametrize('how', ['merge', 'assign', 'item'])
def test_a_constructor_given_later_is_wrapped_too(tmp_path, how):
    config = Config(tiny_config(tmp_path, quant=QUANT))
    later = layer_decay()
    if how == 'merge':
        config.merge_from_dict({'optim_wrapper.constructor': later['constructor']})
    elif how == 'assign':
        config.optim_wrapper = later
    else:
        config['optim_wrapper'] = later
    assert config.optim_wrapper.constructor == 'QuantOptimWrapperConstructor'
    assert config.optim_wrapper.inner_constructor == later['constructor']
    again = Config(config.to_dict())
    assert again.optim_wrapper == config.optim_wrapper
    config.quant = None
    assert config.optim_wrapper.constructor == later['constructor']
    assert 'inner_constructor' not in config.optim_wrapper


def test_a_parameter_is_stepped_without_decay(make_runner):
    """AdamW with a gradient of zero leaves a step where it is, and shrinks a weight."""
    runner, made = built(make_runner, layer_decay(), beit())
    named = dict(runner.model.named_parameters())
    name = next(n for n in named if n.endswith('weight_quant.drift'))
    step, weight = named[name], named[name.replace('weight_quant.drift', 'weight')]
    with torch.no_grad():
        step.fill_(0.5)
    before = weight.detach().clone()
    for p in (step, weight):
        p.grad = torch.zeros_like(p)
    made.optimizer.step()
    assert torch.equal(step, torch.full_like(step, 0.5))
    assert (weight.abs() < before.abs()).any()
