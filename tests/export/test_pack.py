"""Whole networks: what is packed computes what was trained."""

import sys

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample

import bfcn_mm
from bfcn_kernels import Model, ops, read, write
from bfcn_kernels.builder import random_image
from bfcn_kernels.ops import BitConv
from bfcn_mm.convert import set_cap
from bfcn_mm.export import TorchEngine, pack, verify

pack_module = sys.modules[pack.__module__]
QUICK = [
    'bfcn_r18',
    'bfcn_conv_mask',
    'bfcn_wide_2_levels',
    'fcn',
    'pspnet',
    'deeplabv3plus',
    'unet',
]
NAMES = [*QUICK, pytest.param('bfcn_r50', marks=pytest.mark.slow)]


def sample_of(image):
    """What mmseg's pipeline makes of an RGB image: BGR pixels and their size."""
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    size = dict(ori_shape=image.shape[:2], img_shape=image.shape[:2])
    return dict(inputs=bgr, data_samples=SegDataSample(metainfo=size))


def image_for(name):
    """Sides that no stride divides, where the network takes them."""
    return random_image(64, 96) if name == 'unet' else random_image(75, 101)


@pytest.mark.parametrize('name', NAMES)
def test_codes_are_those_of_fake_quantization(network, name):
    segmentor, packed = network(name)
    report = verify.FakeQuantReport()
    graph = packed.model.graph
    verify.compare_fake_quant(report, segmentor, graph, packed.origins, sample_of(image_for(name)))
    for op, flips in report.flips.items():
        # A rounding tie crossed by the last bit of a float32: rare, and never in a whole channel.
        assert flips.local <= max(1, 1e-3 * flips.codes), op
        assert flips.error < 1e-4, op
    if not any(flips.local for flips in report.flips.values()):  # else one flip may grow on its way
        assert not any(flips.end_to_end for flips in report.flips.values())
        assert report.pixels_differ <= 1e-3 * report.pixels


@pytest.mark.parametrize('name', NAMES)
def test_every_quantizer_of_the_prediction_has_its_map(network, name):
    packed = network(name)[1]
    values = packed.model.graph.validate()
    rounded = {op.name for op in packed.model.graph.ops if _rounds(op)}
    assert rounded - set(packed.origins) == set()
    for op, origin in packed.origins.items():
        assert values[op].channels == origin.channels


def _rounds(op):
    return isinstance(op, BitConv) or getattr(op, 'bits', None) is not None


@pytest.mark.parametrize('name', NAMES)
def test_torch_engine_equals_the_oracle(network, name):
    graph = network(name)[1].model.graph
    image = image_for(name)
    difference = verify.first_difference(
        graph, verify.oracle(graph, image), TorchEngine(graph).trace(image)
    )
    assert difference is None, difference


def test_maps_are_codes_that_vary(network):
    graph = network('bfcn_r18')[1].model.graph
    maps = verify.oracle(graph, image_for('bfcn_r18'))
    for op in graph.ops:
        if op.name != 'labels':
            assert len(np.unique(maps[op.name])) > 1, op.name


def test_a_projection_shortcut_joins_the_main_accumulator(network):
    ops_by_name = {op.name: op for op in network('bfcn_r18')[1].model.graph.ops}
    joined = ops_by_name['backbone.layer2.0.conv2']
    assert [term.kernel for term in joined.terms] == [(3, 3), (1, 1)]
    assert joined.terms[1].stride == (2, 2)
    assert [r.source for r in ops_by_name['backbone.layer1.0.conv2'].residuals] == [
        'backbone.maxpool'
    ]
    assert 'backbone.layer2.0.downsample.0' not in ops_by_name


def test_masking_keeps_its_dilation(network):
    masks = [op for op in network('bfcn_conv_mask')[1].model.graph.ops if isinstance(op, ops.Mask)]
    assert [mask.dilation for mask in masks] == [2, 2, 2]


def test_a_concat_of_maps_with_different_steps_becomes_terms(network):
    graph = network('fcn')[1].model.graph
    joined = next(op for op in graph.ops if op.name == 'decode_head.conv_cat.conv')
    assert len(joined.terms) == 2
    assert sum(term.weight.shape[3] for term in joined.terms) == 64 + 16


def test_the_file_gives_back_graph_and_metadata(segmentor_of, tmp_path):
    segmentor = segmentor_of('bfcn_wide_2_levels', w=2, a=2)
    palette = [[i, i, i] for i in range(5)]
    packed = pack(segmentor, 'abcde', palette, train_config='x = 1', name='tiny')
    write(tmp_path / 'tiny.gguf', packed.model)
    model = read(tmp_path / 'tiny.gguf')
    assert isinstance(model, Model)
    assert verify.graphs_differ(packed.model.graph, model.graph) is None
    meta = model.metadata
    assert (meta.classes, meta.palette[3], meta.train_config) == (
        tuple('abcde'),
        (3, 3, 3),
        'x = 1',
    )
    assert (meta.weight_bits, meta.activation_bits) == (2, 2)
    np.testing.assert_allclose(meta.mean, [123.675, 116.28, 103.53], rtol=1e-6)


def test_bits_are_those_in_force(segmentor_of, monkeypatch):
    lines = []
    monkeypatch.setattr(pack_module, 'print_log', lambda line, **_: lines.append(line))
    decay = dict(stages=[8, 4, 1], every=1)
    segmentor = segmentor_of('bfcn_wide_2_levels', w=1, a=2, decay=decay)
    metadata = pack(segmentor).model.metadata
    assert (metadata.weight_bits, metadata.activation_bits) == (1, 2)
    assert not lines
    set_cap(segmentor, 4)
    with torch.no_grad():
        segmentor.train().decode_head.forward(segmentor.extract_feat(torch.rand(2, 3, 64, 64)))
    packed = pack(segmentor.eval())
    metadata = packed.model.metadata
    assert (metadata.weight_bits, metadata.activation_bits) == (4, 4)
    weights = {t.bits for op in packed.model.graph.ops for t in getattr(op, 'terms', ())}
    assert 4 in weights
    (line,) = lines
    assert 'middle of bit-width decay: packed at 4-bit weights and 4-bit activations' in line
    assert 'training ends at 1 and 2' in line


def test_bits_of_an_auxiliary_head_are_none_of_the_prediction(segmentor_of):
    segmentor = segmentor_of('bfcn_wide_2_levels', w=4, a=4)
    segmentor.auxiliary_head = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    bfcn_mm.quantize_(segmentor.auxiliary_head, w=1, a=1, example=torch.rand(1, 3, 4, 4))
    metadata = pack(segmentor).model.metadata
    assert (metadata.weight_bits, metadata.activation_bits) == (4, 4)


def test_a_network_that_reads_bgr_gets_it(segmentor_of):
    bgr = dict(type='SegDataPreProcessor', mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])
    packed = pack(segmentor_of('bfcn_wide_2_levels', preprocessor=bgr))
    assert packed.model.graph.ops[0].order == (2, 1, 0)
    assert packed.model.metadata.mean == (3.0, 2.0, 1.0)


@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
@pytest.mark.parametrize('bits', [dict(w=3, a=3), dict(w=4, a=4, residual=8), dict(w=1, a=1)])
def test_other_bits_and_methods(segmentor_of, bits, method):
    segmentor = segmentor_of('bfcn_wide_2_levels', method=method, **bits)
    packed = pack(segmentor)
    report = verify.FakeQuantReport()
    image = image_for('bfcn')
    verify.compare_fake_quant(
        report, segmentor, packed.model.graph, packed.origins, sample_of(image)
    )
    assert sum(f.codes for f in report.flips.values()) > 10_000
    for op, flips in report.flips.items():
        assert flips.local <= max(1, 1e-3 * flips.codes), op
        assert flips.error < 1e-4, op
