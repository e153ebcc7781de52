"""What verify accepts: rounding ties, and nothing that a broken export gives."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample

from bfcn_kernels import Graph, ops
from bfcn_kernels.builder import random_image
from bfcn_kernels.ops import BitConv
from bfcn_mm.export import verify
from bfcn_mm.export.verdict import judge
from bfcn_mm.export.verify import FakeQuantReport, Flips

NAME = 'bfcn_wide_2_levels'


def report(**changes):
    flips = dict(
        conv=Flips(codes=100_000, end_to_end=90, local=7), score=Flips(error=1e-6, largest=3.0)
    )
    given = dict(flips=flips, pixels=10_000, pixels_differ=20, scores=50_000, scores_differ=5)
    return FakeQuantReport(**(given | changes))


def failed(report, **limits):
    return [verdict.name for verdict in judge(report, **limits) if not verdict.passed]


def test_rounding_ties_pass():
    verdicts = judge(report())
    assert [v.name for v in verdicts] == ['finite', 'codes', 'scores', 'labels']
    assert all(v.passed for v in verdicts)
    assert str(verdicts[3]).startswith('PASS labels: 0.2 % of the pixels differ, the limit is 1 %')


def test_each_criterion_fails_by_itself():
    codes = dict(conv=Flips(codes=100_000, local=51))
    assert failed(report(flips=codes)) == ['codes']
    assert failed(report(flips=dict(conv=Flips(codes=10, local=1)))) == []  # one code may
    assert failed(report(flips=dict(conv=Flips(codes=10, local=2)))) == ['codes']
    assert failed(report(flips=dict(c=Flips(codes=9), s=Flips(error=1e-3, largest=1.0)))) == [
        'scores'
    ]
    assert failed(report(scores_differ=26)) == ['scores']
    assert failed(report(pixels_differ=101)) == ['labels']
    assert failed(report(not_finite=['backbone.relu'])) == ['finite']
    assert failed(FakeQuantReport()) == ['codes', 'scores', 'labels']


def test_the_worst_op_is_named():
    flips = dict(good=Flips(codes=100_000, local=45), bad=Flips(codes=2_000, local=5))
    text = str(judge(report(flips=flips))[1])
    assert text.startswith('FAIL codes: 5 of 2000 (0.25 %) differ by themselves in bad')


def test_limits_can_be_set():
    assert failed(report(), tolerance=0.1) == ['labels']
    assert failed(report(), tolerance=0.2) == []
    assert failed(report(), max_flips=0.001) == ['codes', 'scores']
    assert failed(report(pixels_differ=9_000), tolerance=100) == []


@pytest.fixture(scope='module')
def trial(network):
    """A function graph -> names of failed criteria, for the same segmentor and images."""
    segmentor, packed = network(NAME)

    def run(graph, segmentor=segmentor):
        made = FakeQuantReport()
        for seed in range(2):
            image = random_image(75, 101, seed)
            bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
            size = dict(ori_shape=image.shape[:2], img_shape=image.shape[:2])
            sample = dict(inputs=bgr, data_samples=SegDataSample(metainfo=size))
            verify.compare_fake_quant(made, segmentor, graph, packed.origins, sample)
        return failed(made)

    return run


def changed(graph, change):
    """The graph with its middle convolution changed."""
    convs = [op for op in graph.ops if isinstance(op, BitConv) and op.bits]
    middle = convs[len(convs) // 2]
    return Graph(tuple(change(op) if op is middle else op for op in graph.ops))


def one_weight(op):
    weight = op.terms[0].weight.copy()
    weight.flat[7] ^= 1
    return replace(op, terms=(replace(op.terms[0], weight=weight), *op.terms[1:]))


def one_bias(op):
    return replace(op, bias=op.bias + (np.arange(len(op.bias)) == 3).astype(np.float32))


def two_percent(op):
    scale = op.terms[0].scale * np.float32(1.02)
    return replace(op, terms=(replace(op.terms[0], scale=scale), *op.terms[1:]))


def test_a_sound_export_passes(trial, network):
    assert trial(network(NAME)[1].model.graph) == []


@pytest.mark.parametrize('change', [one_weight, one_bias, two_percent])
def test_a_broken_export_does_not(trial, network, change):
    assert 'codes' in trial(changed(network(NAME)[1].model.graph, change))


def test_another_interpolation_of_scores_is_no_rounding_tie(trial, network):
    graph = network(NAME)[1].model.graph
    others = [
        replace(op, mode='align_corners') if isinstance(op, ops.Resize) else op for op in graph.ops
    ]
    assert 'scores' in trial(Graph(tuple(others)))


def test_a_nan_in_evaluation_fails_wherever_it_is(trial, network):
    segmentor, packed = network(NAME)
    broken = deepcopy(segmentor)
    with torch.no_grad():
        broken.backbone.bn1.bias[0] = math.nan
    assert 'finite' in trial(packed.model.graph, broken)
