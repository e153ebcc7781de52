import pytest
import torch
from mmengine.hooks import Hook

NAME = 'backbone.layer2.0.relu'


class Break(Hook):
    """Does harm to the model before an iteration."""

    priority = 'VERY_LOW'

    def __init__(self, harm):
        self.harm = harm

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter >= 1:
            with torch.no_grad():
                self.harm(runner.model)


@pytest.fixture
def warnings_after(make_runner, monkeypatch):
    def run(harm, iters=3):
        guard = dict(type='CollapseGuardHook', interval=1)
        runner = make_runner(iters, quant=dict(w=1, a=2, calibrate=1), custom_hooks=[guard])
        runner.register_hook(Break(harm))
        said = []
        monkeypatch.setattr(runner.logger, 'warning', said.append)
        runner.train()
        return [s for s in said if 'Try a lower learning rate' in s]

    return run


def relu(model):
    return model.backbone.layer2[0].relu


def test_a_sound_run_is_not_warned_of(warnings_after):
    assert warnings_after(lambda model: None) == []


def test_codes_that_are_all_zero(warnings_after):
    said = warnings_after(lambda m: m.backbone.layer2[0].bn1.bias.fill_(-1e4))
    assert len(said) == 1, 'once a quantizer and bit-width'
    assert f'{NAME}.quants.0 (2 bits): all its codes are zero' in said[0]
    assert 'quant.overrides=' in said[0]


def test_codes_that_are_saturated(warnings_after):
    said = warnings_after(lambda m: m.backbone.layer2[0].bn1.bias.fill_(1e4))
    assert f'{NAME}.quants.0 (2 bits): 100.0% of its codes are saturated' in said[0]


def test_a_step_that_explodes(warnings_after):
    said = warnings_after(lambda m: relu(m).quants[0].drift.add_(1e4))
    assert [s for s in said if f'{NAME}.quants.0 (2 bits): its step grew' in s]


def test_a_step_that_vanishes(warnings_after):
    """At drift -17 a channel's step was exactly 0, and nobody said so."""
    said = warnings_after(
        lambda m: m.backbone.layer2[0].conv1.weight_quant.drift.view(-1)[0].fill_(-17.0)
    )
    assert [
        s for s in said if 'layer2.0.conv1.weight_quant' in s and 'shrank' in s and 'in 1 of' in s
    ]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_parameter_that_is_not_finite_stops_the_run_by_name(warnings_after, value):
    with pytest.raises(RuntimeError, match=r'\.weight is not finite.*lower learning rate'):
        warnings_after(lambda m: m.backbone.layer1[0].conv1.weight.view(-1)[0].fill_(value))


def test_interval_is_checked(make_runner):
    with pytest.raises(ValueError, match='interval must be at least 1, got 0'):
        make_runner(custom_hooks=[dict(type='CollapseGuardHook', interval=0)])
