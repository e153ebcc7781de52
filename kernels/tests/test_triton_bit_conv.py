"""bit_conv in Triton's interpreter equals the oracle, bit for bit, at odd sizes."""

import numpy as np
import pytest
import torch

from bfcn_kernels import fast
from bfcn_kernels.builder import Builder
from bfcn_kernels.ops import Term
from bfcn_kernels.triton.bit_conv import Config, PackedConv
from bfcn_kernels.triton.codes import Map, form_of, from_codes, storage, to_codes
from bfcn_kernels.triton.weights import pack_term
from bfcn_kernels.values import GraphError, Value

CPU = torch.device('cpu')
TILE = Config(32, 32, 64, warps=4, stages=3)


def fields(value: Map) -> np.ndarray:
    """Stored fields with those of padding channels, (pixels, padded)."""
    field, i = value.form.field, torch.arange(32 // value.form.field)
    parts = value.data[:, :, None] >> (8 * (i % 4) + field * (i // 4)) & (2**field - 1)
    return parts.reshape(len(value.data), -1).numpy()


def garbage(value: Value, batch: int, grid) -> Map:
    """A map whose memory holds what no kernel writes."""
    shape, dtype = storage(value, batch * grid[0] * grid[1])
    fill = float('nan') if dtype == torch.float32 else -0x5A5A5A5B
    return Map(torch.full(shape, fill, dtype=dtype), value, batch, grid)


def check(net: Builder, name: str, size=(5, 7), batch=2, config=TILE, seed=0) -> None:
    """Run the builder's op `name` on random codes and compare every number with the oracle."""
    op = next(op for op in net.graph().ops if op.name == name)
    rng = np.random.default_rng(seed)
    maps = {
        source: rng.integers(
            0, 2 ** net.value(source).bits, (batch, *size, net.value(source).channels), np.uint8
        )
        for source in op.sources
    }
    expected = []
    for image in range(batch):
        sources = [(maps[source][image], net.value(source)) for source in op.sources]
        expected.append(op.run(*sources, grid=None, accumulate=fast.bit_conv_accumulate))
    expected = np.stack(expected)
    value = net.value(name)
    out = garbage(value, batch, expected.shape[1:3])
    sources = [from_codes(torch.from_numpy(maps[s]), net.value(s)) for s in op.sources]
    forms = [form_of(net.value(term.source)) for term in op.terms]
    PackedConv(op, forms, config.k, config.as_bytes, CPU)(sources, out, config)
    if value.kind == 'codes':
        np.testing.assert_array_equal(to_codes(out).numpy(), expected)
        padding = fields(out)[:, value.channels :]
        np.testing.assert_array_equal(padding, out.form.zero % 2**out.form.field)
    else:
        got = out.data.numpy().reshape(expected.shape)
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def source(channels: int, bits: int, zero_point: int = 0, seed: int = 0) -> Builder:
    """A net that ends in codes named x."""
    net = Builder(seed, (9, 11))
    net.image_codes('pixels', zero_point=128)
    net.conv('x', [net.term('pixels', channels, 1, 8, 1)], bits, zero_point=zero_point)
    return net


@pytest.mark.parametrize('channels', [1, 63, 64, 65])
@pytest.mark.parametrize('outputs', [1, 65])
def test_channel_counts(channels, outputs):
    net = source(channels, 2)
    net.conv('y', [net.term('x', outputs, 3)], 2)
    check(net, 'y')


@pytest.mark.parametrize(
    ('bits', 'form'), [(1, 2), *((m, f) for m in (2, 3, 4, 5, 7, 8) for f in (1, 2))]
)
@pytest.mark.parametrize('as_bytes', [False, True])
def test_every_weight(bits, form, as_bytes):
    net = source(20, 3, zero_point=2)
    net.conv('y', [net.term('x', 5, 3, bits, form)], 4)
    check(net, 'y', size=(3, 4), batch=1, config=Config(16, 32, 64, 4, 3, as_bytes))


@pytest.mark.parametrize('bits', range(1, 9))
def test_every_activation(bits):
    """As source, residual and output; signed too."""
    for zero_point in {0, 2 ** (bits - 1), 2**bits - 1}:
        net = source(33, bits, zero_point, seed=bits)
        net.conv('y', [net.term('x', 33, 1, 2)], bits, ('x',), zero_point=zero_point)
        check(net, 'y', size=(3, 3), batch=1)


@pytest.mark.parametrize('size', [(1, 1), (7, 6)])
@pytest.mark.parametrize(
    'window',
    [
        dict(kernel=1, stride=2),
        dict(kernel=1, padding=1),
        dict(kernel=3, stride=2),
        dict(kernel=3, dilation=4),
        dict(kernel=5, stride=3, dilation=2),
        dict(kernel=2, padding=1),
    ],
)
def test_windows(window, size):
    for channels in (16, 65):  # one block of k holds several taps, one tap several blocks
        net = source(channels, 2, zero_point=1)
        net.conv('y', [net.term('x', 8, bits=1, **window)], 2)
        check(net, 'y', size)


@pytest.mark.parametrize(
    ('channels', 'outputs', 'groups'),
    [(64, 64, 64), (65, 65, 65), (64, 128, 8), (192, 130, 2), (12, 6, 3), (130, 130, 13)],
)
def test_groups(channels, outputs, groups):
    net = source(channels, 3, zero_point=3)
    net.conv('y', [net.term('x', outputs, 3, groups=groups)], 2)
    check(net, 'y', size=(3, 4))


def test_stem():
    net = Builder(0, (17, 19))
    net.image_codes('pixels', zero_point=128)
    net.conv('y', [net.term('pixels', 64, 7, 8, 1, stride=2)], 2)
    check(net, 'y', size=(17, 19), batch=1)


def test_terms_and_residuals_join_in_order():
    net = source(40, 4, zero_point=5)
    net.conv('z', [net.term('x', 40, 3, 2)], 7, zero_point=60)
    terms = [net.term('x', 40, 3), net.term('z', 40, 1, 5), net.term('x', 40, 1, 8, 2)]
    net.conv('y', terms, 6, residuals=('z', 'x'), zero_point=9)
    check(net, 'y')


@pytest.mark.parametrize('channels', [2, 19, 150])
def test_scores(channels):
    net = source(70, 2)
    net.conv('y', [net.term('x', channels, 3)], None)
    check(net, 'y')


@pytest.mark.parametrize('config', [Config(16, 64, 128, 4, 3), Config(64, 32, 32, 4, 3, True)])
def test_tiles(config):
    net = source(128, 1)
    net.conv('y', [net.term('x', 130, 3, 1)], 1)
    check(net, 'y', config=config)


def test_sums_that_tensor_cores_would_saturate_are_refused():
    channels = 2**15
    weight = np.zeros((1, 1, 5, channels), np.uint8)  # every weight -127
    term = Term('x', weight, np.ones(1, np.float32), 7)
    value = Value('codes', channels, 7, 64)  # |q - zp| is half of what a stored field reaches
    term.check(value, 1)
    with pytest.raises(GraphError, match=r'may reach 2642575360 .* more than 2147483647'):
        pack_term(term, form_of(value), 128, False, CPU)
