"""load(): one call for every engine, and the oracle as one of them."""

import sys
from types import ModuleType

import numpy as np
import pytest

import bfcn_kernels
from bfcn_kernels import reference
from bfcn_kernels.builder import random_image
from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import toy
from bfcn_kernels.ops import op_name

pytest.importorskip('gguf')


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    bfcn_kernels.write(path, bfcn_kernels.Model(toy()))
    return path


def test_numpy_engine_is_the_oracle(toy_file):
    engine = bfcn_kernels.load(toy_file)
    image = random_image(25, 38, 1)
    expected = reference.run(toy(), image)
    labels = engine(image)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected['labels'])
    np.testing.assert_array_equal(engine.logits, expected['sum'])
    trace = engine.trace(image)
    assert list(trace) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(trace[name], array, err_msg=name)


def test_numpy_engine_reports_what_it_did(toy_file):
    engine = bfcn_kernels.load(toy_file)
    engine(random_image(16, 16))
    small = engine.peak_bytes
    names = [(op.name, op_name(op)) for op in toy().ops]
    assert [(name, kind) for name, kind, _ in engine.profile] == names
    assert names[1] == ('stem', 'bit_conv')
    assert names[-1] == ('labels', 'argmax')
    assert all(seconds >= 0 for *_, seconds in engine.profile)
    engine(random_image(32, 32))
    assert engine.peak_bytes > 3 * small > 0


def test_a_graph_may_end_in_scores(tmp_path):
    graph = Graph(toy().ops[:-1])
    bfcn_kernels.write(tmp_path / 'm.gguf', bfcn_kernels.Model(graph))
    engine = bfcn_kernels.load(tmp_path / 'm.gguf')
    scores = engine(random_image(9, 9))
    np.testing.assert_array_equal(scores, engine.logits)


def test_load_refuses_what_it_does_not_know(toy_file):
    with pytest.raises(ValueError, match="engine must be 'numpy', 'cpu' or 'triton', got 'cuda'"):
        bfcn_kernels.load(toy_file, engine='cuda')
    with pytest.raises(ValueError, match='threads must be an int from 1, got 0'):
        bfcn_kernels.load(toy_file, threads=0)
    with pytest.raises(ValueError, match="one_bit=True is for engine='triton', got engine='numpy'"):
        bfcn_kernels.load(toy_file, one_bit=True)


def test_engines_are_imported_when_asked_for(toy_file, monkeypatch):
    module = ModuleType('bfcn_kernels.triton')
    module.Engine = lambda path, threads, **options: (path, threads, options)
    monkeypatch.setitem(sys.modules, 'bfcn_kernels.triton', module)
    assert bfcn_kernels.load(toy_file, 'triton', threads=3) == (toy_file, 3, {})
    given = bfcn_kernels.load(toy_file, 'triton', one_bit=True)
    assert given == (toy_file, 1, dict(one_bit=True))
