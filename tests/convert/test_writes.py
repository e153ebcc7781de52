"""What is written in place, through views and by padding: readers get few levels and the right values."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bfcn_mm import calibrate, quantize_
from bfcn_mm.convert import quantizers
from bfcn_mm.layers import QuantizedLayer


def image(seed=1):
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


class Unit(nn.Module):
    """The input of the first activation is read again: by an in-place one it is rectified, too."""

    def __init__(self, act, rebind):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.act, self.rebind = act, rebind

    def forward(self, x):
        out = self.act(x)
        if self.rebind:  # what in-place activations mean
            x = out
        return self.conv2(self.act(self.conv1(out))) + x


def units(act, rebind):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)]
    body += [Unit(act(), rebind) for _ in range(2)]
    return nn.Sequential(*body, nn.Conv2d(8, 4, 1)).eval()


INPLACE = {
    'relu': lambda inplace: nn.ReLU(inplace),
    'leaky relu': lambda inplace: nn.LeakyReLU(0.1, inplace),
    'silu': lambda inplace: nn.SiLU(inplace),
}


def results(model, w, a):
    """(float scores, quantized scores, gradients) after calibration."""
    with torch.no_grad():
        scores = model(image())
    quantize_(model, w=w, a=a)
    calibrate(model, [image()])
    got = model(image())
    got.square().mean().backward()
    return scores, got.detach(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize('bits', [(2, 2), (8, 8)])
@pytest.mark.parametrize('kind', INPLACE)
def test_an_inplace_activation_is_like_one_whose_result_takes_the_inputs_name(kind, bits):
    plain, got, grads = results(units(lambda: INPLACE[kind](True), False), *bits)
    same, expected, expected_grads = results(units(lambda: INPLACE[kind](False), True), *bits)
    assert torch.equal(plain, same)
    assert torch.equal(got, expected)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], msg=name)
    if bits == (8, 8):
        assert correlation(got, plain) > 0.999


def test_only_an_activation_whose_input_is_read_again_writes_over_it():
    model = quantize_(units(lambda: nn.ReLU(True), False), w=2, a=2)
    assert model[2].act._overwrites == {0}
    model = quantize_(units(lambda: nn.ReLU(True), True), w=2, a=2)
    assert model[2].act._overwrites == frozenset()


def test_other_names_of_the_input_count_as_the_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.relu, self.last = nn.Conv2d(3, 8, 1), nn.ReLU(True), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.stem(x)
            flat = x.flatten(2)
            half = x[:, :4]
            self.relu(x)
            return self.last(flat.view(x.shape)) + half.mean()

    torch.manual_seed(0)
    model = Net().eval()
    expected = model(image()).detach()
    quantize_(model, w=8, a=8)
    assert model.relu._overwrites == {0}
    assert model.last.input_quant is None, 'it reads the codes of the ReLU'
    calibrate(model, [image()])
    assert correlation(model(image()).detach(), expected) > 0.999


def test_an_inplace_activation_of_a_slice_changes_no_other_slice():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.relu = nn.Conv2d(3, 8, 1), nn.ReLU(True)
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.stem(x)
            left, right = x[:, :4], x[:, 4:]
            return self.a(self.relu(left)) + self.b(right)

    model = quantize_(Net(), w=2, a=2)
    assert model.relu._overwrites == frozenset()
    assert model.a.input_quant is None
    assert model.b.input_quant.signed


class Net(nn.Module):
    """Two quantized maps go through `write`, whose result a convolution reads."""

    def __init__(self, write):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.relu, self.other = nn.ReLU(), nn.ReLU()
        self.write, self.last = write, nn.Conv2d(8, 4, 1)

    def forward(self, x):
        left, right = self.relu(self.left(x)), self.other(self.right(x))
        raw = self.right(x)  # no codes, of both signs
        return self.last(self.write(left, right, raw))


def set_item(left, right, raw):
    left = left.clone()
    left[:, ::2] = raw[:, ::2]
    return left


def through_a_view(left, right, raw):
    left = left.clone()
    left[:, 3:5].copy_(raw[:, 3:5])
    return left


def through_a_chunk(left, right, raw):
    left = left.clone()
    left.chunk(2, 1)[1].mul_(-0.3)
    return left


def before_the_write(left, right, raw):
    left = left.clone()
    view = left.view(-1)
    left.add_(raw)
    return view.view_as(left)


def masked(left, right, raw):
    return left.masked_fill_(raw > 0, -0.37)


def by_index(left, right, raw):
    left.index_put_((torch.tensor([0]), torch.tensor([1])), raw[0, 1])
    return left


def by_out(left, right, raw):
    torch.add(right, raw, out=left)
    return left


def by_data(left, right, raw):
    left.data.copy_(raw)
    return left


def whole_numbers(left, right, raw):
    return (left * 3).to(torch.int64).to(torch.float32)


def a_numpy_array(left, right, raw):
    if not torch.is_grad_enabled():
        left.numpy()[:, 0] = raw.numpy()[:, 0]
    return left


OFF_GRID = {
    'set item': (set_item, True),
    'through a view': (through_a_view, True),
    'through a chunk': (through_a_chunk, True),
    'a view made before the write': (before_the_write, True),
    'masked_fill_ by a negative number': (masked, True),
    'index_put_': (by_index, True),
    'out=': (by_out, True),
    'through .data': (by_data, True),
    'through numpy': (a_numpy_array, True),
    'fill_': (lambda left, right, _: left.fill_(0.7) * right, False),
    'pad by a number': (lambda left, right, _: F.pad(left, (1, 1), value=0.3), False),
    'pad by a negative number': (lambda left, right, _: F.pad(left, (1, 1), value=-0.3), True),
    'clamp_': (lambda left, right, _: left.clamp_(0.1, 0.2), True),
    'bicubic resize': (
        lambda left, right, _: F.interpolate(
            left, scale_factor=2, mode='bicubic', align_corners=False
        ),
        True,
    ),
    'bilinear resize by position': (
        lambda left, right, _: F.interpolate(left, None, 2, 'bilinear'),
        False,
    ),
    'cast to whole numbers': (whole_numbers, None),
    'half': (lambda left, right, _: left.to(torch.bfloat16).float(), None),
}


def converted(write, bits):
    torch.manual_seed(0)
    model = Net(write)
    plain = copy.deepcopy(model)
    quantize_(model, w=bits, a=bits)
    with torch.no_grad():
        calibrate(model.train(), [image()])
    return model.eval(), plain.eval()


def levels(model):
    """What the kernel of the last convolution reads."""
    seen = []
    read = model.last.quantized_input
    model.last.quantized_input = lambda x: seen.append(read(x)) or seen[-1]
    with torch.no_grad():
        model(image())
    del model.last.quantized_input
    return seen[0].unique().numel()


@pytest.mark.parametrize('name', OFF_GRID)
def test_a_layer_that_reads_other_values_rounds_them_itself(name):
    write, signed = OFF_GRID[name]
    model, _ = converted(write, 2)
    assert model.last.input_quant is not None
    if signed is not None:
        assert model.last.input_quant.signed == signed
    assert levels(model) <= 4
    model, plain = converted(write, 8)
    with torch.no_grad():
        assert correlation(model(image()), plain(image())) > 0.99


def joined(left, right, raw):
    buffer = torch.empty(len(left), 8, *left.shape[2:])
    buffer[:, :4] = left[:, :4]
    buffer[:, 4:] = right[:, 4:]
    return buffer


def replaced(left, right, raw):
    raw.copy_(left)
    return raw


ON_GRID = {
    'pad by 0': lambda left, right, _: F.pad(left, (1, 1)),
    'pad by reflection': lambda left, right, _: F.pad(left, (1, 1, 1, 1), mode='reflect'),
    'pad by copies': lambda left, right, _: F.pad(left, (1, 1, 1, 1), 'replicate'),
    'masked_fill by 0': lambda left, right, raw: left.masked_fill(raw > 0, 0),
    'copy_': replaced,
    'nearest resize by position': lambda left, right, _: F.interpolate(left, None, 2, 'nearest'),
}


@pytest.mark.parametrize('name', ON_GRID)
def test_a_layer_that_reads_moved_codes_rounds_nothing(name):
    model, _ = converted(ON_GRID[name], 2)
    assert model.last.input_quant is None
    assert levels(model) <= 4
    model, plain = converted(ON_GRID[name], 8)
    with torch.no_grad():
        assert correlation(model(image()), plain(image())) > 0.99


def test_a_buffer_of_pieces_of_several_maps_has_few_levels():
    model, _ = converted(joined, 2)
    assert levels(model) <= 4


@pytest.mark.parametrize('mode', ['reflect', 'replicate', 'circular'])
def test_convolutions_with_any_padding_are_quantized(mode):
    def make():
        torch.manual_seed(0)
        conv = nn.Conv2d(8, 8, 3, padding=(1, 2), padding_mode=mode)
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(8, 4, 1))

    model = quantize_(make(), w=1, a=2)
    assert model.quant_plan.kept == {}
    assert isinstance(model[2], QuantizedLayer)
    assert model[2].input_quant is None
    model = quantize_(make(), w=8, a=8)
    calibrate(model, [image()])
    with torch.no_grad():
        assert correlation(model.eval()(image()), make().eval()(image())) > 0.999


def test_what_training_does_to_a_map_counts_but_dropping_values_does_not():
    class Drop(nn.Module):
        def forward(self, x):
            if not self.training:
                return x
            keep = torch.rand(len(x), 1, 1, 1) < 0.5
            return x / 0.5 * keep

    class Noise(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.randn_like(x) if self.training else x

    for between, own in ((Drop(), False), (nn.Dropout2d(), False), (Noise(), True)):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), between, nn.Conv2d(8, 4, 1))
        quantize_(model, w=2, a=2)
        assert (model[3].input_quant is not None) == own, type(between).__name__
    assert model[3].input_quant.signed
    assert all(q.bits in (2, 8) for _, q in quantizers(model))
