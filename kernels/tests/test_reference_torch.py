"""The oracle means what PyTorch means: window rules, bins, source indices."""

import numpy as np
import pytest

from bfcn_kernels import ops, reference
from bfcn_kernels.ops import Term
from bfcn_kernels.ops.bit_conv import accumulate
from bfcn_kernels.values import Value

torch = pytest.importorskip('torch')
F = torch.nn.functional


def random_codes(shape: tuple[int, ...], bits: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**bits, shape, np.uint8)


def nchw(array: np.ndarray) -> 'torch.Tensor':
    return torch.from_numpy(array.astype(np.float64)).permute(2, 0, 1)[None]


def hwc(tensor: 'torch.Tensor') -> np.ndarray:
    return tensor[0].permute(1, 2, 0).numpy()


def run_on(op, array: np.ndarray, value: Value) -> np.ndarray:
    op.output(value)
    return reference.run_op(op, [(array, value)], op.grid((9, 9), array.shape[:2]))


@pytest.mark.parametrize(
    ('stride', 'padding', 'dilation', 'groups'),
    [(1, 1, 1, 1), (2, 1, 1, 1), (2, 3, 2, 1), (1, 4, 4, 2), ((2, 1), (0, 2), (1, 3), 4)],
)
def test_bit_conv(stride, padding, dilation, groups):
    def pair(x):
        return x if isinstance(x, tuple) else (x, x)

    weight = random_codes((8, 3, 3, 4 // groups), 2)
    window = {'stride': pair(stride), 'padding': pair(padding), 'dilation': pair(dilation)}
    term = Term('x', weight, np.ones(8, np.float32), 2, 1, groups=groups, **window)
    codes, value = random_codes((9, 11, 4), 3), Value('codes', 4, 3, 2)
    integers = torch.from_numpy(term.integers().astype(np.float64)).permute(0, 3, 1, 2)
    expected = hwc(F.conv2d(nchw(codes) - 2, integers, None, groups=groups, **window))
    np.testing.assert_array_equal(accumulate(term, codes, value), expected)


@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize('shape', [(1, 1, 2), (5, 8, 2), (7, 6, 2)])
@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding'), [(3, 2, 1), (2, 2, 0), (2, 3, 1), (3, 1, 1), (1, 3, 0)]
)
def test_pools(shape, kernel, stride, padding, ceil_mode):
    if min(shape[:2]) + 2 * padding < kernel:
        kernel = 1
        padding = 0
    codes, value = random_codes(shape, 8), Value('codes', shape[2], 8)
    pairs = [(side, side) for side in (kernel, stride, padding)]
    kernel, stride, padding = pairs
    op = ops.MaxPool('y', 'x', kernel, stride, padding, ceil=ceil_mode)
    expected = F.max_pool2d(nchw(codes), *pairs, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(run_on(op, codes, value), hwc(expected))
    for include in (False, True):
        op = ops.AvgPool('y', 'x', kernel, stride, 1.0, 0.0, 8, 0, padding, ceil_mode, include)
        mean = F.avg_pool2d(nchw(codes), *pairs, ceil_mode=ceil_mode, count_include_pad=include)
        np.testing.assert_array_equal(run_on(op, codes, value), np.floor(hwc(mean) + 0.5))


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (6, 6), (10, 4)])
def test_adaptive_avg_pool(size):
    codes, value = random_codes((7, 9, 3), 8), Value('codes', 3, 8)
    op = ops.AdaptiveAvgPool('y', 'x', size, 1.0, 0.0, 8)
    mean = hwc(F.adaptive_avg_pool2d(nchw(codes), size))
    np.testing.assert_array_equal(run_on(op, codes, value), np.floor(mean + 0.5))


@pytest.mark.parametrize('mode', ops.RESIZE_MODES)
@pytest.mark.parametrize('size', [(1, 1), (10, 14), (13, 5), (20, 28), (5, 7)])
def test_resize(size, mode):
    """Nearest picks the same pixels; bilinear agrees up to the rounding of float32."""
    scores = np.random.default_rng(0).normal(0, 1, (5, 7, 3)).astype(np.float32)
    out = run_on(ops.Resize('y', 'x', mode, size=size), scores, Value('scores', 3))
    options = {'mode': 'nearest'}
    if mode != 'nearest':
        options = {'mode': 'bilinear', 'align_corners': mode == 'align_corners'}
    expected = hwc(F.interpolate(nchw(scores).float(), size=size, **options))
    if mode == 'nearest':
        np.testing.assert_array_equal(out, expected)
    else:
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_resize_by_a_factor_is_resize_to_the_size_it_gives():
    scores = np.random.default_rng(0).normal(0, 1, (5, 7, 3)).astype(np.float32)
    out = run_on(ops.Resize('y', 'x', factor=(3, 2)), scores, Value('scores', 3))
    expected = F.interpolate(nchw(scores).float(), scale_factor=(3, 2), mode='bilinear')
    assert out.shape == (15, 14, 3)
    np.testing.assert_allclose(out, hwc(expected), rtol=0, atol=1e-5)
