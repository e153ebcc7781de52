"""Weights against numpy, an element at a time."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from bfcn_mm.quantizers import DoReFaWeight, LSQWeight, WeightGrid
from bfcn_mm.quantizers.fake_quant import quantize_weight

F32 = np.float32
SHAPE = (5, 4, 3, 3)


def weights(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.1


def grid_of(bits):
    """LSQ's grid, written out from the documentation."""
    two_sided = WeightGrid(bits, 2, 2**bits - 1)
    return two_sided if bits <= 3 else WeightGrid(bits, 1, 2 ** (bits - 1))


def lsq_oracle(w, step, grid):
    """(code, value, dy/dw, dy/dstep without its scale) of one weight."""
    u = F32(F32(w) / F32(step))
    code = F32(F32(u + F32(grid.z)) / F32(grid.k))
    code = min(max(math.floor(F32(code + F32(0.5))), 0), 2**grid.bits - 1)
    v = grid.k * code - grid.z
    inside = grid.low <= u <= grid.high
    if grid.bits == 1:
        return code, F32(F32(v) * F32(step)), 1.0, v
    return code, F32(F32(v) * F32(step)), float(inside), v - float(u) if inside else v


@pytest.mark.parametrize('axis', [0, 1, None])
@pytest.mark.parametrize('bits', range(1, 9))
def test_lsq_forward_and_gradients_of_each_element(bits, axis):
    quantizer = LSQWeight(bits, SHAPE, axis or 0, axis is not None)
    w = weights(bits).requires_grad_()
    quantizer(w)
    with torch.no_grad():
        quantizer.placed.mul_(0.7)  # so that some weights are clipped
        grid, step = quantizer.grid, quantizer.step.expand(SHAPE)
        ties = torch.arange(-3, 4) * grid.k + (grid.k / 2) * (grid.z % 2 == 0 or grid.k == 1)
        w.view(-1)[:7] = ties * step.reshape(-1)[:7]
        quantizer._size.copy_(w.abs().mean(quantizer.dims, keepdim=True))  # the step stays
    assert grid == grid_of(bits)
    y = quantizer(w)
    upstream = torch.linspace(-1, 2, w.numel()).view(SHAPE)
    (y * upstream).sum().backward()
    pairs = zip(w.flatten().tolist(), step.flatten().tolist(), strict=True)
    codes, values, dw, dstep = map(
        np.array, zip(*(lsq_oracle(v, s, grid) for v, s in pairs), strict=True)
    )
    got, shared = quantizer.codes(w)
    np.testing.assert_array_equal(got.flatten().numpy(), codes)
    assert torch.equal(shared, quantizer.step)
    assert torch.equal((grid.k * got.float() - grid.z) * shared, y.detach())
    np.testing.assert_array_equal(y.detach().flatten().numpy(), values)
    expected = upstream.numpy() * dw.reshape(SHAPE).astype(F32)
    np.testing.assert_array_equal(w.grad.numpy(), expected)
    scale = 1 / math.sqrt(w.numel() / quantizer.placed.numel() * grid.high)
    terms = upstream.double().numpy() * dstep.reshape(SHAPE) * scale / step.numpy()
    dims = tuple(d for d in range(4) if d != axis)
    limit = np.sqrt(np.square(upstream.double().numpy()).sum(dims, keepdims=True))
    np.testing.assert_allclose(
        quantizer.drift.grad.numpy(),
        terms.sum(dims, keepdims=True).clip(-limit, limit),
        rtol=1e-4,
        atol=1e-5,
    )
    assert len(np.unique(codes)) <= 2**bits


def test_ties_between_levels_round_up():
    grid = WeightGrid(2, 2, 3)  # values -3, -1, 1, 3: ties at -2, 0, 2
    w = torch.tensor([-2.0, 0.0, -0.0, 2.0, -9.0, 9.0])
    assert quantize_weight(w, torch.ones(1), grid, 1.0).tolist() == [-1, 1, 1, 3, -3, 3]
    grid = WeightGrid(2, 1, 2)  # -2, -1, 0, 1
    w = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    assert quantize_weight(w, torch.ones(1), grid, 1.0).tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize('per_channel', [True, False])
@pytest.mark.parametrize('bits', range(1, 9))
def test_dorefa_is_equations_7_and_9(bits, per_channel):
    w = weights().requires_grad_()
    quantizer = DoReFaWeight(bits, SHAPE, 0, per_channel)
    y = quantizer(w)
    upstream = torch.linspace(-1, 2, w.numel()).view(SHAPE)
    (y * upstream).sum().backward()
    x = w.detach().double().numpy()
    dims = (1, 2, 3) if per_channel else (0, 1, 2, 3)
    if bits == 1:
        expected = np.where(x >= 0, 1, -1) * np.abs(x).mean(dims, keepdims=True)
        slope = np.ones_like(x)
    else:
        levels = 2**bits - 1
        bound = np.abs(np.tanh(x)).max(dims, keepdims=True)
        unit = np.floor((np.tanh(x) / (2 * bound) + 0.5) * levels + 0.5) / levels
        expected = bound * (2 * unit - 1)
        slope = 1 - np.tanh(x) ** 2
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(w.grad.numpy(), upstream.numpy() * slope, rtol=1e-5, atol=1e-7)
    codes, step = quantizer.codes(w)
    on_grid = (2 * codes.float() - (2**bits - 1)) * step
    assert torch.equal(y.detach(), on_grid)


@pytest.mark.parametrize('kind', [LSQWeight, DoReFaWeight])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(kind, dtype):
    quantizer = kind(2, SHAPE, 0, True)
    w = weights().to(dtype).requires_grad_()
    y = quantizer(w)
    assert y.dtype == dtype
    y.sum().backward()
    assert w.grad.dtype == dtype
    assert all(p.grad.dtype == torch.float32 for p in quantizer.parameters())


def test_only_training_stores_a_step():
    quantizer = LSQWeight(2, SHAPE, 0, True).eval()
    values = quantizer(weights())
    assert not quantizer.initialized
    assert (quantizer.placed == 1).all()
    assert torch.equal(quantizer.train()(weights()), values)
    assert quantizer.initialized
    assert (quantizer.placed != 1).all()


def test_other_bits_are_placed_anew():
    quantizer = LSQWeight(4, SHAPE, 0, True)
    quantizer(weights())
    before = quantizer.step.clone()
    quantizer.set_bits(1)
    assert not quantizer.initialized
    y = quantizer(weights())
    assert not torch.equal(quantizer.step, before)
    torch.testing.assert_close(y.detach().abs()[:, 0, 0, 0], weights().abs().mean((1, 2, 3)))


@pytest.mark.parametrize('kind', [LSQWeight, DoReFaWeight])
def test_deepcopy_and_state_dict(kind):
    quantizer = kind(3, SHAPE, 0, True)
    y = quantizer(weights())
    assert torch.equal(copy.deepcopy(quantizer)(weights()), y)
    other = kind(3, SHAPE, 0, True)
    other.load_state_dict(pickle.loads(pickle.dumps(quantizer.state_dict())))
    assert torch.equal(other.eval()(weights()), y)


@pytest.mark.parametrize('kind', [LSQWeight, DoReFaWeight])
@pytest.mark.parametrize('bits', [1, 2, 4])
def test_compiled_values_and_gradients_are_the_same(kind, bits):
    results = []
    for compiled in (False, True):
        quantizer = kind(bits, SHAPE, 0, True)
        quantizer(weights())
        run = (
            torch.compile(quantizer, backend='aot_eager', fullgraph=True) if compiled else quantizer
        )
        w = weights(1).requires_grad_()
        y = run(w)
        y.square().sum().backward()
        results.append([y.detach(), w.grad, *(p.grad for p in quantizer.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('bits', [8, 1])
def test_adam_moves_a_step_by_its_rate_whatever_its_size(bits):
    quantizer = LSQWeight(bits, SHAPE, 0, True)
    w = 0.01 * weights()
    quantizer(w)
    before = quantizer.step.detach().clone()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.003)
    quantizer(w).square().sum().backward()
    optimizer.step()
    change = quantizer.step.detach() / before - 1
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.003), rtol=1e-2, atol=0)


def test_sgd_moves_a_step_as_lsq_does():
    quantizer = LSQWeight(2, SHAPE, 0, True)
    quantizer(weights())
    step = quantizer.step.detach().clone().requires_grad_()
    grid = quantizer.grid
    scale = 1 / math.sqrt(weights().numel() / step.numel() * grid.high)
    quantize_weight(weights(), step, grid, scale).square().sum().backward()
    quantizer(weights()).square().sum().backward()
    torch.optim.SGD(quantizer.parameters(), lr=1e-5).step()
    expected = -1e-5 * step.grad
    torch.testing.assert_close(
        quantizer.step.detach() - step.detach(), expected, rtol=0.05, atol=2e-7
    )


def relative_error(quantizer, w):
    return ((quantizer(w).detach() - w).norm() / w.norm()).item()


@pytest.mark.parametrize('factor', [1e-3, 0.5, 30.0])
@pytest.mark.parametrize('mode', [True, False])
@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_the_grid_follows_the_size_of_the_weights(bits, mode, factor):
    """Batch norm fused into weights, weights scaled from outside: as before, times the factor."""
    quantizer = LSQWeight(bits, SHAPE, 0, True)
    w = weights()
    quantizer(w)
    quantizer.drift.data.uniform_(-0.3, 0.3)
    before = quantizer(w).detach()
    factors = torch.tensor([factor, 1.0, 2.0, factor, 1.0]).view(5, 1, 1, 1)
    torch.testing.assert_close(
        quantizer.train(mode)(w * factors).detach(), before * factors, rtol=1e-4, atol=0
    )


def test_evaluation_of_other_weights_changes_no_state():
    quantizer = LSQWeight(4, SHAPE, 0, True)
    quantizer(weights())
    state = copy.deepcopy(quantizer.state_dict())
    quantizer.eval()(10 * weights(1))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
@pytest.mark.parametrize('kind', [LSQWeight, DoReFaWeight])
def test_channels_that_start_at_zero_are_zero_and_fit_once_they_have_weights(kind, bits):
    """Zero-initialized layers: the step stayed at 1e-5 for ever, and the channel gave up learning."""
    quantizer = kind(bits, SHAPE, 0, True)
    w = weights()
    w[1:3] = 0
    assert quantizer(w)[1:3].detach().abs().max() < 1e-6
    for size in (1e-4, 1e-2, 1.0):
        w[1:3] = weights(1)[1:3] * size
        fresh = kind(bits, SHAPE, 0, True)
        fresh(w)
        rows = w[1:3], quantizer(w)[1:3].detach(), fresh(w)[1:3].detach()
        ours, best = ((rows[0] - y).norm() for y in rows[1:])
        assert ours <= 1.8 * best  # 36 weights are no normal distribution


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_a_small_start_does_not_keep_weights_small(bits):
    """Weights grow a hundred times under SGD, from 0.01 or from zero, with their grid."""
    for start in (0.01, 0.0):
        torch.manual_seed(0)
        quantizer = LSQWeight(bits, SHAPE, 0, True)
        w = (start * weights()).requires_grad_()
        target = weights(1)
        optimizer = torch.optim.SGD([w, *quantizer.parameters()], lr=0.05, momentum=0.9)
        for _ in range(200):
            optimizer.zero_grad()
            (quantizer(w) - target).square().sum().backward()
            optimizer.step()
        fitted = LSQWeight(bits, SHAPE, 0, True)
        best = (fitted(target) - target).norm()
        assert (quantizer(w).detach() - target).norm() <= 1.3 * best + 0.06 * target.norm()


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_gradients_of_steps_do_not_rule_the_norm(bits):
    """They were up to a hundred times those of all weights, and so decided clip_grad."""
    quantizer = LSQWeight(bits, SHAPE, 0, True)
    w = weights().requires_grad_()
    quantizer(w)
    quantizer.placed.mul_(0.3)  # far from the best
    upstream = (
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).sign() * w.detach().sign()
    )
    (quantizer(w) * upstream.abs() * w.detach().sign()).sum().backward()
    norms = upstream.square().sum((1, 2, 3), keepdim=True).sqrt()
    assert (quantizer.drift.grad.abs() <= norms * (1 + 1e-5)).all()
    assert quantizer.drift.grad.abs().max() > 0


def test_a_step_that_was_driven_down_can_return():
    quantizer = LSQWeight(2, SHAPE, 0, True)
    quantizer(weights())
    quantizer.drift.data.fill_(-30.0)
    assert (quantizer(weights()) != 0).all()
    assert (quantizer.step > 0).all()
    (quantizer(weights()) * weights().sign()).sum().neg().backward()
    assert (quantizer.drift.grad < 0).all()


def test_a_file_of_an_earlier_version_keeps_its_steps():
    quantizer = LSQWeight(4, SHAPE, 0, True)
    values = quantizer(weights()).detach()
    state = {k: v for k, v in quantizer.state_dict().items() if k != '_size'}
    other = LSQWeight(4, SHAPE, 0, True)
    other.load_state_dict(state)
    assert torch.equal(other(weights()).detach(), values)
    torch.testing.assert_close(other(3 * weights()).detach(), 3 * values)
