"""The networks that engines are tested and timed on."""

import sys

import numpy as np
import pytest

from bfcn_kernels import fast, ops, reference
from bfcn_kernels.builder import random_image
from bfcn_kernels.gguf_io import read
from bfcn_kernels.make_model import main
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.testing import random_graph


def weights(graph) -> int:
    return sum(term.weight.size for op in graph.ops for term in getattr(op, 'terms', ()))


def test_resnet18_spreads_its_codes():
    """Every level of 2-bit codes is used in every layer, on an image the builder has not seen."""
    graph = resnet_bfcn(18, width=32)
    maps = reference.run(graph, random_image(60, 80, 7), fast.bit_conv_accumulate)
    for name, array in maps.items():
        if name.startswith(('stem', 'layer', 'head')) and array.dtype == np.uint8:
            assert (np.bincount(array.ravel(), minlength=4) / array.size).min() > 0.02, name
    assert len(np.unique(maps['labels'])) > 5


def test_resnet50_has_the_papers_weights_and_file_size(tmp_path, monkeypatch, capsys):
    """34.4 M weights within 1 %; at 1-2 bits and 19 classes at most 4.6 MB in all."""
    pytest.importorskip('gguf')
    path = tmp_path / 'r50.gguf'
    command = f'make_model --net r50 --w 1 --a 2 {path}'
    monkeypatch.setattr(sys, 'argv', command.split())
    main()
    assert str(path.stat().st_size) in capsys.readouterr().out
    assert path.stat().st_size <= 4.6e6
    model = read(path)
    assert weights(model.graph) == pytest.approx(34.4e6, rel=0.01)
    assert (model.metadata.weight_bits, model.metadata.activation_bits) == (1, 2)
    values = model.graph.validate()
    assert values['layer4.2.conv3'].channels == 2048
    assert values['head.0.scores'].channels == 19


def test_depth_must_be_known():
    with pytest.raises(ValueError, match='depth must be 18 or 50, got 34'):
        resnet_bfcn(34)


def test_toy_and_random_graphs_meet_every_op():
    assert {type(op) for op in toy().ops} == set(ops.BY_OPCODE.values())
    met = {type(op) for seed in range(12) for op in random_graph(seed, length=8).ops}
    assert met == set(ops.BY_OPCODE.values())


def test_graphs_are_deterministic():
    for make in (toy, random_graph):
        first, second = make(3), make(3)
        assert [op.name for op in first.ops] == [op.name for op in second.ops]
        image = random_image(13, 17)
        a = reference.run(first, image, fast.bit_conv_accumulate)
        b = reference.run(second, image, fast.bit_conv_accumulate)
        for name, array in a.items():
            np.testing.assert_array_equal(array, b[name], err_msg=name)
