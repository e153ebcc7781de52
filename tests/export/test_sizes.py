"""What a network computes from the size of its maps: packed as it is, or refused by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.segmentor import Body, Head, Segmentor, both_ways, conv
from torch import nn

from bfcn_kernels import ops
from bfcn_mm.export import ExportError, pack, verify
from bfcn_mm.export.capture import capture
from bfcn_mm.export.lower import lower

SIZES = (33, 45), (46, 62), (50, 67), (97, 71)  # none of them is captured


def rounded(**more):
    return nn.Sequential(conv(**more), nn.ReLU())


def joined(pool):
    """x beside pool(x), which a convolution reads and a resize brings back."""
    kernel = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

    def forward(m, x):
        y = F.interpolate(m.c(m.pool(x)), size=x.shape[2:], mode='bilinear')
        return m.e(torch.cat([x, y], 1))

    body = Body(forward, c=kernel, e=conv(16))
    body.pool = pool
    return Segmentor(body, w=2, a=3)


def pooled(pool):
    """Convolutions around pool(x)."""
    return Segmentor(Body(lambda m, x: m.d(pool(m.c(x))), c=rounded(), d=conv()))


class Image(nn.Module):
    """A stem whose map at a quarter of the image is resized to target(image, map)."""

    def __init__(self, target):
        super().__init__()
        self.target = target
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.quarter, self.last = rounded(stride=2), rounded()

    def forward(self, image):
        x = self.quarter(self.stem(image))
        return self.last(F.interpolate(x, size=self.target(image, x), mode='bilinear'))


def resized(target):
    return Segmentor(nn.Identity(), stem=Image(target))


class Branches(nn.Module):
    """Two maps at an eighth, floor((h + 1) / 8) and floor((h + 2) / 8) high; the
    other is resized to `target`."""

    def __init__(self, target, first):
        super().__init__()
        self.target, self.first = target, first
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.ones, self.twos = rounded(stride=2), rounded(stride=2)
        self.deep, self.last = rounded(stride=2), conv(24)

    def forward(self, image):
        x, maps = self.stem(image), {}
        for name in (self.first, *({'ones', 'twos'} - {self.first})):
            if name == 'ones':  # up, down, down
                maps[name] = F.max_pool2d(F.max_pool2d(self.ones(x), 2), 2)
            else:  # down, up, down
                maps[name] = F.max_pool2d(self.twos(F.max_pool2d(x, 2)), 2)
        deep, map_ = self.deep(maps['ones']), maps[self.target]
        other = maps[({'ones', 'twos'} - {self.target}).pop()]
        back, other = (
            F.interpolate(m, size=map_.shape[2:], mode='bilinear') for m in (deep, other)
        )
        return self.last(torch.cat([back, other, map_], 1))


class UNet(nn.Module):
    """Three levels that join maps of equal size: it takes multiples of 8."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([rounded() for _ in range(3)])
        self.up = nn.ModuleList([rounded(channels=16) for _ in range(3)])
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image):
        x, kept = self.stem(image), []
        for layer in self.down:
            kept.append(x)
            x = F.max_pool2d(layer(x), 2)
        for layer in self.up:
            x = F.interpolate(x, scale_factor=2, mode='bilinear')
            x = layer(torch.cat([x, kept.pop()], 1))
        return x


class TwoOutputs(Head):
    def forward(self, x):
        return self.scores(x), x


WHOLE = {
    'size()': lambda x: F.avg_pool2d(x, x.size()[2:]),
    'stride 1, ceil': lambda x: F.avg_pool2d(x, x.shape[2:], 1, 0, True, False),
    'stride': lambda x: F.avg_pool2d(x, x.shape[2:], x.shape[2:]),
}


@pytest.mark.parametrize('name', WHOLE)
def test_a_window_that_is_the_whole_map_packs_as_adaptive_pooling_does(name):
    segmentor = joined(WHOLE[name])
    both_ways(segmentor, *SIZES)
    ours = pack(segmentor).model.graph
    segmentor.body.pool = lambda x: F.adaptive_avg_pool2d(x, 1)
    theirs = pack(segmentor).model.graph
    assert verify.graphs_differ(ours, theirs) is None


def test_pooling_to_the_own_size_is_nothing():
    graph = both_ways(pooled(lambda x: F.adaptive_avg_pool2d(x, x.shape[2:])), *SIZES)
    assert not [op for op in graph.values() if isinstance(op, ops.AdaptiveAvgPool)]


@pytest.mark.parametrize('first', ['ones', 'twos'])
@pytest.mark.parametrize('target', ['ones', 'twos'])
def test_a_resize_goes_to_the_map_it_was_written_for(target, first):
    """46 is 6 modulo 8: floor(47 / 8) is 5, floor(48 / 8) is 6. At captured sizes both are equal."""
    segmentor = Segmentor(nn.Identity(), stem=Branches(target, first))
    both_ways(segmentor, *SIZES)
    captured = capture(segmentor)
    emitted = lower(captured, segmentor)
    assert len(captured.sizes) == 3  # two did not tell the maps apart
    map_ = {'ones': 'backbone.ones.0.pool.pool', 'twos': 'backbone.twos.0.pool'}[target]
    assert {op.like for op in emitted.ops if isinstance(op, ops.Resize)} == {map_}


def test_sizes_are_followed_up_and_down():
    both_ways(resized(lambda image, x: [-(-side // 4) for side in image.shape[2:]]), *SIZES)
    both_ways(resized(lambda image, x: image.shape[2:]), *SIZES)


def test_twice_the_size_is_a_factor():
    graph = both_ways(
        Segmentor(
            Body(
                lambda m, x: m.c(
                    F.interpolate(x, size=[3 * n for n in x.shape[2:]], mode='bilinear')
                ),
                c=conv(),
            )
        ),
        *SIZES,
    )
    assert [op.factor for op in graph.values() if isinstance(op, ops.Resize)] == [(3, 3)]


def test_a_network_that_takes_multiples_is_captured_at_multiples():
    segmentor = Segmentor(nn.Identity(), stem=UNet(), w=4, a=4)
    captured = capture(segmentor)
    assert captured.step == 8
    assert all(side % 16 == 8 for size in captured.sizes for side in size)
    pack(segmentor)


def test_buffers_that_no_checkpoint_holds_are_read():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.norm = conv(), nn.ReLU(), nn.BatchNorm2d(8, affine=False)
            self.register_buffer('gamma', torch.linspace(0.5, 3, 8), persistent=False)

        def forward(self, x):
            n = self.norm
            return self.relu(F.batch_norm(self.conv(x), n.running_mean, n.running_var, self.gamma))

    both_ways(Segmentor(Scaled()), *SIZES)


def refusal(segmentor):
    with pytest.raises(ExportError) as error:
        pack(segmentor)
    return str(error.value)


def halves(x):
    return [side // 2 for side in x.shape[2:]]


REFUSED = {
    'pyramid bins by kernel': (
        lambda: joined(lambda x: F.avg_pool2d(x, [side // 4 for side in x.shape[2:]])),
        [
            "layer 'body': aten.avg_pool2d has kernel_size=(56, 72) for an image of 447x577",
            'adaptive_avg_pool2d(x, 1)',
        ],
    ),
    'padded whole map': (
        lambda: joined(lambda x: F.avg_pool2d(x, x.shape[2:], 1, 1)),
        ['aten.avg_pool2d has kernel_size=(224, 289)'],
    ),
    'strip pooling': (
        lambda: joined(lambda x: F.avg_pool2d(x, (x.shape[2], 1))),
        ['aten.avg_pool2d has kernel_size=(224, 1)'],
    ),
    'strip pooling, largest': (
        lambda: joined(lambda x: F.max_pool2d(x, (1, x.shape[3]))),
        ['aten.max_pool2d has kernel_size=(1, 289)', 'fixed window'],
    ),
    'adaptive strips': (
        lambda: joined(lambda x: F.adaptive_avg_pool2d(x, (1, None))),
        ['aten.adaptive_avg_pool2d has output_size=(1, 289)'],
    ),
    'adaptive pooling to half': (
        lambda: pooled(lambda x: F.adaptive_avg_pool2d(x, halves(x))),
        [
            'aten.adaptive_avg_pool2d has output_size=(112, 144)',
            '(181, 251) for an image of 725x1003',
            'fixed size',
        ],
    ),
    'area': (
        lambda: pooled(lambda x: F.interpolate(x, size=halves(x), mode='area')),
        ['aten.adaptive_avg_pool2d has output_size=(112, 144)'],
    ),
    'window up to 40': (
        lambda: joined(lambda x: F.avg_pool2d(x, [min(side, 40) for side in x.shape[2:]])),
        ["layer 'body': aten.avg_pool2d has (11, 15) for an image of 22x30", '(40, 40)'],
    ),
    'whole map up to 700': (
        lambda: joined(lambda x: F.avg_pool2d(x, [min(side, 700) for side in x.shape[2:]])),
        ['aten.avg_pool2d has (700, 700) for an image of 2050x1537'],
    ),
    'dilation': (
        lambda: pooled(lambda x: F.max_pool2d(x, 3, 1, 1, max(1, x.shape[2] // 100))),
        ['aten.max_pool2d has dilation=(2, 2) for an image of 447x577 and (3, 3)'],
    ),
    'quarter of the image, down': (
        lambda: resized(lambda image, x: [side // 4 for side in image.shape[2:]]),
        ['resizes to 111x144 for an image of 447x577', 'size=feature.shape[2:]'],
    ),
    'image, multiples of 8': (
        lambda: resized(lambda image, x: [side // 8 * 8 for side in image.shape[2:]]),
        ['resizes to 440x576'],
    ),
    'height for width': (
        lambda: resized(lambda image, x: (x.shape[3], x.shape[2])),
        ['resizes to 145x112'],
    ),
    'twice less one': (
        lambda: resized(lambda image, x: [2 * side - 1 for side in x.shape[2:]]),
        ['resizes to 223x289'],
    ),
    'factor by division': (
        lambda: pooled(lambda x: F.interpolate(x, scale_factor=x.shape[2] // (x.shape[2] // 4))),
        ["layer 'body': aten.upsample_nearest2d", '22x30'],
    ),
    'coordinates by arange': (
        lambda: pooled(lambda x: x + torch.arange(x.shape[3]).float()),
        ['aten.arange'],
    ),
    'coordinates by numpy': (
        lambda: pooled(
            lambda x: x + torch.from_numpy(np.linspace(0, 1, x.shape[3], dtype=np.float32))
        ),
        ['constant', 'lifted_tensor_0', '(289,) and (502,) at 447x577 and 725x1003'],
    ),
    'a number of the size': (
        lambda: pooled(lambda x: x + torch.tensor([float(x.shape[2])])),
        ['constant', 'other values at 447x577 and 725x1003'],
    ),
    'crop': (lambda: pooled(lambda x: x[:, :, : x.shape[2] // 2]), ['aten.slice']),
    'another op on large images': (
        lambda: pooled(lambda x: F.max_pool2d(x, 3, 1, 1) if x.shape[2] > 300 else x),
        ['runs other ops on an image of 725x1003 than on one of 447x577'],
    ),
    'another op on small images': (
        lambda: pooled(lambda x: F.max_pool2d(x, 3, 1, 1) if x.shape[2] < 40 else x),
        ["on an image of 22x30 the model runs aten.max_pool2d_with_indices (layer 'body')"],
    ),
    'two outputs': (
        lambda: Segmentor(nn.Identity(), head=TwoOutputs(8)),
        ['decode_head.forward returns 2 tensors'],
    ),
    'other types': (
        lambda: pooled(lambda x: x.half().float()),
        ['turns torch.float32 into torch.float16'],
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_follows_the_size_and_is_not_packed_is_named(name):
    make, words = REFUSED[name]
    message = refusal(make())
    for word in words:
        assert word in message


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_parameters_than_float32_are_refused(dtype):
    segmentor = pooled(lambda x: x).to(dtype)
    assert f'backbone.0.weight is {dtype}' in refusal(segmentor)
    assert 'call model.float()' in refusal(segmentor)


def test_a_network_that_no_image_fits_says_why():
    class OneSize(nn.Module):
        def forward(self, x):
            if x.shape[2:] not in ((16, 16), (512, 512)):
                raise ValueError(f'I take 32x32, got {tuple(x.shape[2:])}')
            return x

    message = refusal(Segmentor(OneSize()))
    assert 'runs at none that was tried' in message
    assert 'ValueError: I take 32x32, got (192, 320)' in message


def test_a_resize_that_is_skipped_where_the_size_is_right_already_is_packed():
    def forward(m, x):
        y = m.c(F.max_pool2d(x, 2, ceil_mode=True))
        if y.shape != x.shape:
            y = F.interpolate(y, size=x.shape[2:], mode='bilinear')
        return m.e(torch.cat([x, y], 1))

    segmentor = Segmentor(Body(forward, c=rounded(), e=conv(16)))
    both_ways(segmentor, (33, 45), (2, 2), (1, 3))


def keeps_a_size(m, x):
    m.size = x.shape[2:]
    return m.c(x)


def keeps_a_map(m, x):
    m.map = x
    return m.c(x)


def fills_a_cache(m, x):
    size = tuple(x.shape[2:])
    if size not in m.cache:
        m.cache[size] = torch.ones(1, 1, *size)
    m.log.append(size)
    return m.c(x)


def counts(m, x):
    m.calls += 1
    m.count += 1
    m.running = m.running + x.mean()
    return m.c(x)


def registers_a_buffer(m, x):
    if 'ones' not in m._buffers:
        m.register_buffer('ones', torch.ones(1))
    return m.c(x)


def held(body):
    """Attributes, buffers, and the items of caches."""
    return {**vars(body), **body._buffers, **body.cache, 'log': list(body.log)}


@pytest.mark.parametrize('used', [False, True], ids=['new', 'used'])
@pytest.mark.parametrize(
    'forward', [keeps_a_size, keeps_a_map, fills_a_cache, counts, registers_a_buffer]
)
def test_what_a_forward_keeps_is_as_it_was_before(forward, used):
    """A cache that kept what runs without data left there would break the next image of that size."""
    body = Body(lambda m, x: m.c(x), c=rounded())
    body.cache, body.log, body.calls = {}, [], 0
    body.register_buffer('count', torch.zeros(1))
    body.register_buffer('running', torch.zeros(1))
    segmentor = Segmentor(body)
    segmentor.body.function = forward
    image = torch.rand(1, 3, 20, 24)
    scores = segmentor(image) if used else None
    before = held(body)
    pack(segmentor)
    after = held(body)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] or after[name] == before[name] for name in before)
    if used:
        assert torch.equal(segmentor(image), scores)
    segmentor(torch.rand(1, 3, 22, 30))  # a size that export has tried
    assert all(t.device.type == 'cpu' for t in held(body).values() if isinstance(t, torch.Tensor))
