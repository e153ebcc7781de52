"""What mmseg's networks pack to runs in the Triton engine (its interpreter), each map as the oracle's."""

import pytest

from bfcn_kernels.builder import random_image
from bfcn_mm.export import verify

pytest.importorskip('triton')


@pytest.mark.parametrize('name', ['bfcn_conv_mask', 'fcn', 'pspnet', 'deeplabv3plus', 'unet'])
def test_every_map_is_the_oracles(network, name):
    from bfcn_kernels.triton import Engine

    graph, image = network(name)[1].model.graph, random_image(48, 64)
    expected = verify.oracle(graph, image)
    engine = Engine(graph)
    assert verify.first_difference(graph, expected, engine.trace(image)) is None
    assert (engine(image) == expected[graph.output]).all()
