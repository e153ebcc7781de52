"""Graph records: what is written is read back, and a record that lies is refused by name."""

from dataclasses import fields

import numpy as np
import pytest

from bfcn_kernels import ops
from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import toy
from bfcn_kernels.ops import BitConv
from bfcn_kernels.records import decode, encode
from bfcn_kernels.testing import random_graph
from bfcn_kernels.values import GraphError

f32 = np.float32


def assert_equal(a, b) -> None:
    """Two ops, terms or residuals equal in every field, arrays included."""
    assert type(a) is type(b)
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        elif field.name in ('terms', 'residuals'):
            for left, right in zip(x, y, strict=True):
                assert_equal(left, right)
        else:
            assert x == y, field.name


def reader(tensors: dict[str, np.ndarray]):
    def tensor(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        array = tensors[name]
        assert (array.dtype, array.shape) == (dtype, shape)
        return array

    return tensor


@pytest.mark.parametrize('seed', range(20))
def test_decode_inverts_encode(seed):
    graph = toy() if seed == 0 else random_graph(seed)
    words, tensors = encode(graph)
    again = decode(words, [op.name for op in graph.ops], reader(tensors))
    for a, b in zip(graph.ops, again.ops, strict=True):
        assert_equal(a, b)


def small() -> Graph:
    """pixels (words 0..8), pooled (9..24), scores (25..44), up (45..57), labels (58..65)."""
    from bfcn_kernels.builder import Builder

    net = Builder(0, (8, 8))
    net.image_codes('pixels')
    net.add(ops.MaxPool('pooled', 'pixels', (2, 2), (2, 2)))
    net.conv('scores', [net.term('pooled', 4, 3, bits=2)], None)
    net.add(ops.Resize('up', 'scores', factor=(2, 2)))
    net.add(ops.ArgMax('labels', 'up'))
    return net.graph()


def test_words_are_the_documented_ones():
    words, tensors = encode(small())
    one = f32(1).view(np.int32).item()
    expected = [
        [1, 9, 1, 3, 8, 0, 2, 1, 0],
        [4, 16, 1, 3, 8, 0, 1, 2, 2, 2, 2, 0, 0, 1, 1, 0],
        [2, 20, 2, 4, 0, 0, 1, 0, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 2, 2],
        [7, 13, 2, 4, 0, 0, 3, 1, 2, 2, 2, one, 0],
        [11, 8, 3, 4, 0, 0, 4, 1],
    ]
    assert words.tolist() == [word for record in expected for word in record]
    assert {name: array.shape for name, array in tensors.items()} == {
        'pixels.table': (3, 256),
        'scores.B': (4,),
        'scores.weight': (4, 2, 1),
        'scores.A': (4,),
    }


LIES = {
    'opcode': (0, 12, r"layer 'pixels': opcode must be an int in 1\.\.11, got 12"),
    'short record': (1, 8, "layer 'pixels': record must hold order, got 8 words"),
    'long record': (1, 10, "layer 'pixels': record must end after 9 words, got 10"),
    'length below a header': (10, 5, r"layer 'pooled': record length must be an int in 6\.\.57"),
    'length past the end': (59, 9, r"layer 'labels': record length must be an int in 6\.\.8"),
    'kind': (2, 2, r"layer 'pixels': bits must be an int in 0\.\.0, got 8"),
    'unknown kind': (2, 4, r'kind must be an int in 1\.\.3, got 4'),
    'channels': (12, 4, "'pooled': must be described as .* 3 channels, got .* 4 channels"),
    'no channels': (28, 0, r"'scores': channels must be an int in 1\.\.65536, got 0"),
    'bits': (13, 7, "'pooled': must be described as codes of 8 bits, .* got codes of 7 bits"),
    'bits of scores': (29, 1, r"'scores': bits must be an int in 0\.\.0, got 1"),
    'source after': (15, 2, r"'pooled': source must be an int in 0\.\.1, got 2"),
    'negative source': (15, -1, r"'pooled': source must be an int in 0\.\.1, got -1"),
    'source of the wrong kind': (15, 0, "'pooled': source must be codes, got image"),
    'flag': (24, 2, r"'pooled': ceil must be an int in 0\.\.1, got 2"),
    'terms': (31, 17, r"'scores': terms must be an int in 1\.\.16, got 17"),
    'more terms than words': (31, 2, "'scores': record must hold source, got 20 words"),
    'kernel': (34, 0, r"'scores': kernel must be an int in 1\.\.4096, got 0"),
    'groups': (42, 5, "'scores': groups must divide 3 source and 4 output channels, got 5"),
    'mode': (52, 3, r"'up': mode must be an int in 0\.\.2, got 3"),
    'target': (53, 3, r"'up': target must be an int in 0\.\.2, got 3"),
    'A': (56, f32(2).view(np.int32), "'up': a resize of scores must have A 1, B 0 and no bits"),
}


@pytest.mark.parametrize('lie', LIES)
def test_a_record_that_lies_is_refused(lie):
    graph = small()
    words, tensors = encode(graph)
    position, word, message = LIES[lie]
    words[position] = word
    with pytest.raises(GraphError, match=message):
        decode(words, [op.name for op in graph.ops], reader(tensors))


def test_words_and_names_must_match():
    graph = small()
    words, tensors = encode(graph)
    names = [op.name for op in graph.ops]
    with pytest.raises(GraphError, match='graph must end at word 66, got 67'):
        decode(np.append(words, np.int32(0)), names, reader(tensors))
    with pytest.raises(GraphError, match="layer 'more': record must have 6 words, got 0 left"):
        decode(words, [*names, 'more'], reader(tensors))
    with pytest.raises(GraphError, match="layer 'pixels': names must be distinct"):
        decode(words, ['pixels', 'pixels', *names[2:]], reader(tensors))


def test_padding_bits_of_weights_must_be_zero():
    graph = small()
    words, tensors = encode(graph)
    tensors['scores.weight'][1, 1, 0] |= np.uint64(1 << 27)
    with pytest.raises(GraphError, match=r"tensor 'scores\.weight': bits past code 27 must be 0"):
        decode(words, [op.name for op in graph.ops], reader(tensors))


def test_terms_never_collide_with_ops_of_similar_names():
    """Term 1 of `block` and an op called `block.1` both have weights of their own."""
    from bfcn_kernels.builder import Builder

    net = Builder(0, (8, 8))
    net.image_codes('pixels')
    net.conv('block.1', [net.term('pixels', 3)], 2)
    net.conv('block', [net.term('block.1', 3), net.term('pixels', 3, 3)], 2)
    words, tensors = encode(net.graph())
    assert len(tensors) == 1 + 3 + 5
    again = decode(words, ['pixels', 'block.1', 'block'], reader(tensors))
    assert isinstance(again.ops[2], BitConv)
    assert_equal(net.graph().ops[2], again.ops[2])
