"""One op at a time: what it becomes, and what is refused by which words."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bfcn_mm
from bfcn_kernels import ops
from bfcn_kernels.builder import random_image
from bfcn_mm.export import ExportError, TorchEngine, pack, verify


class Segmentor(nn.Module):
    """As much of mmseg's segmentor as export reads: `body` between a stem and a score layer."""

    def __init__(self, body, channels=8, **quant):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = body
        self.data_preprocessor = nn.Identity()
        self.decode_head = Head(channels)
        torch.manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, 0, 0.5)
        bfcn_mm.quantize_(self, **({'w': 1, 'a': 2} | quant))
        with torch.no_grad():
            for _ in range(2):
                self.train()(torch.rand(2, 3, 32, 32) * 255)
        self.eval()

    def extract_feat(self, x):
        return self.body(self.backbone(x))

    def forward(self, x):
        return self.decode_head.forward(self.extract_feat(x))


class Head(nn.Module):
    align_corners = False

    def __init__(self, channels, out_channels=4):
        super().__init__()
        self.out_channels = out_channels
        self.scores = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x):
        return self.scores(x)


class Body(nn.Module):
    """A body from a function (module, x) and child modules."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.function(self, x)


def both_ways(segmentor, size=(33, 45)):
    """The graph, after its scores have been held to the float model's."""
    graph = pack(segmentor).model.graph
    image = random_image(*size)
    engine = TorchEngine(graph)
    maps = verify.oracle(graph, image)
    assert verify.first_difference(graph, maps, engine.trace(image)) is None
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = segmentor(bgr)[0].permute(1, 2, 0).numpy()
    assert expected.std() > 1e-3
    close = np.isclose(engine.logits, expected, rtol=1e-4, atol=1e-3 * expected.std())
    assert close.mean() > 0.99  # a code at a rounding tie may fall to the other side
    return {op.name: op for op in graph.ops}


def conv(channels=8, out=8, **kwargs):
    return nn.Conv2d(channels, out, 3, padding=1, **kwargs)


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
