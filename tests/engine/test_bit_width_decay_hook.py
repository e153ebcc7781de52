import csv
import re

import pytest
import torch
from mmengine.hooks import Hook

from bfcn_mm.convert import QuantSpec, quantizers

LAYER = 'backbone.layer1.0.conv1.weight_quant'


class Watch(Hook):
    """Keeps, an iteration, what the hooks have made of bits and rates."""

    priority = 'LOWEST'

    def __init__(self):
        self.bits, self.rates = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.bits.append({name: q.bits for name, q in quantizers(runner.model)})
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])


def schedule(w=1, a=2, **decay):
    spec = QuantSpec.parse(dict(w=w, a=a, decay=decay))
    caps = spec.caps()
    return list(zip(caps, spec.decay.begins(len(caps)), strict=True))


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (dict(start=4, every=10), [(4, 0), (3, 10), (2, 20), (1, 30)]),
        (dict(start=8, rate=2, every=5), [(8, 0), (6, 5), (4, 10), (2, 15), (1, 20)]),
        (dict(start=8, rate=3, every=5), [(8, 0), (5, 5), (2, 10), (1, 15)]),
        (dict(start=1, every=5), [(1, 0)]),
        (dict(stages=[8, 4, 1], every=[7, 2]), [(8, 0), (4, 7), (1, 9)]),
        (dict(stages=[8, 2], every=[7, 2]), [(8, 0), (2, 7), (1, 9)]),
        (dict(w=32, start=4, every=3), [(4, 0), (3, 3), (2, 6)]),
        (dict(w=4, a=3, start=6, every=3), [(6, 0), (5, 3), (4, 6), (3, 9)]),
    ],
)
def test_schedules(given, expected):
    assert schedule(**given) == expected


def test_each_quantizer_stops_at_its_own_target(make_runner):
    quant = dict(
        w=1,
        a=2,
        calibrate=1,
        overrides={'backbone.layer4': dict(w=3, a=3)},
        decay=dict(start=4, rate=1, every=1),
    )
    runner = make_runner(5, quant=quant)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()

    def seen(name):
        return [bits[name] for bits in watch.bits]

    assert seen(LAYER) == [4, 3, 2, 1, 1]
    assert seen('backbone.layer1.0.relu.quants.0') == [4, 3, 2, 2, 2]
    assert seen('backbone.layer4.1.conv1.weight_quant') == [4, 3, 3, 3, 3]
    assert seen('backbone.stem.0.weight_quant') == [8] * 5
    assert all(q.initialized for _, q in quantizers(runner.model))
    scalars = runner.message_hub.get_scalar
    assert scalars('train/w_bits').data[0].tolist() == [4, 3, 2, 1, 1]
    assert scalars('train/a_bits').data[0].tolist() == [4, 3, 2, 2, 2]


def test_epochs(make_runner):
    quant = dict(w=2, a=2, calibrate=1, decay=dict(start=3, rate=1, every=1, by_epoch=True))
    train = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=9)
    loader = dict(sampler=dict(type='DefaultSampler', shuffle=True))
    config = make_runner().cfg.train_dataloader | loader
    runner = make_runner(quant=quant, train_cfg=train, train_dataloader=config)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    assert [bits[LAYER] for bits in watch.bits] == [3, 3, 3, 2, 2, 2]


def test_bits_are_in_the_log_line_and_in_tensorboard_scalars(make_runner, tmp_path):
    runner = make_runner(2, quant=dict(w=1, a=2, calibrate=1, decay=dict(start=2, every=1)))
    lines = []
    runner.logger.info = lines.append
    runner.train()
    assert [s for s in lines if 'Iter(train)' in s and 'w_bits: 2  a_bits: 2' in s]
    assert [s for s in lines if 'stage 2 of 2: now 1-bit weights and 2-bit activations' in s]
    scalars = next(tmp_path.glob('work/*/vis_data/scalars.json')).read_text()
    assert re.findall(r'"w_bits": (\d)', scalars) == ['2', '1']


def test_validations_are_kept_by_stage_and_only_the_last_counts_as_best(make_runner, tmp_path):
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU')
    settings = dict(
        quant=dict(w=1, a=2, calibrate=1, decay=dict(start=3, rate=1, every=2)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=2),
        default_hooks=dict(checkpoint=checkpoint),
    )
    make_runner(**settings).train()

    def stages():
        with (tmp_path / 'work/stages.csv').open() as file:
            return [(r['stage'], r['iter'], r['w_bits'], r['a_bits']) for r in csv.DictReader(file)]

    expected = [('1', '2', '3', '3'), ('2', '4', '2', '2'), ('3', '6', '1', '2')]
    assert stages() == expected
    assert [p.name for p in (tmp_path / 'work').glob('best*')] == ['best_mIoU_iter_6.pth']
    state = torch.load(tmp_path / 'work/iter_4.pth', weights_only=False)
    assert [row['stage'] for row in state['message_hub']['runtime_info']['stages']] == [1]
    (tmp_path / 'work/stages.csv').unlink()
    make_runner(**settings, load_from=str(tmp_path / 'work/iter_4.pth'), resume=True).train()
    assert stages() == [expected[0], expected[2]]  # a checkpoint is older than its validation


def test_rewarm_scales_what_the_scheduler_says_and_leaves_the_scheduler_alone(make_runner):
    rates = {}
    for rewarm in (None, dict(iters=2, factor=0.5)):
        quant = dict(w=1, a=2, calibrate=1, decay=dict(start=2, every=2, rewarm=rewarm))
        runner = make_runner(6, quant=quant)
        watch = Watch()
        runner.register_hook(watch)
        runner.train()
        rates[bool(rewarm)] = torch.tensor(watch.rates)
    factors = torch.tensor([1, 1, 0.5, 0.75, 1, 1])
    torch.testing.assert_close(rates[True], rates[False] * factors)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_rewarm_counts_iterations_by_epoch_too(make_runner, tmp_path, accumulate):
    """Three iterations an epoch; the second stage begins with the third epoch."""
    rewarm = dict(iters=4, factor=0.2)
    decay = dict(stages=[4, 2], every=2, by_epoch=True, rewarm=rewarm)
    loader = make_runner().cfg.train_dataloader | dict(
        sampler=dict(type='DefaultSampler', shuffle=True)
    )
    settings = dict(
        quant=dict(w=2, a=2, calibrate=1, decay=decay),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=9),
        train_dataloader=loader,
        param_scheduler=None,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01), accumulative_counts=accumulate),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    expected = torch.tensor([1] * 6 + [0.2, 0.4, 0.6, 0.8, 1, 1]) * 0.01
    for resumed in (None, 1, 2, 3):
        more = {}
        if resumed is not None:
            more = dict(load_from=str(tmp_path / f'work/epoch_{resumed}.pth'), resume=True)
        runner = make_runner(**settings, **more)
        watch = Watch()
        runner.register_hook(watch)
        runner.train()
        torch.testing.assert_close(torch.tensor(watch.rates), expected[3 * (resumed or 0) :])


def test_new_steps_have_no_momentum_of_the_old_grid(make_runner):
    """A run that drops a bit goes on like one whose optimizer state of the steps was emptied."""
    runner = make_runner(3, quant=dict(w=1, a=2, calibrate=1, decay=dict(start=2, every=2)))
    seen = []

    class States(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            layer = runner.model.backbone.layer1[0].conv1
            state = runner.optim_wrapper.optimizer.state
            seen.append((layer.weight in state, layer.weight_quant.drift in state))

    runner.register_hook(States())
    runner.train()
    assert seen == [(False, False), (True, True), (True, False)]


def test_a_schedule_longer_than_the_run_is_refused_before_the_first_iteration(make_runner):
    runner = make_runner(6, quant=dict(w=1, a=2, calibrate=1, decay=dict(start=4, every=2)))
    watch = Watch()
    runner.register_hook(watch)
    with pytest.raises(
        ValueError, match=r'last of 4 stages begins at 6 iterations, the run ends at 6'
    ):
        runner.train()
    assert not watch.bits


def test_a_hook_without_a_schedule_says_what_is_missing(make_runner):
    runner = make_runner(custom_hooks=[dict(type='BitWidthDecayHook')])
    with pytest.raises(RuntimeError, match=r'no quant.decay'):
        runner.train()
