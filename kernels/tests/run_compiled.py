"""Run what Triton compiles for sm_80 and sm_90 on the machine of ptx_machine.py, against the oracle.

    python run_compiled.py CASE [SM]      one line: equal, or what differs

In a process of its own: kernels are built for the interpreter or for a GPU when they are imported.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from plane_machine import launch, missing
from ptx_machine import Machine, Memory
from triton.runtime.jit import JITFunction

from bfcn_kernels import Graph, fast, ops, reference
from bfcn_kernels.builder import Builder, random_image
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.testing import random_graph
from bfcn_kernels.triton import tuning
from bfcn_kernels.triton.bit_conv import PackedConv
from bfcn_kernels.triton.codes import Map, form_of, from_codes, storage, to_codes
from bfcn_kernels.triton.engine import _array
from bfcn_kernels.triton.plan import Network, Plan
from bfcn_kernels.triton.plane_conv import PlaneConv
from lab.gpu.resources import compiling

CPU = torch.device('cpu')


@contextmanager
def emulated(sm: int, edit=lambda ptx: ptx) -> Iterator[None]:
    """Launches compile for sm and run on the machine, on CPU tensors. edit: of the PTX before."""
    with compiling(sm):
        compile_only = JITFunction.run

        def run(self, *args, grid, warmup, **kwargs):
            product = compile_only(self, *args, grid=grid, warmup=True, **kwargs)
            given = dict(zip(self.arg_names, args, strict=False)) | kwargs
            leaves = [
                leaf
                for name, kind in product.src.signature.items()
                for leaf in _leaves(kind, given.get(name))
            ]
            tensors = {v.data_ptr(): v for _, v in leaves if isinstance(v, torch.Tensor)}
            memory = [
                (at, v.detach().reshape(-1).view(torch.uint8).numpy()) for at, v in tensors.items()
            ]
            parameters = [_parameter(*leaf) for leaf in leaves] + [bytes(8)] * 2  # no scratch
            ptx = edit(product.asm['ptx'])
            Machine(ptx, Memory(memory), parameters, product.metadata.shared).run(grid)
            return product

        with patch.object(JITFunction, 'run', run):
            yield


def _leaves(kind, value) -> Iterator[tuple[str, object]]:
    """(type, value) of what a kernel is passed; constants are in its code."""
    if isinstance(kind, tuple):
        for part, item in zip(kind, value, strict=True):
            yield from _leaves(part, item)
    elif kind != 'constexpr':
        yield kind, value


def _parameter(kind: str, value) -> bytes:
    if isinstance(value, torch.Tensor):
        return value.data_ptr().to_bytes(8, 'little')
    if kind == 'fp32':
        return np.float32(value).tobytes()
    return int(value).to_bytes(8 if kind == 'i64' else 4, 'little', signed=True)


def compare(
    graph: Graph, image: np.ndarray, sm: int, edit=lambda ptx: ptx, one_bit: bool = False
) -> str:
    """'equal', or the first op whose value is not the oracle's."""
    expected = reference.run(graph, image, fast.bit_conv_accumulate)
    with emulated(sm, edit):
        network = Network(graph, CPU)
        network.wgmma = sm >= 90
        network.planes = network._planes() if one_bit else {}
        plan = Plan(network, 1, *image.shape[:2], traced=True)
        for name, value in plan.trace(torch.from_numpy(image)[None]):
            got = _array(value)
            if got.shape != expected[name].shape or got.tobytes() != expected[name].tobytes():
                return f'{name} differs'
    return 'equal'


def compare_one_bit(sm: int) -> str:
    """Some layers by plane_conv, the others by bit_conv, on the same maps."""
    if why := missing():
        return why
    net, ran = Builder(0, (6, 7)), []
    net.image_codes('pixels', zero_point=128)
    net.conv('stem', [net.term('pixels', 64, 3, 8, 1, stride=2)], 2)
    net.conv('three', [net.term('stem', 65, 3)], 2)
    net.conv('eight', [net.term('three', 65, 3, 8)], 2)
    net.conv('joined', [net.term('eight', 130), net.term('three', 130)], 2)
    net.conv('residual', [net.term('joined', 130)], 2, ('joined',))
    net.conv('scores', [net.term('residual', 5)], None)
    net.add(ops.ArgMax('labels', 'scores'))

    def call(self, sources, out, config):
        ran.append(self.op.name)
        launch(self, sources, out, sm)

    with patch.object(PlaneConv, '__call__', call):
        result = compare(net.graph(), random_image(11, 13), sm, one_bit=True)
    served = ['three', 'joined', 'residual', 'scores']
    return result if ran == served else f'plane_conv ran {ran}'


def compare_tiles(sm: int) -> str:
    """Every configuration that tuning may choose, of layers of each kind."""
    net = Builder(0, (6, 7))
    net.image_codes('pixels', zero_point=128)
    net.conv('x', [net.term('pixels', 128, 1, 8, 1)], 2)
    net.conv('three', [net.term('x', 256, 3)], 2)
    net.conv('point', [net.term('three', 256), net.term('x', 256, bits=2)], 2, ('three',))
    net.conv('strided', [net.term('point', 80, 3, 4, groups=2, stride=2)], 3)
    net.conv('stem', [net.term('pixels', 64, 7, 8, 2, stride=2)], 1)
    net.conv('end', [net.term('strided', 5), net.term('stem', 5)], None)
    rng, batch, tried = np.random.default_rng(0), 2, 0
    for op in net.graph().ops[2:-1]:
        codes = {
            s: rng.integers(
                0, 2 ** net.value(s).bits, (batch, 6, 7, net.value(s).channels), np.uint8
            )
            for s in op.sources
        }
        expected = np.stack([
            op.run(*((codes[s][i], net.value(s)) for s in op.sources), grid=None,
                   accumulate=fast.bit_conv_accumulate) for i in range(batch)
        ])  # fmt: skip
        sources = [from_codes(torch.from_numpy(codes[s]), net.value(s)) for s in op.sources]
        forms = [form_of(net.value(term.source)) for term in op.terms]
        value, grid = net.value(op.name), expected.shape[1:3]
        for config in tuning.candidates(op, forms, 10**6, sm >= 90):
            shape, dtype = storage(value, batch * grid[0] * grid[1])
            out = Map(torch.full(shape, -0x5A5A5A5B, dtype=dtype), value, batch, grid)
            with emulated(sm):
                PackedConv(op, forms, config.k, config.as_bytes, CPU)(sources, out, config)
            tried += 1
            if not np.array_equal(to_codes(out).numpy(), expected):
                return f'{op.name} differs in {config}'
    return 'equal' if tried >= 16 else f'only {tried} tried'


def compare_training(sm: int) -> str:
    """Fake quantization in float32, forward and backward."""
    from bfcn_kernels.triton import fake_quant

    torch.manual_seed(0)
    x, grad = torch.randn(3, 5, 7, 11), torch.randn(3, 5, 7, 11)
    step, zero = torch.tensor(0.37, requires_grad=True), torch.tensor(2.0)
    x.requires_grad_()
    with emulated(sm):
        y = fake_quant.quantize_activation(x, step, zero, 3, 1.0)
        y.backward(grad)
    with torch.no_grad():
        u = x / step + zero
        q = (u + 0.5).clamp(0, 7.5).floor()
        inside = (u >= 0) & (u <= 7)
        slope = (q - torch.where(inside, u, zero)) * grad
    if not torch.equal(y, (q - zero) * step):
        return 'values differ'
    if not torch.equal(x.grad, grad * inside):
        return 'gradients differ'
    return 'equal' if torch.allclose(step.grad, slope.sum(), rtol=1e-4) else 'the sum differs'


def spoiled(ptx: str) -> str:
    """One rounding of the epilogue off."""
    return ptx.replace('0f3F000000', '0f3F400000')


CASES = {
    'toy': lambda sm: compare(toy(), random_image(17, 23), sm),
    'one pixel': lambda sm: compare(toy(), random_image(1, 1), sm),
    'random': lambda sm: next(
        (
            f'{seed}: {result}'
            for seed in range(4)
            if (result := compare(random_graph(seed, 6), random_image(9, 14, seed), sm)) != 'equal'
        ),
        'equal',
    ),
    'r18': lambda sm: compare(resnet_bfcn(18, 1, 2, classes=5, width=8), random_image(33, 40), sm),
    'one bit': compare_one_bit,
    'tiles': compare_tiles,
    'training': compare_training,
    'spoiled': lambda sm: compare(toy(), random_image(9, 9), sm, spoiled),
}

if __name__ == '__main__':
    print(CASES[sys.argv[1]](int(sys.argv[2])))
