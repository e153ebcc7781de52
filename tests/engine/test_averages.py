"""mmengine's own EMAHook on a network whose bits fall."""

import copy

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from bfcn_mm.convert import quantizers

ITERS = 6
QUANT = dict(w=1, a=2, calibrate=1, decay=dict(stages=[8, 1], every=3))
LAYER = 'backbone.layer1.0.conv1.'


def settings(hook='EMAHook', **options):
    return dict(
        quant=QUANT,
        custom_hooks=[dict(type=hook, momentum=0.1, **options)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
    )


@HOOKS.register_module(force=True)
class OwnEMAHook(EMAHook):
    """A subclass that runs before all our hooks."""

    priority = 'HIGHEST'


def saved(folder, stop):
    """(state dict of the average, of the training weights) after so many iterations."""
    checkpoint = torch.load(folder / f'work/iter_{stop}.pth', weights_only=False)
    training = {k[7:]: v for k, v in checkpoint['ema_state_dict'].items() if k != 'steps'}
    return checkpoint['state_dict'], training


@pytest.mark.parametrize('hook', ['EMAHook', 'OwnEMAHook'])
@pytest.mark.parametrize('options', [{}, dict(begin_iter=2), dict(interval=2)])
def test_steps_that_are_placed_again_are_not_averaged_with_the_old_ones(
    trained, tmp_path, hook, options
):
    trained(ITERS, **settings(hook, **options))
    average, training = saved(tmp_path, 4)  # the first iteration at fewer bits
    fell = [n for n in training if n.endswith('drift') and 'stem.0.' not in n]
    assert len(fell) > 20
    for name in fell:
        assert torch.equal(average[name], training[name]), name
    weight = LAYER + 'weight'
    assert not torch.equal(average[weight], training[weight])
    if 'interval' not in options:
        average, training = saved(tmp_path, 5)
        assert not all(torch.equal(average[n], training[n]) for n in fell)  # averaged again


def test_a_grid_that_is_placed_later_is_followed_when_it_is(make_runner):
    """A branch without a value in the iteration of the fall places its grid in a later one."""

    class Unplace(Hook):
        priority = 'LOWEST'
        seen = ()

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.quantizer = dict(quantizers(runner.model))[LAYER + 'weight_quant']
            ema = next(h for h in runner.hooks if isinstance(h, EMAHook))
            self.average = dict(quantizers(ema.ema_model.module))[LAYER + 'weight_quant']
            if runner.iter == 2:
                self.quantizer.give_up('the test wants it')
                with torch.no_grad():
                    self.average.drift.fill_(0.5)

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                self.seen = self.average.drift.clone(), self.quantizer.drift.detach().clone()

    runner = make_runner(
        4, quant=dict(w=2, a=2, calibrate=1), custom_hooks=settings()['custom_hooks']
    )
    watch = Unplace()
    runner.register_hook(watch)
    runner.train()
    assert torch.equal(*watch.seen)
    assert watch.seen[0].mean() < 0.4


def test_every_iteration_is_a_place_to_resume(trained, tmp_path, assert_same_state):
    runner, state = trained(ITERS, **settings())
    averages = copy.deepcopy(ema_state(runner))
    for stop in range(1, ITERS):
        path = str(tmp_path / f'work/iter_{stop}.pth')
        again, resumed = trained(ITERS, load_from=path, resume=True, **settings())
        assert_same_state(state, resumed)
        assert_same_state(averages, ema_state(again))


def ema_state(runner):
    return next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model.state_dict()


@pytest.mark.parametrize('hook', ['EMAHook', 'OwnEMAHook'])
def test_averages_of_buffers_are_refused(make_runner, hook):
    runner = make_runner(**settings(hook, update_buffers=True))
    with pytest.raises(ValueError, match=rf'{hook}: update_buffers must be False with quant'):
        runner.train()
