"""One op at a time: what it becomes, and what is refused by which words."""

import pytest
import torch
import torch.nn.functional as F
from helpers.segmentor import Body, Segmentor, both_ways, conv
from torch import nn

from bfcn_kernels import ops
from bfcn_mm.export import ExportError, pack


def preact(m, x):
    """As preactivated residual units: x is added after the activation that rectifies it in place."""
    return m.d(m.r(x)) + x


BODIES = {
    'average pooling': (Body(lambda m, x: m.c(F.avg_pool2d(x, 3, 2, 1)), c=conv()), ops.AvgPool),
    'average pooling, ceil': (
        Body(lambda m, x: m.c(F.avg_pool2d(x, 2, 2, 0, True, False)), c=conv()),
        ops.AvgPool,
    ),
    'adaptive pooling': (
        Body(lambda m, x: m.c(F.adaptive_avg_pool2d(x, (3, 2))), c=conv()),
        ops.AdaptiveAvgPool,
    ),
    'max pooling': (Body(lambda m, x: m.c(F.max_pool2d(x, 3, 2, 1)), c=conv()), ops.MaxPool),
    'resize by a factor': (
        Body(lambda m, x: m.c(F.interpolate(x, scale_factor=2, mode='bilinear')), c=conv()),
        ops.Resize,
    ),
    'resize to a size': (
        Body(
            lambda m, x: m.c(F.interpolate(x, (7, 9), mode='bilinear', align_corners=True)),
            c=conv(),
        ),
        ops.Resize,
    ),
    'nearest': (Body(lambda m, x: m.c(F.interpolate(x, (20, 21))), c=conv()), ops.Resize),
    'sum of two maps': (
        Body(lambda m, x: m.d(m.r(m.c(x)) + x), c=conv(), r=nn.ReLU(), d=conv()),
        None,
    ),
    'batch norm over a sum': (
        Body(lambda m, x: m.r(m.n(m.c(x) + x)), c=conv(), n=nn.BatchNorm2d(8), r=nn.ReLU()),
        None,
    ),
    'an input that an in-place activation has changed': (
        Body(lambda m, x: m.s(preact(m, m.c(x))), c=conv(), r=nn.ReLU(True), d=conv(), s=nn.ReLU()),
        None,
    ),
    'group convolution': (Body(lambda m, x: m.r(m.c(x)), c=conv(groups=4), r=nn.ReLU()), None),
    'groups over a concat': (
        Body(
            lambda m, x: m.r(m.d(torch.cat([x, F.relu(m.c(x))], 1))),
            c=conv(),
            d=conv(16, 8, groups=4),
            r=nn.ReLU(),
        ),
        None,
    ),
}


@pytest.mark.parametrize('name', BODIES)
def test_op_computes_what_the_model_does(name):
    body, kind = BODIES[name]
    graph = both_ways(Segmentor(body))
    if kind is not None:
        assert [type(op) for op in graph.values()].count(kind) == 1


def test_a_sum_without_activation_is_rounded_with_a_zero_point():
    graph = both_ways(Segmentor(Body(lambda m, x: m.d(m.c(x)), c=conv(), d=conv())))
    assert graph['body.c'].zero_point > 0


def refusal(body, **quant):
    with pytest.raises(ExportError) as error:
        pack(Segmentor(body, **quant))
    return str(error.value)


@pytest.mark.parametrize(
    ('body', 'quant', 'words'),
    [
        (Body(lambda m, x: m.c(x), c=conv()), dict(skip=['body.c']), ['body.c', 'float weights']),
        (
            Body(lambda m, x: m.r(m.n(m.c(x))), c=conv(), n=nn.GroupNorm(2, 8), r=nn.ReLU()),
            {},
            ['body.n', 'group_norm', "type='BN'"],
        ),
        (Body(lambda m, x: m.a(m.c(x)), c=conv(), a=nn.Hardswish()), {}, ['hardswish', 'ReLU']),
        (
            Body(lambda m, x: m.l(x.mean((2, 3)))[:, :, None, None] + x, l=nn.Linear(8, 8)),
            {},
            ['body.l', 'linear', 'use a CNN'],
        ),
        (
            Body(lambda m, x: m.c(x), c=nn.ConvTranspose2d(8, 8, 2, 2)),
            {},
            ['body.c', 'conv_transpose2d', 'InterpConv'],
        ),
        (Body(lambda m, x: m.c(x) * 2, c=conv()), {}, ['mul', 'use convolutions']),
    ],
    ids=['float layer', 'group norm', 'hardswish', 'linear', 'transposed', 'product'],
)
def test_what_cannot_be_packed_is_named_with_a_way_out(body, quant, words):
    message = refusal(body, **quant)
    for word in words:
        assert word in message


def test_a_model_that_is_not_ready_is_refused():
    segmentor = Segmentor(Body(lambda m, x: x))
    with pytest.raises(ExportError, match='training mode'):
        pack(segmentor.train())
    segmentor.eval().backbone[2].quants[0]._set(2, False)
    with pytest.raises(ExportError, match=r'backbone\.2\.quants\.0 has no grid'):
        pack(segmentor)


def test_capture_leaves_the_model_as_it_was():
    segmentor = Segmentor(Body(lambda m, x: x))
    x = torch.rand(1, 3, 16, 16) * 255
    before = segmentor(x)
    pack(segmentor)
    assert torch.equal(segmentor(x), before)
