import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import HOOKS
from torch import nn

from bfcn_mm.datasets.class_weights import ClassWeightHook, class_weights, weighted_cross_entropy

LABELS = [np.array([[0, 0, 0, 1]]), np.array([[2, 255, 0, 1]])]


def make_runner(dataset, loss=None, resume=False):
    head = nn.Module()
    head.loss_decode = nn.ModuleList([loss or CrossEntropyLoss(), CrossEntropyLoss()])
    model = nn.Module()
    model.decode_head = head
    model.auxiliary_head = nn.ModuleList([nn.Sequential(CrossEntropyLoss())])
    return SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset), model=model, _resume=resume
    )


def slow_weights(labels, num_classes, c):
    """Pixel by pixel."""
    count, total = [0] * num_classes, 0
    for value in np.concatenate([label.ravel() for label in labels]).tolist():
        if value != 255:
            count[value] += 1
            total += 1
    return [1 / math.log(c + n / total) for n in count]


@pytest.mark.parametrize('c', [1.02, 1.4])
def test_the_formula(c):
    assert class_weights([4, 2, 1], c) == slow_weights(LABELS, 3, c)


def test_the_bounds_of_the_paper():
    rare, common = class_weights([0, 5])
    assert rare == 1 / math.log(1.4) < 3
    assert common == 1 / math.log(2.4) > 1


@pytest.mark.parametrize(('pixels', 'c'), [([1, 2], 1.0), ([1, 2], 0), ([0, 0], 1.4)])
def test_what_has_no_weights_is_refused(pixels, c):
    with pytest.raises(ValueError, match=r'got (1\.0|0|none)'):
        class_weights(pixels, c)


def test_the_hook_weighs_the_decode_head(make_dataset):
    runner = make_runner(make_dataset(LABELS))
    HOOKS.build(dict(type='ClassWeightHook')).before_train(runner)
    for loss in runner.model.decode_head.loss_decode:
        assert loss.class_weight == slow_weights(LABELS, 3, 1.4)
    assert runner.model.auxiliary_head[0][0].class_weight is None


def test_auxiliary_heads_on_request(make_dataset):
    runner = make_runner(make_dataset(LABELS))
    ClassWeightHook(auxiliary=True, c=1.1).before_train(runner)
    assert runner.model.auxiliary_head[0][0].class_weight == slow_weights(LABELS, 3, 1.1)


@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_the_weighted_loss_is_torchs_weighted_mean(make_dataset, avg_non_ignore):
    """mmseg's own function raises IndexError here: an ignored label is no index of the weights."""
    loss = CrossEntropyLoss(avg_non_ignore=avg_non_ignore)
    runner = make_runner(make_dataset(LABELS), loss)
    ClassWeightHook().before_train(runner)
    torch.manual_seed(0)
    pred, label = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randint(0, 3, (2, 4, 5))
    label[:, 1] = 255
    ours = loss(pred, label, ignore_index=255)
    weight = torch.tensor(slow_weights(LABELS, 3, 1.4))
    torch.testing.assert_close(ours, F.cross_entropy(pred, label, weight, ignore_index=255))
    ours.backward()
    assert pred.grad[:, :, 1].abs().max() == 0 < pred.grad.abs().max()


def test_a_batch_of_ignored_pixels_costs_nothing():
    label = torch.full((1, 2, 2), 255)
    loss = weighted_cross_entropy(
        torch.zeros(1, 3, 2, 2), label, class_weight=torch.ones(3), ignore_index=255
    )
    assert loss == 0


def test_an_empty_class_is_an_error_unless_allowed(make_dataset):
    runner = make_runner(make_dataset([[[0, 2, 255]]]))
    with pytest.raises(ValueError, match=r"class 'b': no pixel .* allow_empty=True"):
        ClassWeightHook().before_train(runner)
    hook = ClassWeightHook(allow_empty=True)
    hook.before_train(runner)
    assert hook.weights[1] == 1 / math.log(1.4)


def test_a_resumed_run_keeps_its_weights(make_dataset):
    checkpoint = {}
    first = ClassWeightHook()
    first.before_train(make_runner(make_dataset(LABELS)))
    first.before_save_checkpoint(None, checkpoint)
    other = make_dataset([[[0, 1, 2]], [[0, 1, 2]]])
    resumed = ClassWeightHook()
    runner = make_runner(other, resume=True)
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train(runner)
    assert runner.model.decode_head.loss_decode[0].class_weight == first.weights
    fresh = ClassWeightHook()
    runner = make_runner(other, resume=False)
    fresh.after_load_checkpoint(runner, checkpoint)
    fresh.before_train(runner)
    assert fresh.weights != first.weights


@pytest.mark.parametrize(
    ('loss', 'message'),
    [
        (CrossEntropyLoss(class_weight=[1, 1, 1]), 'class_weight is set in the config'),
        (None, 'has no softmax CrossEntropyLoss'),
    ],
)
def test_losses_that_cannot_be_weighed(make_dataset, loss, message):
    runner = make_runner(make_dataset(LABELS), loss)
    if loss is None:
        runner.model.decode_head.loss_decode = CrossEntropyLoss(use_sigmoid=True)
    with pytest.raises(ValueError, match=message):
        ClassWeightHook().before_train(runner)


def test_c_out_of_range():
    with pytest.raises(ValueError, match=r'c must be greater than 1, got 1'):
        ClassWeightHook(c=1)
