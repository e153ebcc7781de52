"""Every rule of the graph has a name: what breaks it is told by layer, rule and value."""

from dataclasses import replace

import numpy as np
import pytest

from bfcn_kernels import ops
from bfcn_kernels.builder import random_image
from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import toy
from bfcn_kernels.ops import BitConv, Residual, Term
from bfcn_kernels.ops.bit_conv import accumulate
from bfcn_kernels.reference import run
from bfcn_kernels.testing import random_graph
from bfcn_kernels.values import GraphError, Value

f32 = np.float32
PIXELS = ops.ImageCodes('pixels', np.zeros((3, 256), np.uint8))


def term(source: str = 'pixels', shape=(4, 3, 3, 3), bits: int = 2, **changes) -> Term:
    weight = np.zeros(shape, np.uint8)
    return replace(Term(source, weight, np.ones(shape[0], f32), bits), **changes)


def conv(name: str, *terms: Term, bits: int | None = 2, **changes) -> BitConv:
    terms = terms or (term(padding=(1, 1)),)
    return replace(BitConv(name, terms, np.zeros(len(terms[0].weight), f32), bits), **changes)


def scores(name: str, source: str = 'pixels', classes: int = 2) -> BitConv:
    return conv(name, term(source, (classes, 1, 1, 3)), bits=None)


def window(**changes) -> ops.MaxPool:
    return replace(ops.MaxPool('y', 'pixels', (3, 3), (2, 2)), **changes)


BROKEN = {
    'no ops': ((), r'number of ops must be an int in 1\.\.4096, got 0'),
    'name': ((replace(PIXELS, name='a b'),), "layer 'a b': a name must be 1..48 of"),
    'long name': ((replace(PIXELS, name='x' * 49),), 'a name must be 1..48 of'),
    'reserved name': ((replace(PIXELS, name='image'),), "not 'image'"),
    'same name': ((PIXELS, conv('pixels')), "layer 'pixels': names must be distinct"),
    'order': (
        (conv('y'), PIXELS),
        "layer 'y': source 'pixels' must be written by an earlier op or be the image",
    ),
    'self': ((PIXELS, conv('y', term('y'))), "layer 'y': source 'y' must be written by an earlier"),
    'unread': (
        (PIXELS, conv('x'), conv('y')),
        "layer 'x': its value must be read by a later op",
    ),
    'image read': (
        (conv('y', term('image')),),
        "source 'image' must be codes, got image with 3 channels",
    ),
    'image order': ((replace(PIXELS, order=(0, 1, 3)),), r'order must be an int in 0\.\.2, got 3'),
    'table entry': (
        (replace(PIXELS, tables=np.full((3, 256), 9, np.uint8), bits=3),),
        r'tables must hold codes in 0\.\.7, got 9',
    ),
    'zero point': ((replace(PIXELS, zero_point=256),), r'zero_point must be an int in 0\.\.255'),
    'code bits': ((PIXELS, conv('y', bits=9)), r'bits must be an int in 1\.\.8, got 9'),
    'no terms': ((PIXELS, conv('y', terms=())), r'number of terms must be an int in 1\.\.16'),
    'weight bits': (
        (PIXELS, conv('y', term(bits=0))),
        r'weight bits must be an int in 1\.\.8, got 0',
    ),
    'weight form': ((PIXELS, conv('y', term(form=3))), 'weight form must be 1 or 2, got 3'),
    '1-bit form': (
        (PIXELS, conv('y', term(bits=1, form=1))),
        r'1-bit weights must have form 2 \(bipolar\), got 1',
    ),
    'weight code': (
        (PIXELS, conv('y', term(weight=np.full((4, 3, 3, 3), 4, np.uint8)))),
        r'weight must hold codes in 0\.\.3, got 4',
    ),
    'weight shape': (
        (PIXELS, conv('y', term(shape=(4, 3, 3, 2)))),
        r'weight must be uint8 \(4, 3, 3, 3\), got uint8 \(4, 3, 3, 2\)',
    ),
    'stride': ((PIXELS, conv('y', term(stride=(1, 0)))), r'stride must be an int in 1\.\.4096'),
    'padding': ((PIXELS, conv('y', term(padding=(-1, 0)))), r'padding must be an int in 0\.\.4096'),
    'groups': (
        (PIXELS, conv('y', term(groups=2))),
        'groups must divide 3 source and 4 output channels, got 2',
    ),
    'scale': (
        (PIXELS, conv('y', term(scale=np.array([1, np.nan, 1, 1], f32)))),
        r'scale must be finite and at most 2\^60, got nan in channel 1',
    ),
    'bias': (
        (PIXELS, conv('y', bias=np.full(4, 2.0**61, f32))),
        r'B must be finite and at most 2\^60',
    ),
    'bias type': ((PIXELS, conv('y', bias=np.zeros(4))), r'B must be float32 \(4,\), got float64'),
    'residual kind': (
        (PIXELS, scores('s', classes=4), conv('y', residuals=(Residual('s', 1.0),))),
        "residual 's' must be codes, got scores with 4 channels",
    ),
    'residual channels': (
        (PIXELS, conv('y', residuals=(Residual('pixels', 1.0),))),
        "residual 'pixels' must have 4 channels, got codes of 8 bits",
    ),
    'residual scale': (
        (PIXELS, conv('x'), conv('y', residuals=(Residual('x', 0.1),))),
        r'R must be a float32, got 0\.1',
    ),
    'scores with a zero point': (
        (PIXELS, conv('y', bits=None, zero_point=1)),
        'scores have no zero point, got 1',
    ),
    'table length': (
        (PIXELS, ops.Table('y', 'pixels', np.zeros(4, np.uint8), 2)),
        r'table must be uint8 \(256,\), got uint8 \(4,\)',
    ),
    'pool padding': (
        (PIXELS, window(padding=(2, 0))),
        r'padding must be at most half the kernel \(3, 3\), got \(2, 0\)',
    ),
    'pool kernel': ((PIXELS, window(kernel=(0, 1))), r'kernel must be an int in 1\.\.4096, got 0'),
    'adaptive size': (
        (PIXELS, ops.AdaptiveAvgPool('y', 'pixels', (0, 1), 1.0, 0.0, 2)),
        r'size must be an int in 1\.\.32768, got 0',
    ),
    'residual not finite': (
        (PIXELS, conv('x'), conv('y', residuals=(Residual('x', float('nan')),))),
        r'R must be finite and at most 2\^60, got nan',
    ),
    'average not finite': (
        (PIXELS, ops.AvgPool('y', 'pixels', (2, 2), (2, 2), 1.0, float('-inf'), 2)),
        'B must be finite and at most 2.*, got -inf',
    ),
    'resize not finite': (
        (PIXELS, ops.Resize('y', 'pixels', size=(1, 1), A=float('nan'), bits=2)),
        'A must be finite and at most 2.*, got nan',
    ),
    'average coefficient': (
        (PIXELS, ops.AdaptiveAvgPool('y', 'pixels', (1, 1), float('inf'), 0.0, 2)),
        'A must be finite',
    ),
    'two targets': (
        (PIXELS, ops.Resize('y', 'pixels', size=(1, 1), factor=(2, 2), bits=2)),
        r"one of like, size, factor must be given, got \['size', 'factor'\]",
    ),
    'resize mode': (
        (PIXELS, ops.Resize('y', 'pixels', 'cubic', size=(1, 1), bits=2)),
        "mode must be in .*, got 'cubic'",
    ),
    'scores requantized': (
        (PIXELS, scores('s'), ops.Resize('y', 's', size=(1, 1), bits=2)),
        'a resize of scores must have A 1, B 0 and no bits',
    ),
    'codes added': (
        (PIXELS, ops.Add('y', ('pixels', 'pixels'))),
        'source must be scores, got codes',
    ),
    'one added': (
        (PIXELS, scores('s'), ops.Add('y', ('s',))),
        'sources must be two scores, got 1 values',
    ),
    'channels added': (
        (PIXELS, scores('s'), scores('r', classes=3), ops.Add('y', ('s', 'r'))),
        'sources must have equal channels, got 2 and 3',
    ),
    'concat of grids': (
        (PIXELS, conv('x'), ops.Concat('y', ('pixels', 'x'))),
        'sources must share bits and zero point, .* use a bit_conv of several terms instead',
    ),
    'mask dilation': (
        (PIXELS, scores('s'), ops.Mask('y', 's', 's', -1)),
        r'dilation must be an int in 0\.\.4096, got -1',
    ),
    'argmax of codes': ((PIXELS, ops.ArgMax('y', 'pixels')), 'source must be scores, got codes'),
    'argmax of many': (
        (PIXELS, scores('s', classes=257), ops.ArgMax('y', 's')),
        'classes must be at most 256, got 257',
    ),
    'argmax inside': (
        (PIXELS, scores('s'), ops.ArgMax('y', 's'), ops.Resize('z', 's', like='y')),
        "layer 'y': an argmax must be the last op",
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_rule_is_named(case):
    broken, message = BROKEN[case]
    with pytest.raises(GraphError, match=message):
        Graph(tuple(broken)).validate()


def test_the_accumulator_must_fit_int32():
    """K * (2**m - 1) * (2**n - 1): 33025 taps of 8-bit times 8-bit still fit, 33026 do not."""
    taps = (2**31 - 2) // 255**2
    for channels, fits in ((taps, True), (taps + 1, False)):
        source = Value('codes', channels, 8)
        weight = np.zeros((1, 1, 1, channels), np.uint8)
        op = BitConv('y', (Term('x', weight, np.ones(1, f32), 8),), np.zeros(1, f32), 2)
        if fits:
            assert op.terms[0].bound(source) == taps * 255**2
            op.output(source)
        else:
            with pytest.raises(GraphError, match='accumulator may reach 2147515650, more than'):
                op.output(source)


def test_the_bound_is_reached():
    """Extreme weights on extreme codes give exactly the bound, in both forms and around zp."""
    for form, zero_point in ((2, 0), (1, 0), (2, 6), (1, 2)):
        source = Value('codes', 5, 3, zero_point)
        code = 0 if zero_point > 3 else 7
        low = Term('x', np.zeros((1, 1, 1, 5), np.uint8), np.ones(1, f32), 4, form)
        acc = accumulate(low, np.full((1, 1, 5), code, np.uint8), source)
        assert abs(acc.item()) == low.bound(source)


GRIDS = {
    'empty map': ((PIXELS, conv('y', term())), (2, 9), r"layer 'y': sides must be .*\(0, 7\)"),
    'residual grid': (
        (
            PIXELS,
            conv('x', term(padding=(1, 1))),
            conv('y', term(stride=(2, 2)), residuals=(Residual('x', 1.0),)),
        ),
        (9, 9),
        r"residual 'x' must have the grid \(4, 4\), got \(9, 9\)",
    ),
    'term grid': (
        (PIXELS, conv('y', term(), term(padding=(1, 1)))),
        (5, 6),
        r"term from 'pixels' must have the grid \(3, 4\), got \(5, 6\)",
    ),
    'large map': (
        (PIXELS, ops.Resize('y', 'pixels', factor=(64, 1), bits=2)),
        (600, 1),
        r'sides must be in 1\.\.32768, got \(38400, 1\) for the image \(600, 1\)',
    ),
    'large image': ((PIXELS,), (40000, 1), r'image height must be an int in 1\.\.32768, got 40000'),
}  # fmt: skip


@pytest.mark.parametrize('case', GRIDS)
def test_a_wrong_grid_is_named(case):
    broken, image, message = GRIDS[case]
    graph = Graph(tuple(broken))
    graph.validate()
    with pytest.raises(GraphError, match=message):
        graph.shapes(*image)


@pytest.mark.parametrize('seed', range(6))
def test_values_and_shapes_are_what_runs(seed):
    graph = toy() if seed == 0 else random_graph(seed, length=8)
    values, grids = graph.validate(), graph.shapes(19, 30)
    for name, array in run(graph, random_image(19, 30)).items():
        value = values[name]
        shape = grids[name] if value.kind == 'labels' else (*grids[name], value.channels)
        assert array.shape == shape
        assert array.dtype == (np.float32 if value.kind == 'scores' else np.uint8)
        if value.kind == 'codes':
            assert array.max() < 2**value.bits


def test_peak_bytes_counts_what_lives_together():
    """pixels (3 bytes) + x (2 planes of a word) live together, then x + y (4 bytes); y is last."""
    graph = Graph((PIXELS, conv('x', term(shape=(64, 1, 1, 3))), scores_of('y', 'x', 64)))
    assert graph.last_reads() == {'image': 0, 'pixels': 1, 'x': 2, 'y': 2}
    assert graph.peak_bytes(5, 7) == 35 * max(3 + 16, 16 + 4)


def scores_of(name: str, source: str, channels: int) -> BitConv:
    return conv(name, term(source, (1, 1, 1, channels)), bits=None)
