"""A metric that falls where bits fall neither ends a run nor lowers its rate."""

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EarlyStoppingHook, Hook
from mmseg.registry import METRICS

ITERS = 12
QUANT = dict(w=1, a=2, calibrate=1, decay=dict(stages=[3, 2, 1], every=3))  # at 0, 3 and 6
CONSTANT = [50.0] * ITERS
FALLING = [70.0, 71.0, 72.0, 40.0, 41.0, 42.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0]


@METRICS.register_module(force=True)
class Scripted(BaseMetric):
    """mIoU by the iteration that the validated model has been trained to."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        from mmengine.logging import MessageHub

        return dict(mIoU=self.values[MessageHub.get_current_instance().get_info('iter')])


class Watch(Hook):
    """Keeps each iteration's rate."""

    priority = 'LOWEST'

    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])


def run(make_runner, values, quant=QUANT, **changes):
    """(runner, rates, warnings) of a run that validates after every iteration."""
    settings = dict(
        quant=quant,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=ITERS, val_interval=1),
        val_evaluator=dict(type='Scripted', values=values),
        param_scheduler=None,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
    )
    runner = make_runner(ITERS, **(settings | changes))
    watch, lines = Watch(), []
    runner.register_hook(watch)
    runner.logger.warning = lines.append
    runner.train()
    return runner, watch.rates, [line for line in lines if 'the run ended' in line]


def stopping(**options):
    hook = dict(type='EarlyStoppingHook', monitor='mIoU', rule='greater', min_delta=0.5, patience=2)
    return dict(custom_hooks=[hook | options])


def test_early_stopping_counts_in_the_final_stage_alone(make_runner):
    """Its first validation is at iteration 7; the second and third are no better."""
    runner, rates, warnings = run(make_runner, CONSTANT, **stopping())
    assert len(rates) == 9
    assert runner.iter == 9
    assert not warnings
    hook = next(h for h in runner.hooks if isinstance(h, EarlyStoppingHook))
    assert (hook.patience, hook.wait_count) == (2, 2)


def test_early_stopping_compares_the_final_stage_with_itself(make_runner):
    _, rates, _ = run(make_runner, FALLING, **stopping())
    assert len(rates) == ITERS


def test_a_stopping_threshold_is_for_the_final_bits(make_runner):
    _, rates, _ = run(make_runner, FALLING, **stopping(stopping_threshold=22.5))
    assert len(rates) == 10


@pytest.mark.parametrize('stop', [2, 3, 5, 6])
def test_early_stopping_after_a_resume(make_runner, tmp_path, stop):
    run(make_runner, CONSTANT)
    path = str(tmp_path / f'work/iter_{stop}.pth')
    _, rates, _ = run(make_runner, CONSTANT, load_from=path, resume=True, **stopping())
    assert len(rates) == 9 - stop


def test_a_metric_that_is_not_finite_ends_the_run_and_the_run_says_where(make_runner):
    values = [50.0] * 4 + [float('nan')] * 8
    _, rates, warnings = run(make_runner, values, **stopping())
    assert len(rates) == 5
    assert len(warnings) == 1
    assert 'ended in stage 2 of 3 of bit-width decay, at 2-bit weights' in warnings[0]


def test_a_plateau_is_one_of_a_stage(make_runner, tmp_path):
    """Validations after 2, 4, ... iterations: those after 6 and 10 are no better than their stage."""
    plateau = dict(type='ReduceOnPlateauLR', monitor='mIoU', rule='greater', patience=0, factor=0.5)
    settings = dict(
        param_scheduler=[plateau],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=ITERS, val_interval=2),
    )
    _, rates, _ = run(make_runner, FALLING, **settings)
    assert rates == [0.01] * ITERS
    flat = [70.0] * 6 + [20.0] * 6
    _, rates, _ = run(make_runner, flat, **settings)
    assert rates == pytest.approx([0.01] * 6 + [0.005] * 4 + [0.0025] * 2)
    for stop in (3, 5, 9):  # mmengine's checkpoint of an iteration is older than its validation
        path = str(tmp_path / f'work/iter_{stop}.pth')
        _, resumed, _ = run(make_runner, flat, load_from=path, resume=True, **settings)
        torch.testing.assert_close(torch.tensor(resumed), torch.tensor(rates[stop:]))


def test_without_decay_nothing_changes(make_runner):
    quant = dict(w=1, a=2, calibrate=1)
    _, rates, warnings = run(make_runner, CONSTANT, quant=quant, **stopping())
    assert len(rates) == 3
    assert not warnings
