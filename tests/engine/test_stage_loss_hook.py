import copy

import pytest
import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from bfcn_mm.engine import StageLossHook
from bfcn_mm.models import ResidualLaplacianHead


class Model(BaseModel):
    """A real head on features made from the batch; small enough to train in a test."""

    def __init__(self) -> None:
        super().__init__()
        init_default_scope('mmseg')
        self.decode_head = ResidualLaplacianHead(
            [3, 3, 3, 3], 2, num_classes=3, num_blocks=1, dropout_ratio=0
        )

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(inputs)
        features = [nn.functional.avg_pool2d(x, k) for k in (1, 2, 4, 8)]
        return dict(loss=self.decode_head(features).square().mean())


class Record(Hook):
    """Keeps active_levels as each iteration has seen them."""

    def __init__(self) -> None:
        self.seen = {}

    def after_train_iter(self, runner, *args, **kwargs):
        head = next(m for m in runner.model.modules() if isinstance(m, ResidualLaplacianHead))
        self.seen[runner.iter] = head.active_levels


def make_runner(folder, hook, batches=8, train_cfg=None, **options) -> tuple[Runner, Record]:
    """A run of 8 iterations: one epoch, as mmengine sleeps for seconds between two."""
    record = Record()
    torch.manual_seed(0)
    runner = Runner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            dataset=[dict(inputs=torch.randn(3, 16, 16)) for _ in range(2 * batches)],
        ),
        train_cfg=train_cfg or dict(by_epoch=False, max_iters=8),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5)),
        custom_hooks=[hook, record],
        experiment_name=f'{folder.name}_{id(record)}',
        **options,
    )
    return runner, record


def test_levels_join_at_their_iterations_and_are_logged(tmp_path):
    runner, record = make_runner(tmp_path, StageLossHook((0, 2, 3, 6)))
    runner.train()
    assert list(record.seen.values()) == [1, 1, 2, 3, 3, 3, 4, 4]
    assert runner.message_hub.get_scalar('train/active_levels').data[0].tolist() == [
        *record.seen.values()
    ]


def test_levels_join_at_their_epochs(tmp_path):
    hook = StageLossHook((0, 1, 1, 2), by_epoch=True)
    cfg = dict(by_epoch=True, max_epochs=3)
    runner, record = make_runner(tmp_path, hook, batches=2, train_cfg=cfg)
    runner.train()
    assert list(record.seen.values()) == [1, 1, 3, 3, 4, 4]


def test_resume_continues_the_schedule(tmp_path):
    begins = (0, 2, 4, 6)
    whole, record = make_runner(tmp_path / 'whole', StageLossHook(begins))
    whole.train()
    resumed, later = make_runner(
        tmp_path / 'resumed',
        StageLossHook(begins),
        resume=True,
        load_from=str(tmp_path / 'whole/iter_5.pth'),
    )
    resumed.train()
    assert later.seen == {i: n for i, n in record.seen.items() if i >= 5}
    saved = torch.load(tmp_path / 'whole/iter_5.pth', weights_only=False)['state_dict']
    assert int(saved['decode_head.num_active']) == record.seen[4]


def test_head_is_found_through_wrappers(tmp_path):
    runner, _ = make_runner(tmp_path, StageLossHook())
    hook = StageLossHook((0, 0, 5, 9))
    runner.model = nn.DataParallel(nn.Sequential(copy.deepcopy(runner.model)))
    hook.before_train_iter(runner, 0)
    assert runner.model.module[0].decode_head.active_levels == 2


@pytest.mark.parametrize(
    ('begins', 'message'),
    [
        ((), r'whole numbers, one for each level, got \(\)'),
        ((0, 1.5), r'whole numbers, one for each level, got \(0, 1.5\)'),
        ((1, 2, 3, 4), r'must start at 0, .* got \(1, 2, 3, 4\)'),
        ((0, 5, 3, 9), r'must not decrease: .* got \(0, 5, 3, 9\)'),
    ],
)
def test_bad_begins_are_named(begins, message):
    with pytest.raises(ValueError, match=message):
        StageLossHook(begins)


@pytest.mark.parametrize(
    ('begins', 'message'),
    [
        ((0, 1), r'each of the 4 levels of ResidualLaplacianHead .* got \(0, 1\)'),
        ((0, 1, 2, 8), r'inside the run: lower \(0, 1, 2, 8\) or raise max_iters=8'),
    ],
)
def test_schedule_that_does_not_fit_stops_the_run_before_training(tmp_path, begins, message):
    runner, record = make_runner(tmp_path, StageLossHook(begins))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert record.seen == {}


def test_model_without_head_is_named(tmp_path):
    runner, _ = make_runner(tmp_path, StageLossHook())
    runner.model = nn.Identity()
    with pytest.raises(ValueError, match='StageLossHook needs a head with active_levels'):
        StageLossHook().before_train(runner)


def test_import_registers_the_hook():
    assert HOOKS.get('StageLossHook') is StageLossHook
