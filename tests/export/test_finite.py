"""Nothing that is not finite is packed: each tensor that scores depend on is named."""

import math

import pytest
import torch
from helpers.segmentor import Body, Segmentor, conv
from mmseg.models import SegDataPreProcessor
from torch import nn

from bfcn_mm.export import ExportError, pack


def network(**quant):
    body = Body(lambda m, x: m.r(m.n(m.c(x))), c=conv(), n=nn.BatchNorm2d(8), r=nn.ReLU())
    return Segmentor(body, **quant)


def spoil(segmentor, name, value):
    tensors = dict(segmentor.named_parameters()) | dict(segmentor.named_buffers())
    with torch.no_grad():
        tensors[name].view(-1)[-1] = value


TENSORS = [
    'backbone.0.weight',
    'body.c.weight',
    'body.c.bias',
    'body.n.weight',
    'body.n.bias',
    'body.n.running_mean',
    'body.n.running_var',
    'body.c.weight_quant.placed',
    'body.c.weight_quant.drift',
    'body.r.quants.0.placed',
    'body.r.quants.0.drift',
    'decode_head.scores.bias',
]


@pytest.mark.parametrize('name', TENSORS)
def test_a_nan_is_named_before_it_becomes_a_code(name):
    segmentor = network()
    spoil(segmentor, name, math.nan)
    with pytest.raises(
        ExportError, match=f'{name} is nan in 1 of .* from before training diverged'
    ):
        pack(segmentor)


@pytest.mark.parametrize('value', [math.inf, -math.inf])
@pytest.mark.parametrize('quant', [dict(), dict(method='dorefa'), dict(w=8, a=8)])
def test_an_infinite_weight_is_named(quant, value):
    segmentor = network(**quant)
    spoil(segmentor, 'body.c.weight', value)
    with pytest.raises(ExportError, match=f'body.c.weight is {value} in 1 of 576 numbers'):
        pack(segmentor)


def test_a_step_that_overflows_is_named():
    segmentor = network()
    spoil(segmentor, 'body.r.quants.0.drift', 1e38)
    spoil(segmentor, 'body.r.quants.0.placed', 1e38)
    with pytest.raises(ExportError, match=r'body\.r\.quants\.0\.step is inf'):
        pack(segmentor)


def test_statistics_that_divide_by_zero_are_named():
    segmentor = network()
    segmentor.body.n.eps = 0.0
    spoil(segmentor, 'body.n.running_var', 0.0)
    with pytest.raises(ExportError, match=r"'body\.n': aten.batch_norm divides by 0: .* is 0"):
        pack(segmentor)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (dict(mean=[math.nan, 1, 1], std=[1, 1, 1]), 'data_preprocessor.mean is nan in 1 of 3'),
        (dict(mean=[1, 1, 1], std=[1, math.inf, 1]), 'data_preprocessor.std is inf in 1 of 3'),
        (dict(mean=[1, 1, 1], std=[1, 0, 1]), 'data_preprocessor.std must not be 0'),
    ],
)
def test_mean_and_std_are_numbers(values, message):
    segmentor = network()
    values = {name: [float(v) for v in given] for name, given in values.items()}
    segmentor.data_preprocessor = SegDataPreProcessor(**values)
    with pytest.raises(ExportError, match=message):
        pack(segmentor)


def test_what_scores_do_not_depend_on_may_be_anything():
    segmentor = network()
    segmentor.spare = nn.Conv2d(8, 8, 1)
    spoil(segmentor, 'spare.weight', math.nan)
    pack(segmentor)
