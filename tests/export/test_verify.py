"""The checks must fail when something is wrong, and say what."""

from dataclasses import replace

import numpy as np
import pytest

from bfcn_kernels import Graph, nets
from bfcn_kernels.builder import random_image
from bfcn_mm.export import TorchEngine, verify


@pytest.fixture(scope='module')
def toy():
    graph = nets.toy()
    image = random_image(24, 36)
    return graph, image, verify.oracle(graph, image)


def test_equal_traces_have_no_difference(toy):
    graph, image, expected = toy
    assert verify.first_difference(graph, expected, TorchEngine(graph).trace(image)) is None


def test_the_first_op_that_differs_is_named(toy):
    graph, _, expected = toy
    got = {name: array.copy() for name, array in expected.items()}
    got['depthwise'][2, 1, 0] ^= 1
    got['dilated'][:] ^= 1
    found = verify.first_difference(graph, expected, got)
    assert found.op == 'depthwise'
    assert 'in 1 of' in found.what
    assert '(2, 1, 0)' in found.what


def test_the_last_bit_of_a_score_counts(toy):
    graph, _, expected = toy
    got = dict(expected, fine=expected['fine'].copy())
    got['fine'][0, 0, 0] = np.nextafter(got['fine'][0, 0, 0], np.float32(9))
    assert verify.first_difference(graph, expected, got).op == 'fine'


def test_a_missing_or_misshapen_map_is_named(toy):
    graph, _, expected = toy
    missing = {k: v for k, v in expected.items() if k != 'pool'}
    assert verify.first_difference(graph, expected, missing).what == 'is missing'
    shorter = dict(expected, pool=expected['pool'][:-1])
    assert 'not uint8' in verify.first_difference(graph, expected, shorter).what


def test_a_file_of_another_checkpoint_is_noticed(toy):
    graph = toy[0]
    assert verify.graphs_differ(graph, graph) is None
    at = next(i for i, op in enumerate(graph.ops) if op.name == 'fused')
    bias = graph.ops[at].bias.copy()
    bias[3] += 1
    other = Graph((*graph.ops[:at], replace(graph.ops[at], bias=bias), *graph.ops[at + 1 :]))
    assert verify.graphs_differ(graph, other).op == 'fused'
    renamed = Graph((replace(graph.ops[0], name='other'), *graph.ops[1:]))
    assert verify.graphs_differ(graph, renamed).op == graph.ops[0].name


def test_miou_leaves_out_classes_that_never_occur():
    counts = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert verify.miou(counts) == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)
