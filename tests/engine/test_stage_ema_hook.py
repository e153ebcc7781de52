"""Averages that start anew where bits fall, and resume exactly."""

import copy

import pytest
import torch
from helpers import tiny_config
from mmengine.runner import Runner

ITERS = 6
QUANT = dict(w=1, a=2, calibrate=1, decay=dict(start=3, rate=1, every=2))  # w: 3 3 2 2 1 1
SETTINGS = dict(
    quant=QUANT,
    custom_hooks=[dict(type='StageEMAHook', momentum=0.1, gamma=1)],
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
)
LAYER = 'backbone.layer1.0.conv1.'


def saved(folder, stop):
    """(state dict of the average, of the training weights) after so many iterations."""
    checkpoint = torch.load(folder / f'work/iter_{stop}.pth', weights_only=False)
    training = {k[7:]: v for k, v in checkpoint['ema_state_dict'].items() if k != 'steps'}
    return checkpoint['state_dict'], training


def test_the_average_starts_anew_where_bits_fall(trained, tmp_path):
    trained(ITERS, **SETTINGS)
    bits = {1: 3, 2: 3, 3: 2, 4: 2, 5: 1}
    for stop in range(1, ITERS):  # the rate of the last iteration is 0
        average, training = saved(tmp_path, stop)
        assert int(average[LAYER + 'weight_quant._bits']) == bits[stop]
        assert bool(average[LAYER + 'weight_quant._initialized'])
        same = torch.equal(average[LAYER + 'weight'], training[LAYER + 'weight'])
        assert same == (stop in (1, 3, 5)), stop
        if same:
            step = LAYER + 'weight_quant.drift'
            assert torch.equal(average[step], training[step])


def test_the_average_is_what_it_says(trained, tmp_path):
    """Two iterations of a stage: the first is copied, the second joins by gamma / (gamma + 1)."""
    trained(ITERS, **SETTINGS)
    (first, _), (average, second) = saved(tmp_path, 3), saved(tmp_path, 4)
    key = LAYER + 'weight'
    torch.testing.assert_close(average[key], first[key].lerp(second[key], 0.5))
    statistics = 'backbone.layer1.0.bn1.running_mean'
    assert torch.equal(average[statistics], second[statistics])


def test_every_iteration_is_a_place_to_resume(trained, tmp_path, assert_same_state):
    runner, state = trained(ITERS, **SETTINGS)
    averages = copy.deepcopy(runner_ema(runner))
    for stop in range(1, ITERS):
        path = str(tmp_path / f'work/iter_{stop}.pth')
        again, resumed = trained(ITERS, load_from=path, resume=True, **SETTINGS)
        assert_same_state(state, resumed)
        assert_same_state(averages, runner_ema(again))


def runner_ema(runner):
    hook = next(h for h in runner.hooks if type(h).__name__ == 'StageEMAHook')
    return hook.ema_model.state_dict()


def test_ctrl_c_in_a_validation_keeps_training_weights_and_average_apart(
    make_runner, trained, tmp_path, streets, assert_same_state
):
    train = dict(type='IterBasedTrainLoop', max_iters=ITERS, val_interval=4)
    settings = SETTINGS | dict(train_cfg=train)
    loader = copy.deepcopy(tiny_config(streets)['val_dataloader'])
    loader['dataset']['pipeline'].insert(0, dict(type='InterruptAt', count=2))
    runner = make_runner(ITERS, val_dataloader=loader, **settings)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    path = str(tmp_path / 'work/iter_4.pth')
    _, resumed = trained(ITERS, load_from=path, resume=True, **settings)
    assert_same_state(trained(ITERS, **settings)[1], resumed)


def test_a_checkpoint_is_tested_by_its_average(trained, make_runner, tmp_path):
    trained(ITERS, **SETTINGS)
    average, _ = saved(tmp_path, ITERS)
    runner: Runner = make_runner(
        quant=QUANT,
        custom_hooks=SETTINGS['custom_hooks'],
        load_from=str(tmp_path / 'work/iter_6.pth'),
    )
    runner.test()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, average[name]), name


def test_averages_of_bits_are_refused(make_runner):
    with pytest.raises(ValueError, match=r'update_buffers must be False: bits are buffers'):
        make_runner(custom_hooks=[dict(type='StageEMAHook', update_buffers=True)])
