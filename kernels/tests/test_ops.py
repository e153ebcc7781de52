"""What an op needs: this file adds one, and nothing else has to know of it."""

from dataclasses import dataclass

import numpy as np
import pytest

from bfcn_kernels import Graph, GraphError, Model, load, ops, read, write
from bfcn_kernels import values as v
from bfcn_kernels.builder import Builder, random_image
from bfcn_kernels.ops.op import BY_OPCODE, UnaryOp


@pytest.fixture
def invert():
    """The class of a toy op, largest code - q, registered for one test."""

    @ops.register(max(BY_OPCODE) + 1, 'invert')
    @dataclass(frozen=True)
    class Invert(UnaryOp):
        name: str
        source: str

        def output(self, source):
            v.kind('source', source, 'codes')
            return source

        def grid(self, image, source):
            return source

        def record(self, number):
            return [number[self.source]]

        @classmethod
        def read(cls, r, name, tensor, values):
            return cls(name, r.source())

        def run(self, source, grid):
            codes, value = source
            return np.uint8(2**value.bits - 1 - codes)

    yield Invert
    del BY_OPCODE[Invert.opcode]


def test_an_op_is_one_file(invert, tmp_path):
    net = Builder(0, (16, 16))
    net.image_codes('pixels')
    net.conv('codes', [net.term('pixels', 8, 3)], 2)
    net.add(invert('inverted', 'codes'))
    net.conv('scores', [net.term('inverted', 3)], None)
    net.add(ops.ArgMax('labels', 'scores'))
    write(tmp_path / 'x.gguf', Model(net.graph()))
    assert read(tmp_path / 'x.gguf').graph.ops[2] == invert('inverted', 'codes')
    engine, image = load(tmp_path / 'x.gguf'), random_image(9, 13)
    maps = engine.trace(image)
    np.testing.assert_array_equal(maps['inverted'], 3 - maps['codes'])
    np.testing.assert_array_equal(engine(image), maps['labels'])
    assert [opname for _, opname, _ in engine.profile][2] == 'invert'


def test_rules_of_an_op_are_checked(invert):
    net = Builder(0, (16, 16))
    net.image_codes('pixels')
    net.conv('scores', [net.term('pixels', 3)], None)
    with pytest.raises(GraphError, match="layer 'y': source must be codes, got scores"):
        Graph((*net.graph().ops, invert('y', 'scores'))).validate()


def test_an_opcode_is_given_once():
    with pytest.raises(ValueError, match=r"op 'again': name or opcode 1 is taken"):
        ops.register(1, 'again')(ops.Table)
    assert ops.Table.opname == 'table'


def test_an_op_without_its_oracle_cannot_be_made():
    class Half(UnaryOp):
        pass

    with pytest.raises(TypeError, match='abstract'):
        Half()
