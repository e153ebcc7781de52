"""Fused fake quantization, in the interpreter, equals the formulas in torch ops: values and gradients."""

import math

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

pytest.importorskip('mmseg')

from bfcn_kernels.triton import fake_quant as kernels
from bfcn_mm.quantizers import ActivationQuantizer, DoReFaWeight, LSQWeight, fake_quant, fused
from bfcn_mm.quantizers.grids import bipolar, twos_complement


@pytest.fixture(autouse=True)
def round_to_nearest(monkeypatch):
    """The interpreter cuts float32 off to bfloat16, and rounds without a carry into the exponent where it
    is asked to round; GPUs round to nearest even (cvt.rn), as torch."""
    builder, cast = interpreter.InterpreterBuilder, interpreter.InterpreterBuilder.cast_impl

    def create_fp_trunc(self, source, type_):
        if (source.dtype.scalar, type_.scalar) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.asarray(source.data)).bfloat16().view(torch.uint16)
            return interpreter.TensorHandle(rounded.numpy(), tl.bfloat16)
        return cast(self, source, type_)

    monkeypatch.setattr(builder, 'create_fp_trunc', create_fp_trunc)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def gradients(function, x, step, grad, *rest):
    """(y, dy/dx, dy/dstep) of function(x, step, ...)."""
    x, step = x.clone().requires_grad_(), step.clone().requires_grad_()
    y = function(x, step, *rest)
    y.backward(grad)
    return y.detach(), x.grad, step.grad


def assert_same(got, expected) -> None:
    """Values and input gradients by their bits but for the sign of 0; the step's to float32 sums."""
    for ours, theirs in zip(got[:2], expected[:2], strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-5, atol=1e-5)


def sample(shape, step, dtype=torch.float32, seed=0):
    """Values on both sides of every edge, ties and exact edges among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 3 * step
    flat = x.reshape(-1)
    ties = (torch.arange(-4, 12) * 0.5 * step)[: flat.numel()]
    flat[: len(ties)] = ties
    return x.to(dtype), torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('bits', [1, 2, 8])
@pytest.mark.parametrize('zero_point', [None, 0.0, 3.0])
def test_activation(dtype, bits, zero_point):
    step = torch.tensor(0.37)
    x, grad = sample((2, 3, 5, 7), step, dtype, bits)
    zero = None if zero_point is None else torch.tensor(zero_point)
    got = gradients(kernels.quantize_activation, x, step, grad, zero, bits, 0.25)
    eager = gradients(fake_quant._QuantizeActivation.apply, x, step, grad, zero, bits, 0.25)
    assert_same(got, eager)
    assert got[1].count_nonzero() not in (0, x.numel())


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('grid', [bipolar(1), bipolar(2), bipolar(8), twos_complement(4)], ids=str)
@pytest.mark.parametrize('axis', [0, 1, None])
def test_weight(dtype, grid, axis):
    shape = [5, 6, 3, 3]
    w, grad = sample(shape, 0.11, dtype, grid.bits)
    step = torch.rand([n if d == axis else 1 for d, n in enumerate(shape)]) / 4 + 0.05
    got = gradients(kernels.quantize_weight, w, step, grad, *grid, 0.5)
    assert_same(got, gradients(fake_quant._QuantizeWeight.apply, w, step, grad, grid, 0.5))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('bits', [1, 2, 3, 8])
@pytest.mark.parametrize('per_channel', [True, False])
def test_dorefa(dtype, bits, per_channel, monkeypatch):
    """The quantizer with and without the kernels, in two orders of memory: a mean depends on it."""
    w, grad = sample((5, 6, 3, 3), 0.3, dtype, bits)
    quantizer = DoReFaWeight(bits, w.shape, 0, per_channel)
    for order in (torch.contiguous_format, torch.channels_last):
        results = []
        for devices in (set(), {'cpu'}):
            monkeypatch.setattr(fused, 'DEVICES', devices)
            monkeypatch.setattr(fused, '_loaded', {})
            x = w.clone(memory_format=order).requires_grad_()
            y = quantizer(x)
            y.backward(grad)
            results.append((y.detach(), x.grad))
        (expected, slope), got = results
        torch.testing.assert_close(got[0], expected, rtol=0, atol=0)
        loose = dict(rtol=0, atol=0) if bits == 1 else dict(rtol=torch.finfo(dtype).eps, atol=1e-6)
        torch.testing.assert_close(got[1], slope, **loose)
        assert got[0].unique().numel() > 1


@pytest.mark.parametrize('shape', [(1,), (3, 1), (1, 1, 1, 1), (2, 65, 1, 63)])
def test_odd_shapes(shape):
    step = torch.tensor(0.5)
    x, grad = sample(shape, step)
    got = gradients(kernels.quantize_activation, x, step, grad, None, 2, 1.0)
    assert_same(got, gradients(fake_quant._QuantizeActivation.apply, x, step, grad, None, 2, 1.0))


def test_any_order_in_memory():
    """channels_last stays; a gradient or an input in another order is laid out anew."""
    step = torch.tensor(0.3)
    x, grad = sample((2, 8, 4, 6), step)
    expected = gradients(fake_quant._QuantizeActivation.apply, x, step, grad, None, 2, 1.0)
    last = x.contiguous(memory_format=torch.channels_last)
    got = gradients(kernels.quantize_activation, last, step, grad, None, 2, 1.0)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    assert_same(got, expected)
    turned = torch.empty(2, 4, 6, 8)[:, ::2].permute(0, 3, 1, 2)
    y = kernels.quantize_activation(turned.copy_(x[:, :, ::2]), step, None, 2, 1.0)
    torch.testing.assert_close(y, expected[0][:, :, ::2], rtol=0, atol=0)
    w_last = last.clone(memory_format=torch.preserve_format)
    for axis in (0, 1):
        size = [n if d == axis else 1 for d, n in enumerate(x.shape)]
        steps = torch.rand(size) + 0.1
        got = gradients(kernels.quantize_weight, w_last, steps, grad, *bipolar(2), 1.0)
        eager = fake_quant._QuantizeWeight.apply
        assert_same(got, gradients(eager, x, steps, grad, bipolar(2), 1.0))


def test_not_a_number_stays_one():
    x = torch.tensor([float('nan'), float('inf'), -float('inf'), 1.0])
    step, grad = torch.tensor(0.5), torch.ones(4)
    got = gradients(kernels.quantize_activation, x, step, grad, None, 2, 1.0)
    expected = gradients(fake_quant._QuantizeActivation.apply, x, step, grad, None, 2, 1.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_several_programs_share_a_sum(monkeypatch):
    monkeypatch.setattr(kernels, 'BLOCK', 64)
    step = torch.full((3, 1, 1), 0.2)
    w, grad = sample((3, 10, 20), 0.2)
    got = gradients(kernels.quantize_weight, w, step, grad, *bipolar(2), 1.0)
    assert_same(got, gradients(fake_quant._QuantizeWeight.apply, w, step, grad, bipolar(2), 1.0))
    step = torch.tensor(0.2)
    got = gradients(kernels.quantize_activation, w, step, grad, None, 2, 1.0)
    assert_same(got, gradients(fake_quant._QuantizeActivation.apply, w, step, grad, None, 2, 1.0))


def test_operators_keep_the_rules_of_torch_library():
    x, step = torch.randn(2, 3, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    torch.library.opcheck(kernels._activation, (x, step, None, 2, 1.0))
    torch.library.opcheck(kernels._activation, (x, step, torch.tensor(1.0), 2, 1.0))
    torch.library.opcheck(kernels._weight, (x, step.reshape(1, 1), 2, 2, 3, 1.0))
    scale = torch.tensor([[0.3]])
    torch.library.opcheck(kernels._dorefa, (x, torch.tanh(x.detach()), scale, 2))
    torch.library.opcheck(kernels._dorefa, (x, x.detach().clone(), scale, 1))


@pytest.fixture
def on_cpu(monkeypatch):
    """Quantizers use the kernels on CPU tensors too, as they do on GPU ones."""
    monkeypatch.setattr(fused, 'DEVICES', {'cpu'})
    monkeypatch.setattr(fused, '_loaded', {})


def train(quantizer, x):
    quantizer.train()
    y = quantizer(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return y.detach(), x.grad, quantizer.drift.grad


@pytest.mark.parametrize('make', [
    lambda: ActivationQuantizer(2), lambda: ActivationQuantizer(4, signed=True),
    lambda: LSQWeight(1, (4, 3, 3, 3), 0, True), lambda: LSQWeight(4, (4, 3, 3, 3), 0, False),
])  # fmt: skip
def test_quantizers_use_them(make, on_cpu, monkeypatch):
    results, calls = [], []
    for name in ('quantize_activation', 'quantize_weight'):
        function = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *args, f=function: calls.append(f.__name__) or f(*args)
        )
    for devices in ({'cpu'}, set()):
        monkeypatch.setattr(fused, 'DEVICES', devices)
        torch.manual_seed(0)
        results.append(train(make(), torch.randn(4, 3, 3, 3).requires_grad_()))
    assert len(calls) == 1
    assert_same(*results)


def test_they_stay_in_the_compiled_graph(on_cpu):
    """One graph, no break; each pass one node."""
    graphs = []

    def backend(graph, inputs):
        graphs.append([node.name for node in graph.graph.nodes if 'quantize' in str(node.target)])
        return graph.forward

    quantizer = ActivationQuantizer(2)
    x = torch.rand(2, 3, 4, 4)
    quantizer(x)  # places the grid
    expected = quantizer(x)
    compiled = torch.compile(quantizer, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0)
    assert [len(names) for names in graphs] == [1]


def test_float64_and_a_missing_provider_use_torch_ops(on_cpu, monkeypatch):
    x = torch.rand(3, dtype=torch.float64)
    assert fused.fused_for(x) is None
    assert fused.fused_for(x.float()) is kernels
    monkeypatch.setattr(fused, '_loaded', {})
    monkeypatch.setenv('BFCN_FUSED', '0')
    assert fused.fused_for(x.float()) is None


def test_kernels_that_cannot_be_had_are_told_of_once(on_cpu, monkeypatch):
    def importer():
        raise RuntimeError('triton must be 3.4 or later, got 2.1.0')

    monkeypatch.setattr(fused, '_provider', importer)
    x = torch.rand(3)
    with pytest.warns(
        UserWarning, match=r'separate torch ops, slower: triton must be 3\.4'
    ) as seen:
        found = [fused.fused_for(x), fused.fused_for(x)]
    assert found == [None, None]
    assert len(seen) == 1


def test_bad_tensors_are_named():
    x, step = torch.rand(4, 3), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r'takes float16, bfloat16 or float32, got torch\.int64'):
        kernels.quantize_activation(x.long(), step, None, 2, 1.0)
    with pytest.raises(ValueError, match='step must be on cpu, as the input is, got meta'):
        kernels.quantize_activation(x, step.to('meta'), None, 2, 1.0)
    with pytest.raises(ValueError, match=r't must be float32, got torch\.bfloat16'):
        kernels.quantize_dorefa(x.bfloat16(), x.bfloat16(), step, 2)
    with pytest.raises(ValueError, match=r'zero_point must be float32, got torch\.int32'):
        kernels.quantize_activation(x, step, torch.tensor(1, dtype=torch.int32), 2, 1.0)
    with pytest.raises(
        ValueError, match=r'one number or one for each index .* \(4, 3\), got \(2, 1\)'
    ):
        kernels.quantize_weight(x, torch.rand(2, 1), *bipolar(2), 1.0)
    assert math.isfinite(kernels.quantize_weight(x, step.reshape(1, 1), *bipolar(2), 1.0).sum())
