"""The student learns from the teacher; nothing of the teacher stays behind."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny_config, tiny_model, write_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmseg.registry import MODELS

from bfcn_mm.convert.spec import Distill
from bfcn_mm.engine.distill_hook import Lesson

QUANT = dict(w=1, a=2, calibrate=1, decay=dict(start=3, rate=1, every=2))


@pytest.fixture
def teacher(trained, tmp_path):
    """The checkpoint of a float run of two iterations."""
    trained(2, work_dir=str(tmp_path / 'float'))
    return str(tmp_path / 'float/iter_2.pth')


def levels_model():
    head = tiny_model()['decode_head'] | dict(
        type='ResidualLaplacianHead',
        in_channels=[8, 16, 32, 64],
        in_index=[0, 1, 2, 3],
        channels=8,
        num_blocks=1,
        level_weights=[1.0, 0.5, 0.25, 2.0],
    )
    for key in ('num_convs', 'concat_input'):
        head.pop(key)
    return tiny_model(decode_head=head, auxiliary_head=None)


class Watch(Hook):
    """Keeps the losses of each iteration, and the teacher."""

    priority = 'LOWEST'

    def __init__(self):
        self.losses, self.teacher = [], None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.teacher = runner.model.lesson.teacher

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({k: float(v) for k, v in outputs.items()})


def watched(make_runner, *args, **changes):
    runner, watch = make_runner(*args, **changes), Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


def test_a_copy_in_training_is_the_network_alone(make_runner, teacher):
    class Copy(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.copies = copy.deepcopy(runner.model), pickle.loads(pickle.dumps(runner.model))

    runner, copier = (
        make_runner(1, quant=QUANT | dict(distill=dict(teacher=teacher), decay=None)),
        Copy(),
    )
    runner.register_hook(copier)
    runner.train()
    for copied in copier.copies:
        assert type(copied) is type(runner.model)
        assert type(copied.decode_head) is type(runner.model.decode_head)
        assert not hasattr(copied, 'lesson')
        assert not hasattr(copied.decode_head, 'lesson')
        assert copied.state_dict().keys() == runner.model.state_dict().keys()


@pytest.mark.parametrize('key', ['teacher', 'config'])
def test_a_missing_file_is_named_with_its_key(make_runner, teacher, key):
    distill = dict(teacher=teacher) | {key: 'nowhere'}
    with pytest.raises(FileNotFoundError, match=rf'nowhere: no such file \(quant.distill.{key}\)'):
        make_runner(quant=QUANT | dict(distill=distill)).train()


@pytest.mark.parametrize('features', [0.0, 0.5])
def test_a_plain_head_learns_its_scores(make_runner, teacher, features):
    quant = QUANT | dict(distill=dict(teacher=teacher, features=features))
    runner, watch = watched(make_runner, 6, quant=quant)
    names = {name for losses in watch.losses for name in losses if 'distill' in name}
    assert names == {'decode.loss_distill'} | ({'loss_distill_features'} if features else set())
    for losses in watch.losses:
        parts = sum(v for k, v in losses.items() if 'loss_' in k)
        assert losses['loss'] == pytest.approx(parts, rel=1e-5)
        assert losses['decode.loss_distill'] > 0
    assert not hasattr(runner.model, 'lesson')
    assert type(runner.model) is type(MODELS.build(runner.cfg.model))


def test_every_level_in_the_loss_learns_with_its_weight(make_runner, trained, tmp_path):
    model = levels_model()
    trained(2, model=copy.deepcopy(model), work_dir=str(tmp_path / 'float'))
    distill = dict(teacher=str(tmp_path / 'float/iter_2.pth'))
    quant = dict(w=1, a=2, calibrate=1, distill=distill)
    stages = [dict(type='StageLossHook', begins=(0, 1, 2, 3))]
    _, watch = watched(make_runner, 4, model=copy.deepcopy(model), quant=quant, custom_hooks=stages)
    seen = [[k for k in losses if 'loss_distill' in k] for losses in watch.losses]
    order = [f'decode.loss_distill_{level}' for level in ('32x', '16x', '8x', '4x')]
    assert seen == [order[: i + 1] for i in range(4)]


def test_the_divergence_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 3, 7, generator=generator) for _ in range(2))
    lesson = Lesson(None, Distill('x', weight=3.0, temperature=2.0))
    p, q = (F.softmax(x / 2, 1) for x in (teacher, student))
    expected = 3 * 4 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(lesson._divergence(student, teacher), expected)
    assert float(lesson._divergence(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    smaller = F.interpolate(teacher, scale_factor=0.5)
    assert lesson._divergence(student, smaller).shape == ()


def test_features_that_point_alike_cost_nothing():
    lesson = Lesson(None, Distill('x', features=2.0))
    lesson.features = [torch.rand(1, 4, 5, 5) + 0.1]
    assert float(lesson.feature_loss([3 * lesson.features[0]])) == pytest.approx(0, abs=1e-6)
    assert float(lesson.feature_loss([-lesson.features[0]])) == pytest.approx(4)
    with pytest.raises(ValueError, match=r'the features are \[\(2, 5, 5\)\].*set it to 0'):
        lesson.feature_loss([torch.rand(1, 2, 5, 5)])


def test_the_teacher_stays_as_it_was_and_out_of_the_checkpoint(make_runner, teacher, tmp_path):
    quant = QUANT | dict(distill=dict(teacher=teacher))
    runner, watch = watched(make_runner, 6, quant=quant)
    assert not watch.teacher.training
    given = torch.load(teacher, weights_only=False)['state_dict']
    for name, value in watch.teacher.state_dict().items():
        assert torch.equal(value, given[name]), name
    saved = torch.load(tmp_path / 'work/iter_6.pth', weights_only=False)['state_dict']
    assert saved.keys() == MODELS.build(runner.cfg.model).state_dict().keys()


def test_a_run_that_distils_resumes_exactly(trained, teacher, tmp_path, assert_same_state):
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    settings = dict(
        quant=QUANT | dict(distill=dict(teacher=teacher, features=1.0)),
        default_hooks=dict(checkpoint=checkpoint),
    )
    _, state = trained(6, **settings)
    _, alone = trained(6, quant=QUANT)
    assert not all(torch.equal(state[k], alone[k]) for k in state)
    for stop in (1, 2, 4):
        path = str(tmp_path / f'work/iter_{stop}.pth')
        assert_same_state(state, trained(6, load_from=path, resume=True, **settings)[1])


def test_what_tests_or_packs_needs_no_teacher(make_runner):
    config = make_runner(quant=QUANT | dict(distill=dict(teacher='gone.pth'))).cfg
    assert 'DistillHook' in [hook['type'] for hook in config.custom_hooks]
    MODELS.build(config.model)


def test_a_missing_teacher_is_told_before_the_first_iteration(make_runner):
    runner = make_runner(quant=QUANT | dict(distill=dict(teacher='gone.pth')))
    with pytest.raises(
        FileNotFoundError, match=r'gone\.pth: no such file .*train the float network'
    ):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(quant=dict(w=2, a=2)), r'is low-bit, the teacher must be float'),
        (dict(backbone=dict(base_channels=16)), r'does not hold the weights of the teacher'),
        (dict(data_preprocessor=dict(mean=[1.0] * 3)), r'data_preprocessor\.mean is \[1\.0'),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(make_runner, teacher, tmp_path, change, message):
    config = Config(tiny_config(tmp_path))
    config.merge_from_dict(change if 'quant' in change else dict(model=change))
    path = write_config(tmp_path / 'teacher.py', config.to_dict())
    quant = QUANT | dict(distill=dict(teacher=teacher, config=str(path)))
    with pytest.raises(ValueError, match=message):
        make_runner(quant=quant).train()


def test_the_hook_alone_says_what_is_missing(make_runner):
    runner = make_runner(quant=dict(w=1, a=2))
    runner._hooks.clear()
    from bfcn_mm.engine import DistillHook

    with pytest.raises(RuntimeError, match=r'no quant\.distill'):
        DistillHook().before_train(runner)
