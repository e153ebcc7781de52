"""Activations against an oracle that takes one number at a time."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from bfcn_mm.quantizers import ActivationQuantizer, Calibration

F32 = np.float32


def oracle(x, step, zero_point, bits, grad_scale):
    """(code, value, dy/dx, dy/dstep) of a single number, by the formulas of LSQ, in float32."""
    top = 2**bits - 1
    u = F32(F32(x) / F32(step)) + F32(zero_point)
    code = min(max(math.floor(F32(u + F32(0.5))), 0), top)
    value = F32(F32(code - zero_point) * F32(step))
    inside = 0 <= u <= top
    slope = float(code) - float(u) if inside else code - zero_point
    return code, value, float(inside), slope * grad_scale


def make(bits, signed, method='lsq', step=0.25, zero_point=0):
    """A quantizer whose grid is placed by hand."""
    quantizer = ActivationQuantizer(bits, signed, method)
    with torch.no_grad():
        quantizer.placed.fill_(step)
        quantizer._zero_point.fill_(zero_point)
    quantizer._set(bits, True)
    return quantizer


def hard_values(bits, step, zero_point):
    """Exact ties, both ends of the range and beyond, zeros of both signs, noise."""
    top = 2**bits - 1
    ties = (torch.arange(-2, top + 3) + 0.5 - zero_point) * step
    ends = torch.tensor([0, top, -1, top + 1, -100, 1000]).sub(zero_point) * step
    noise = torch.randn(64, generator=torch.Generator().manual_seed(bits)) * step * top / 2
    return torch.cat([ties, ends, torch.tensor([0.0, -0.0]), noise])


@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits', range(1, 9))
def test_forward_and_gradients_of_each_element(bits, signed, method):
    zero_point = 2 ** (bits - 1) - 1 if signed else 0
    quantizer = make(bits, signed, method, zero_point=zero_point)
    step = quantizer.step.item()
    one = hard_values(bits, step, zero_point)
    x = torch.stack([one, -one, one + 1]).requires_grad_()  # a batch of three
    y = quantizer(x)
    weights = torch.linspace(-1, 2, x.numel()).view_as(x)
    (y * weights).sum().backward()
    scale = 1 / math.sqrt(one.numel() * (2**bits - 1))
    rows = [oracle(v, step, zero_point, bits, scale) for v in x.flatten().tolist()]
    codes, values, dx, dstep = (np.array(c).reshape(x.shape) for c in zip(*rows, strict=True))
    np.testing.assert_array_equal(quantizer.codes(x).numpy(), codes)
    np.testing.assert_array_equal(y.detach().numpy(), values)
    np.testing.assert_array_equal(x.grad.numpy(), (weights.numpy() * dx).astype(F32))
    if method == 'lsq':
        limit = np.sqrt(np.square(weights.double().numpy()).sum())
        expected = np.clip((weights.double().numpy() * dstep).sum() / step, -limit, limit)
        np.testing.assert_allclose(quantizer.drift.grad.item(), expected, rtol=1e-5, atol=1e-6)
    else:
        assert not list(quantizer.parameters())


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_without_gradients_the_values_are_the_same(bits):
    quantizer = make(bits, True, zero_point=1)
    x = hard_values(bits, 0.25, 1)
    with torch.no_grad():
        assert torch.equal(quantizer(x), quantizer(x.clone().requires_grad_()))
    assert torch.equal(x, hard_values(bits, 0.25, 1)), 'the input was changed'
    codes = quantizer.codes(x)
    assert codes.dtype == torch.uint8
    assert torch.equal(quantizer(x).detach(), (codes.float() - 1) * quantizer.step.detach())


@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
def test_a_relu_before_changes_nothing(method):
    """Converted ReLUs leave the clipping at 0 to the quantizer."""
    results = []
    for relu in (nn.ReLU(), nn.Identity()):
        quantizer = make(2, False, method)
        x = hard_values(2, 0.25, 0).requires_grad_()
        y = quantizer(relu(x))
        (y * torch.arange(x.numel())).sum().backward()
        nonzero = x.detach() != 0  # at 0 itself a ReLU has gradient 0, the quantizer 1
        results.append([y.detach(), x.grad[nonzero], *[p.grad for p in quantizer.parameters()]])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_out_and_float32_lies_between(dtype):
    quantizer = make(4, True, zero_point=5)
    x = torch.randn(2, 3, 5, 5).to(dtype).requires_grad_()
    y = quantizer(x)
    assert y.dtype == dtype
    exact = quantizer(x.detach().float())
    assert torch.equal(y, exact.to(dtype))
    y.backward(torch.ones_like(y))
    assert x.grad.dtype == dtype
    assert quantizer.drift.grad.dtype == torch.float32
    assert torch.isfinite(quantizer.drift.grad)


def test_channels_last_stays():
    quantizer = make(2, False)
    x = torch.randn(2, 6, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = quantizer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
def test_first_training_batch_places_the_grid(method):
    quantizer = ActivationQuantizer(2, method=method)
    x = torch.randn(1, 4, 8, 8).relu()
    with pytest.warns(UserWarning, match=r'not calibrated.*bfcn_mm.calibrate'):
        assert quantizer.eval()(x) is x
    assert not quantizer.initialized
    y = quantizer.train()(x)
    assert quantizer.initialized
    assert y.unique().numel() == 4
    placed = quantizer.step.clone()
    quantizer(10 * x)
    assert torch.equal(quantizer.step, placed), 'only the first batch places'


def test_calibration_averages_the_bounds_of_the_batches():
    batches = [torch.rand(64) * size for size in (1.0, 3.0)]
    steps = []
    for batch in batches:
        alone = ActivationQuantizer(8)
        alone(batch)
        steps.append(alone.step.item())
    quantizer = ActivationQuantizer(8)
    quantizer.calibrate()
    assert all(quantizer(batch) is batch for batch in batches)
    assert not quantizer.ready
    assert quantizer.finish_calibration()
    assert quantizer.ready
    np.testing.assert_allclose(quantizer.step.item(), np.mean(steps), rtol=1e-6)


def test_calibration_that_saw_nothing_says_so():
    quantizer = ActivationQuantizer(8)
    quantizer.calibrate()
    assert not quantizer.finish_calibration()
    assert not quantizer.initialized


def test_other_bits_are_placed_again():
    quantizer = ActivationQuantizer(8, signed=True)
    x = torch.randn(1000)
    quantizer(x)
    assert 100 < quantizer.zero_point < 156
    quantizer.set_bits(8)
    assert quantizer.initialized, 'the same bits change nothing'
    quantizer.set_bits(2)
    assert not quantizer.initialized
    assert quantizer(x).unique().numel() == 4
    assert quantizer.zero_point in (1, 2)


@pytest.mark.parametrize('x', [torch.zeros(8), torch.full((8,), -1.0)])
def test_a_map_without_range_gives_a_usable_grid(x):
    quantizer = ActivationQuantizer(2)
    quantizer(x)
    assert quantizer.step > 0
    assert torch.isfinite(quantizer.step)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_place_no_grid(bad):
    quantizer = ActivationQuantizer(2)
    quantizer.name = 'backbone.relu.quants.0'
    with pytest.raises(RuntimeError, match=r'not finite reach backbone\.relu\.quants\.0'):
        quantizer(torch.tensor([0.0, 1.0, bad]))
    assert not quantizer.initialized


def test_a_batch_whose_map_is_all_zero_has_no_say_in_calibration():
    quantizer, alone = ActivationQuantizer(8), ActivationQuantizer(8)
    batch = torch.rand(64) * 0.01
    alone(batch)
    quantizer.calibrate()
    for seen in (torch.zeros(64), batch):
        quantizer(seen)
    quantizer.finish_calibration()
    assert quantizer.step == alone.step


def test_a_step_that_training_drove_down_stays_positive_and_can_return():
    """1 + ELU(drift) was exactly 0 in float32 below -17, and the gradient of the step was lost."""
    x = torch.rand(16)
    for drift in (-5.0, -17.0, -1000.0):
        quantizer = make(2, False)
        quantizer.drift.data.fill_(drift)
        assert quantizer.step > 0
        y = quantizer(x)
        assert torch.isfinite(y).all()
        (x - y).sum().backward()  # larger values are wanted: the step must grow
        assert quantizer.drift.grad < 0
    quantizer.drift.grad = None
    quantizer(x).sum().backward()
    assert quantizer.drift.grad == 0, 'at the lowest step nothing drives it further down'


def test_deepcopy_and_state_dict_keep_the_grid():
    quantizer = ActivationQuantizer(3, signed=True)
    x = torch.randn(128)
    y = quantizer(x)
    assert torch.equal(copy.deepcopy(quantizer)(x), y)
    other = ActivationQuantizer(3, signed=True)
    other.load_state_dict(pickle.loads(pickle.dumps(quantizer.state_dict())))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(other.eval()(x), y)
    assert other.initialized
    assert other.zero_point == quantizer.zero_point


def test_a_twin_is_of_the_same_kind_and_has_a_grid_of_its_own():
    for method in ('lsq', 'dorefa'):
        quantizer = make(3, True, method)
        twin = quantizer.twin()
        assert (twin.bits, twin.signed, twin.initialized) == (3, True, False)
        assert (twin.drift is not None) == (method == 'lsq')


def test_bits_that_are_not_on_the_way_are_refused():
    state = ActivationQuantizer(4).state_dict()
    quantizer = ActivationQuantizer(2)
    with pytest.raises(ValueError, match='the checkpoint has 4 bits at'):
        quantizer.load_state_dict(state)
    quantizer.allowed = (4, 3, 2)
    quantizer.load_state_dict(state)
    assert quantizer.bits == 4


@pytest.mark.parametrize('saved', ['lsq', 'dorefa'])
def test_a_grid_of_another_method_is_not_believed(saved):
    state = make(2, True, saved, step=3.0, zero_point=1).state_dict()
    quantizer = make(2, True, 'dorefa' if saved == 'lsq' else 'lsq')
    quantizer.load_state_dict(state)
    assert not quantizer.initialized
    assert 'another method' in quantizer.run.notes[0][0]


@pytest.mark.parametrize(
    ('shape', 'rule'),
    [((4, 64, 128, 128), 'error'), ((2, 256, 64, 128), 'error'), ((4, 64, 128, 128), 'percentile')],
)
@pytest.mark.parametrize('bits', [2, 8])
def test_calibration_sees_all_columns_of_a_map_of_powers_of_two(shape, rule, bits):
    """Evenly spaced samples saw 1 of 128 columns: here the dark one at the left."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).relu() * torch.linspace(0.05, 1, shape[-1])
    quantizer = ActivationQuantizer(bits, rule=Calibration(rule=rule))
    quantizer(x)
    top = 2**bits - 1
    error = (quantizer(x).detach() - x).square().mean()
    steps = [x.max() * f / top for f in np.geomspace(1, 0.02, 200)]
    best = min(((x / s + 0.5).floor().clamp(0, top) * s - x).square().mean() for s in steps)
    assert error < (1.05 if rule == 'error' else 4) * best


def test_the_rules_of_calibration():
    x = torch.cat([torch.linspace(0, 1, 9999), torch.tensor([50.0])])
    high = {}
    for rule in (Calibration(rule='range'), Calibration(rule='percentile', percentile=99.0)):
        quantizer = ActivationQuantizer(8, rule=rule)
        quantizer(x)
        high[rule.rule] = quantizer.step.item() * 255
    assert high['range'] == pytest.approx(50)
    assert high['percentile'] == pytest.approx(0.99, rel=1e-3)


@pytest.mark.parametrize('signed', [False, True])
def test_compiled_values_and_gradients_are_the_same(signed):
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        quantizer = make(2, signed, zero_point=int(signed))
        run = (
            torch.compile(quantizer, backend='aot_eager', fullgraph=True) if compiled else quantizer
        )
        x = torch.randn(2, 3, 8, 8, requires_grad=True)
        y = run(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, quantizer.drift.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
