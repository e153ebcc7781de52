"""The first layers are those that no weights separate from the image; the summary names them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bfcn_mm import quantize_
from bfcn_mm.convert import Bits, summarize


class Net(nn.Module):
    def __init__(self, change, channels=3):
        super().__init__()
        self.change, self.stem = change, nn.Conv2d(channels, 8, 3, padding=1)
        self.relu, self.body, self.last = nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.relu(self.stem(self.change(x)))
        return self.last(self.relu(self.body(y)))


def focus(x):
    return torch.cat([x[..., i::2, j::2] for i in range(2) for j in range(2)], 1)


def with_coordinates(x):
    row = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[-2:])
    return torch.cat([x, row], 1)


def masked(x):
    return x.masked_fill(x.abs() > 3, 0)


CHANGES = {
    'nothing': (lambda x: x, 3),
    'resize': (lambda x: F.interpolate(x, scale_factor=0.5, mode='bilinear'), 3),
    'average pool': (lambda x: F.avg_pool2d(x, 2), 3),
    'normalization': (lambda x: (x / 255 - 0.5) / 0.2, 3),
    'batch norm': (nn.BatchNorm2d(3), 3),
    'instance norm': (nn.InstanceNorm2d(3, affine=True), 3),
    'batch norm and activation': (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 3),
    'standardization': (lambda x: (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True), 3),
    'pixel unshuffle': (lambda x: F.pixel_unshuffle(x, 2), 12),
    'slices': (focus, 12),
    'coordinates': (with_coordinates, 4),
    'reflection': (lambda x: F.pad(x, (1, 1, 1, 1), mode='reflect'), 3),
    'channels swapped': (lambda x: x[:, [2, 1, 0]], 3),
    'mask': (masked, 3),
    'written into a buffer': (lambda x: torch.zeros(x.shape).copy_(x), 3),
    'fixed filter': (lambda x: F.conv2d(x, torch.ones(3, 1, 3, 3) / 9, groups=3, padding=1), 3),
    'Laplacian': (lambda x: torch.cat([x, x - F.avg_pool2d(x, 3, 1, 1)], 1), 6),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_layer_that_reads_the_image_is_first_whatever_was_done_to_it(name):
    change, channels = CHANGES[name]
    model = quantize_(Net(change, channels), w=1, a=2, example=torch.randn(1, 3, 16, 16))
    bits = {layer: plan.bits for layer, plan in model.quant_plan.layers.items()}
    assert bits == dict(stem=Bits(8, 8), body=Bits(1, 2), last=Bits(1, 2))


@pytest.mark.parametrize(
    'change',
    [
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        lambda x: torch.cat([x, torch.tanh(F.conv2d(x, WEIGHT))], 1)[:, 1:4],
    ],
)
def test_a_layer_behind_weights_is_not_first(change):
    skip = ['change'] if isinstance(change, nn.Module) else []
    model = quantize_(Net(change), w=1, a=2, skip=skip)
    assert model.quant_plan.first == []
    assert model.quant_plan.layers['stem'].bits == Bits(1, 2)


WEIGHT = nn.Parameter(torch.randn(1, 3, 1, 1))


def test_features_that_pass_by_with_the_image_make_no_first_layer():
    class Injected(Net):
        def forward(self, x):
            y = torch.cat([self.relu(self.stem(x)), x], 1)
            return self.last(self.relu(self.body(y[:, :8] + y[:, 8:].mean(1, keepdim=True))))

    assert quantize_(Injected(lambda x: x), w=1, a=2).quant_plan.first == ['stem']


def test_the_summary_names_the_first_and_the_last_layers_with_their_bits():
    text = summarize(quantize_(Net(lambda x: x), w=1, a=2, last=dict(w=4, a=5)))
    assert 'first layers, which see the input: stem (w 8, a 8)' in text
    assert 'last layers, which make the output: last (w 4, a 5)' in text
    text = summarize(quantize_(Net(lambda x: x), w=1, a=2, first=None))
    assert 'first layers, which see the input: stem (w 1, a 2)' in text


def test_an_auxiliary_classifier_of_training_is_last_too():
    class Auxiliary(Net):
        def __init__(self):
            super().__init__(lambda x: x)
            self.aux = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = self.relu(self.stem(x))
            out = self.last(self.relu(self.body(y)))
            return (out, self.aux(y)) if self.training else out

    model = quantize_(Auxiliary(), w=1, a=2, last=dict(w=8, a=8))
    assert model.quant_plan.last == ['last', 'aux']
    assert model.quant_plan.layers['aux'].bits == Bits(8, 8)
    assert model.quant_plan.layers['aux'].macs == 0, 'evaluation does not run it'


def test_a_layer_before_a_classifier_that_stays_in_float_is_not_last():
    """A cosine classifier reads the weights of `last` without calling it."""

    class Cosine(Net):
        def forward(self, x):
            y = self.relu(self.body(self.relu(self.stem(x))))
            return F.conv2d(F.normalize(y), F.normalize(self.last.weight))

    model = quantize_(Cosine(lambda x: x), w=1, a=2, last=dict(w=8, a=8))
    assert model.quant_plan.last == []
    assert model.quant_plan.layers['body'].bits == Bits(1, 2)
    assert 'last layers' not in summarize(model)
