"""Each op of the oracle against its formula spelled out pixel by pixel."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest

from bfcn_kernels import fast, ops, reference
from bfcn_kernels.builder import random_image
from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import toy
from bfcn_kernels.ops import BitConv, Residual, Term
from bfcn_kernels.ops.bit_conv import accumulate
from bfcn_kernels.testing import random_graph
from bfcn_kernels.values import Value

f32 = np.float32


def random_codes(shape: tuple[int, ...], bits: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, shape, np.uint8)


def random_term(
    channels: int, out: int, kernel: tuple[int, int], bits: int, form: int, **window
) -> Term:
    shape = (out, *kernel, channels // window.get('groups', 1))
    weight = random_codes(shape, bits, seed=out)
    scale = np.random.default_rng(out).normal(0, 0.02, out).astype(f32)
    return Term('x', weight, scale, bits, form, **window)


def accumulate_slowly(term: Term, codes: np.ndarray, value: Value) -> np.ndarray:
    """Six loops over Python ints, as in the formula."""
    out, kh, kw, per_group = term.weight.shape
    k, z = (2, 2**term.bits - 1) if term.form == 2 else (1, 2 ** (term.bits - 1))
    (sh, sw), (ph, pw), (dh, dw) = term.stride, term.padding, term.dilation
    h, w, _ = codes.shape
    oh = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    ow = (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    acc = np.zeros((oh, ow, out), np.int64)
    for y, x, o in np.ndindex(acc.shape):
        first = o // (out // term.groups) * per_group
        for ky, kx, c in np.ndindex(kh, kw, per_group):
            sy, sx = y * sh - ph + ky * dh, x * sw - pw + kx * dw
            if 0 <= sy < h and 0 <= sx < w:
                number = int(codes[sy, sx, first + c]) - value.zero_point
                acc[y, x, o] += (k * int(term.weight[o, ky, kx, c]) - z) * number
    return acc


CONVOLUTIONS = {
    'one pixel': ((1, 1, 1), 1, (1, 1), 1, 2, {}),
    '1x1 image under 3x3': ((1, 1, 3), 2, (3, 3), 1, 2, {'padding': (1, 1)}),
    '63 channels': ((3, 4, 63), 2, (3, 3), 1, 2, {'padding': (1, 1)}),
    '64 channels': ((3, 4, 64), 2, (1, 1), 3, 1, {}),
    '65 channels': ((4, 3, 65), 3, (3, 3), 2, 1, {'padding': (1, 1), 'stride': (2, 2)}),
    'dilation 4': ((6, 7, 3), 2, (3, 3), 2, 2, {'padding': (4, 4), 'dilation': (4, 4)}),
    'uneven window': (
        (7, 6, 2), 2, (2, 5), 8, 1,
        {'padding': (0, 3), 'stride': (3, 1), 'dilation': (2, 1)},
    ),
    'groups': ((4, 4, 6), 9, (3, 3), 4, 2, {'groups': 3, 'padding': (1, 1)}),
    'depthwise': ((4, 4, 5), 5, (3, 3), 1, 2, {'groups': 5, 'padding': (2, 2)}),
    'depthwise multiplier': ((3, 3, 4), 8, (3, 3), 1, 2, {'groups': 4}),
}  # fmt: skip


@pytest.mark.parametrize('zero_point', [0, 5])
@pytest.mark.parametrize('case', CONVOLUTIONS)
def test_bit_conv_accumulates_the_sum_over_taps(case, zero_point):
    shape, out, kernel, bits, form, window = CONVOLUTIONS[case]
    term = random_term(shape[2], out, kernel, bits, form, **window)
    codes, value = random_codes(shape, 3), Value('codes', shape[2], 3, zero_point)
    expected = accumulate_slowly(term, codes, value)
    assert np.abs(expected).max() <= term.bound(value)
    np.testing.assert_array_equal(accumulate(term, codes, value), expected)
    np.testing.assert_array_equal(fast.bit_conv_accumulate(term, codes, value), expected)


def test_fast_accumulates_exactly_beyond_float32():
    """8-bit codes and weights over 4608 taps pass 2**24: the product goes to float64."""
    term = random_term(512, 2, (3, 3), 8, 2, padding=(1, 1))
    term.weight[0] |= 128
    codes, value = random_codes((3, 3, 512), 8), Value('codes', 512, 8, 1)
    assert term.bound(value) > 2**24
    expected = accumulate(term, codes, value)
    assert (expected.astype(f32) != expected).any()
    np.testing.assert_array_equal(fast.bit_conv_accumulate(term, codes, value), expected)


def rounded(value: Fraction) -> Fraction:
    """The nearest float32 of an exact number (float64 holds all of these exactly)."""
    exact = float(value)
    assert Fraction(exact) == value
    return Fraction(f32(exact).item())


@pytest.mark.parametrize('bits', [1, 2, 8, None])
def test_bit_conv_epilogue_rounds_each_operation(bits):
    """Terms and residuals in rational arithmetic, rounded after every product and sum."""
    terms = (random_term(3, 4, (1, 1), 8, 1), random_term(5, 4, (1, 1), 2, 2))
    sources = [
        (random_codes((4, 5, 3), 8, 1), Value('codes', 3, 8, 128)),
        (random_codes((4, 5, 5), 2, 2), Value('codes', 5, 2)),
        (random_codes((4, 5, 4), 4, 3), Value('codes', 4, 4, 7)),
        (random_codes((4, 5, 4), 8, 4), Value('codes', 4, 8)),
    ]
    residuals = (Residual('r', f32(0.1).item()), Residual('s', f32(-0.037).item()))
    bias = np.array([0.3, 1.7, -0.2, 2.1], f32)
    op = BitConv('y', terms, bias, bits, residuals=residuals)
    op.output(*(value for _, value in sources))
    out = op.run(*sources, grid=None)
    accs = [accumulate_slowly(t, *source) for t, source in zip(terms, sources[:2], strict=True)]
    for y, x, c in np.ndindex(out.shape):
        t = rounded(Fraction(int(accs[0][y, x, c])) * Fraction(terms[0].scale[c].item()))
        t = rounded(t + Fraction(bias[c].item()))
        t = rounded(
            t + rounded(Fraction(int(accs[1][y, x, c])) * Fraction(terms[1].scale[c].item()))
        )
        for residual, (codes, value) in zip(residuals, sources[2:], strict=True):
            number = Fraction(int(codes[y, x, c]) - value.zero_point)
            t = rounded(t + rounded(number * Fraction(residual.scale)))
        if bits is not None:
            t = min(max(floor(rounded(t + Fraction(1, 2))), 0), 2**bits - 1)
        assert Fraction(out[y, x, c].item()) == t


def test_ties_round_up_and_the_half_is_added_in_float32():
    one = np.ones((1, 1, 1, 1), np.uint8)  # form 2, 1 bit: weight +1
    for bias, code in ((0.5, 1), (1.5, 2), (0.49999997, 1), (0.4999999, 0), (-0.5, 0), (9, 3)):
        term = Term('x', one, np.ones(1, f32), 1)
        op = BitConv('y', (term,), np.array([bias], f32), 2)
        zero = (np.zeros((1, 1, 1), np.uint8), Value('codes', 1, 1))
        assert op.run(zero, grid=None).item() == code, bias


def test_image_codes_reorder_and_look_up():
    tables = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2]).astype(np.uint8)
    op = ops.ImageCodes('x', tables, (2, 1, 0))
    image = np.array([[[10, 20, 30], [255, 0, 1]]], np.uint8)
    out = reference.run(Graph((op,)), image)['x']
    assert out.tolist() == [[[30, 235, 5], [1, 255, 127]]]


def pool_taps(op, y: int, x: int, h: int, w: int) -> list[tuple[int, int]]:
    dilation = getattr(op, 'dilation', (1, 1))
    rows = [y * op.stride[0] - op.padding[0] + i * dilation[0] for i in range(op.kernel[0])]
    columns = [x * op.stride[1] - op.padding[1] + i * dilation[1] for i in range(op.kernel[1])]
    return [(r, c) for r in rows for c in columns if 0 <= r < h and 0 <= c < w]


def run_on(op, codes: np.ndarray, value: Value, image=(64, 64)) -> np.ndarray:
    op.output(value)
    return reference.run_op(op, [(codes, value)], op.grid(image, codes.shape[:2]))


@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding', 'dilation'),
    [
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((2, 3), (2, 1), (1, 0), (1, 2)),
        ((1, 1), (3, 3), (0, 0), (1, 1)),
        ((2, 2), (2, 2), (1, 1), (2, 2)),
    ],
)
@pytest.mark.parametrize('shape', [(1, 5, 3), (6, 7, 65)])
def test_max_pool(shape, kernel, stride, padding, dilation, ceil_mode):
    op = ops.MaxPool('y', 'x', kernel, stride, padding, dilation, ceil_mode)
    codes = random_codes(shape, 3)
    out = run_on(op, codes, Value('codes', shape[2], 3, 4))
    for y, x in np.ndindex(out.shape[:2]):
        taps = [codes[tap] for tap in pool_taps(op, y, x, *shape[:2])]
        expected = np.max(taps, axis=0) if taps else np.zeros(shape[2], np.uint8)
        np.testing.assert_array_equal(out[y, x], expected)


def mean_code(numbers: list[int], count: int, A: float, B: float, bits: int) -> int:
    mean = f32(sum(numbers)) / f32(count)
    t = f32(f32(mean * f32(A)) + f32(B))
    return int(np.clip(np.floor(f32(t + f32(0.5))), 0, 2**bits - 1))


@pytest.mark.parametrize('count_include_pad', [False, True])
@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding'),
    [((3, 3), (2, 2), (1, 1)), ((2, 3), (3, 1), (1, 0)), ((1, 2), (1, 1), (0, 1))],
)
def test_avg_pool(kernel, stride, padding, ceil_mode, count_include_pad):
    A, B = f32(1.3).item(), f32(1.1).item()
    op = ops.AvgPool('y', 'x', kernel, stride, A, B, 3, 1, padding, ceil_mode, count_include_pad)
    h, w = 6, 7
    codes, value = random_codes((h, w, 3), 4), Value('codes', 3, 4, 6)
    out = run_on(op, codes, value)
    for y, x, c in np.ndindex(out.shape):
        numbers = [int(codes[tap][c]) - 6 for tap in pool_taps(op, y, x, h, w)]
        y0, x0 = y * stride[0] - padding[0], x * stride[1] - padding[1]
        padded = (min(y0 + kernel[0], h + padding[0]) - y0) * (
            min(x0 + kernel[1], w + padding[1]) - x0
        )
        count = padded if count_include_pad else len(numbers)
        assert out[y, x, c] == mean_code(numbers, count, A, B, 3)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (6, 6), (9, 4)])
@pytest.mark.parametrize('shape', [(1, 1, 2), (5, 7, 3), (6, 12, 1)])
def test_adaptive_avg_pool(shape, size):
    A, B = f32(0.9).item(), f32(2).item()
    op = ops.AdaptiveAvgPool('y', 'x', size, A, B, 4, 2)
    codes, value = random_codes(shape, 8), Value('codes', shape[2], 8, 100)
    out = run_on(op, codes, value)
    for y, x, c in np.ndindex(out.shape):
        rows = range(floor(y * shape[0] / size[0]), ceil((y + 1) * shape[0] / size[0]))
        columns = range(floor(x * shape[1] / size[1]), ceil((x + 1) * shape[1] / size[1]))
        numbers = [int(codes[r, s, c]) - 100 for r in rows for s in columns]
        assert out[y, x, c] == mean_code(numbers, len(numbers), A, B, 4)


def source_position(i: int, size: int, out: int, mode: str) -> tuple[int, int, f32]:
    if mode == 'align_corners':
        p = f32((f32(size - 1) / f32(out - 1) if out > 1 else f32(0)) * f32(i))
    else:
        p = f32(f32(f32(size) / f32(out)) * f32(i + 0.5)) - f32(0.5)
        p = max(p, f32(0))
    low = min(floor(p), size - 1)
    return low, min(low + 1, size - 1), min(f32(p - f32(low)), f32(1))


def interpolate_slowly(array: np.ndarray, out: tuple[int, int], mode: str) -> np.ndarray:
    def lerp(a: f32, b: f32, fraction: f32) -> f32:
        return f32(a + f32(f32(b - a) * fraction))

    h, w, channels = array.shape
    result = np.empty((*out, channels), f32)
    for y, x, c in np.ndindex(result.shape):
        if mode == 'nearest':
            sy = min(floor(f32(f32(h) / f32(out[0])) * f32(y)), h - 1)
            sx = min(floor(f32(f32(w) / f32(out[1])) * f32(x)), w - 1)
            result[y, x, c] = array[sy, sx, c]
            continue
        y0, y1, ly = source_position(y, h, out[0], mode)
        x0, x1, lx = source_position(x, w, out[1], mode)
        top = lerp(array[y0, x0, c], array[y0, x1, c], lx)
        bottom = lerp(array[y1, x0, c], array[y1, x1, c], lx)
        result[y, x, c] = lerp(top, bottom, ly)
    return result


@pytest.mark.parametrize('mode', ops.RESIZE_MODES)
@pytest.mark.parametrize('size', [(1, 1), (5, 3), (10, 6), (7, 11), (2, 2), (23, 9)])
@pytest.mark.parametrize('shape', [(1, 1, 2), (5, 3, 4)])
def test_resize_of_scores_is_the_documented_formula(shape, size, mode):
    scores = np.random.default_rng(1).normal(0, 10, shape).astype(f32)
    op = ops.Resize('y', 'x', mode, size=size)
    out = run_on(op, scores, Value('scores', shape[2]))
    np.testing.assert_array_equal(out, interpolate_slowly(scores, size, mode))


@pytest.mark.parametrize('mode', ops.RESIZE_MODES)
def test_resize_of_codes_requantizes(mode):
    A, B = f32(0.4).item(), f32(1.25).item()
    op = ops.Resize('y', 'x', mode, factor=(2, 3), A=A, B=B, bits=2, zero_point=1)
    codes = random_codes((3, 4, 5), 4)
    out = run_on(op, codes, Value('codes', 5, 4, 3))
    numbers = interpolate_slowly(codes.astype(f32) - 3, (6, 12), mode)
    for index in np.ndindex(out.shape):
        assert out[index] == mean_code([numbers[index]], 1, A, B, 2)


def test_resize_keeps_a_constant_exactly():
    op = ops.Resize('y', 'x', size=(17, 31))
    out = run_on(op, np.full((5, 7, 2), 0.1, f32), Value('scores', 2))
    np.testing.assert_array_equal(out, np.full((17, 31, 2), 0.1, f32))


@pytest.mark.parametrize('dilation', [0, 1, 2])
def test_mask_adds_near_boundaries_only(dilation):
    """The boundary as a 3x3 maximum and minimum, then dilated step by step."""
    rng = np.random.default_rng(dilation)
    up = rng.normal(0, 1, (4, 5, 3)).repeat(3, axis=0).repeat(3, axis=1).astype(f32)
    fine = rng.normal(0, 1, up.shape).astype(f32)
    op = ops.Mask('y', 'up', 'fine', dilation)
    value = Value('scores', 3)
    out = reference.run_op(op, [(up, value), (fine, value)], up.shape[:2])
    labels = up.argmax(-1)
    h, w = labels.shape

    def window(array, y, x):
        return array[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]

    masked = np.zeros((h, w), bool)
    for y, x in np.ndindex(h, w):
        masked[y, x] = window(labels, y, x).max() != window(labels, y, x).min()
    for _ in range(dilation):
        masked = np.array([[window(masked, y, x).any() for x in range(w)] for y in range(h)])
    assert masked.any()
    np.testing.assert_array_equal(out, np.where(masked[..., None], up + fine, up))


def test_arg_max_takes_the_first_largest_at_the_images_size():
    scores = np.array([[[1, 3, 3], [2, 2, 1]]], f32)
    op = ops.ArgMax('y', 'x', 'nearest')
    labels = run_on(op, scores, Value('scores', 3), image=(2, 4))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_table_add_and_concat():
    codes, value = random_codes((2, 3, 4), 2), Value('codes', 4, 2)
    out = run_on(ops.Table('y', 'x', np.array([3, 0, 2, 1], np.uint8), 2), codes, value)
    np.testing.assert_array_equal(out, np.array([3, 0, 2, 1])[codes])
    a = np.array([[[0.1, 1e8]]], f32)
    scores = Value('scores', 2)
    out = reference.run_op(ops.Add('y', ('a', 'a')), [(a, scores), (a, scores)], (1, 1))
    np.testing.assert_array_equal(out, a + a)
    joined = [(codes, value), (codes[..., :1], value)]
    out = reference.run_op(ops.Concat('y', ('a', 'b')), joined, (2, 3))
    np.testing.assert_array_equal(out, np.concatenate([codes, codes[..., :1]], -1))


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (33, 17)])
def test_fast_runs_equal_slow_runs(size):
    for graph in (toy(1), *(random_graph(seed, length=6) for seed in range(4))):
        image = random_image(*size, seed=3)
        slow = reference.run(graph, image)
        quick = reference.run(graph, image, fast.bit_conv_accumulate)
        assert list(slow) == [op.name for op in graph.ops]
        for name, array in slow.items():
            np.testing.assert_array_equal(array, quick[name], err_msg=name)


def test_image_must_be_uint8_rgb():
    with pytest.raises(ValueError, match=r'image must be uint8 \(h, w, 3\) RGB, got float64'):
        reference.run(toy(), np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r'got uint8 \(4, 4\)'):
        reference.run(toy(), np.zeros((4, 4), np.uint8))
