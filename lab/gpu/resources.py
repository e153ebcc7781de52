"""Compile every kernel of a network for GPUs that need not be there, and tell what each one takes.

    python -m lab.gpu.resources docs/gpu_resources.csv    (make gpu-compile)

Kernels go through the launcher that a GPU would use, up to the launch itself: the same specialization of
arguments, the same options. `check` then reads the PTX: tensor cores in every convolution, and no
float32 operation that fuses, flushes denormals or divides approximately. plane_conv goes through NVRTC.
"""

import argparse
import csv
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import jit
from triton.runtime.jit import JITFunction

from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.ops import BitConv
from bfcn_kernels.triton import fake_quant, plane_conv, tuning
from bfcn_kernels.triton.codes import form_of
from bfcn_kernels.triton.device import INTERPRETED
from bfcn_kernels.triton.plan import Network, Plan

ARCHITECTURES = (80, 90)
TENSOR_CORE = re.compile(
    r'mma\.sync\.aligned\.m16n8k32[.\w]*\.s32\.s8\.s8|wgmma\.mma_async[.\w]*\.s32\.s8\.s8'
    r'|(?:mma\.sync\.aligned\.m16n8k256|wgmma\.mma_async)[.\w]*\.b1\.b1[.\w]*\.and\.popc'
)
INEXACT = re.compile(r'\bfma\.\w+\.f32|\.ftz\b|div\.(?:full|approx)\.f32|rcp\.approx')
BINARIES = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'


@dataclass(frozen=True)
class Report:
    """What one compiled kernel takes. spills: bytes of local memory a thread; shared: bytes a block."""

    kernel: str
    layer: str
    sm: int
    tile: str
    warps: int
    stages: int
    registers: int
    spills: int
    shared: int
    tensor_core: str


@dataclass(frozen=True)
class Compiled:
    """A kernel, the layer that asked for it, its tile and the compiler's product."""

    kernel: str
    layer: str
    tile: str
    product: object


def compile_graph(
    graph: Graph, size: tuple[int, int], sm: int, every_configuration: bool = False
) -> Iterator[Compiled]:
    """Every distinct kernel that a run on (h, w) launches, compiled for compute capability sm / 10.

    every_configuration: bit_conv in each one that tuning may choose, else in the rule's choice.
    """
    network, seen = Network(graph, torch.device('cpu')), set()
    network.wgmma = sm >= 90
    with compiling(sm) as products:
        plan = Plan(network, 1, *size, traced=True)
        for index, step in enumerate(plan.schedule):
            for tile, launch in _launches(plan, index, every_configuration):
                products.clear()
                launch()
                for name, product in products:
                    if product.hash not in seen:
                        seen.add(product.hash)
                        yield Compiled(name, step.op.name, tile, product)


def compile_training(sm: int) -> Iterator[Compiled]:
    """The kernels of fake quantization, forward and backward, float32 and bfloat16."""
    with compiling(sm) as products:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.zeros(4, 8, 16, 32, dtype=dtype, requires_grad=True)
            steps = torch.ones(4, 1, 1, 1, requires_grad=True)
            step, zero_point = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0)
            fake_quant.quantize_activation(x, step, None, 2, 1.0).backward(x.detach())
            fake_quant.quantize_activation(x, step, zero_point, 4, 1.0).backward(x.detach())
            fake_quant.quantize_weight(x, steps, 1, 2, 1, 1.0).backward(x.detach())
            fake_quant.quantize_weight(x, steps, 4, 1, 8, 1.0).backward(x.detach())
            t = torch.zeros(x.shape)
            fake_quant.quantize_dorefa(x, t, steps.detach(), 1).backward(x.detach())
            fake_quant.quantize_dorefa(x, t, steps.detach(), 2).backward(x.detach())
            for name, product in products:
                yield Compiled(name, str(dtype).removeprefix('torch.'), '', product)
            products.clear()


def compile_planes(graph: Graph, sm: int) -> Iterator[Compiled]:
    """Every distinct plane_conv that one_bit=True would use."""
    values, seen = graph.validate(), []
    for op in (op for op in graph.ops if isinstance(op, BitConv)):
        sources = [form_of(values[term.source]) for term in op.terms]
        given = plane_conv.serves(op, sources) and plane_conv.constants(op, sources[0], sm >= 90)
        if not given or given in seen:
            continue
        seen.append(given)
        cubin, ptx = plane_conv.compile_plane_conv(given, sm)
        metadata = SimpleNamespace(
            target=GPUTarget('cuda', sm, 32), num_warps=plane_conv.THREADS // 32,
            num_stages=plane_conv.STAGES, shared=0,
        )  # fmt: skip
        product = SimpleNamespace(asm=dict(ptx=ptx, cubin=cubin), metadata=metadata)
        tile = '{}x{}x256'.format(*plane_conv.tile(given))
        yield Compiled('plane_conv', op.name, tile, product)


def _launches(plan: Plan, index: int, every_configuration: bool) -> Iterator[tuple[str, object]]:
    """(tile, function that launches) of a step."""
    step = plan.schedule[index]
    if not isinstance(step.op, BitConv):
        yield '', lambda: plan.launch(index)
        return
    key = step.op, plan.network.forms(step.op), plan.maps[step.op.name].pixels
    key += (plan.network.wgmma,)
    for config in tuning.candidates(*key) if every_configuration else [tuning.default(*key)]:
        conv = plan.network.conv(step.op, config)
        sources = [plan.maps[name] for name in step.sources]
        tile = f'{config.pixels}x{config.channels}x{config.k}{" bytes" if config.as_bytes else ""}'
        yield tile, lambda c=config, conv=conv, s=sources: conv(s, plan.maps[step.op.name], c)


@contextmanager
def compiling(sm: int) -> Iterator[list[tuple[str, object]]]:
    """Launches compile for sm and stop there; the list gets (kernel's name, product) of each."""
    if INTERPRETED:
        raise RuntimeError('kernels are interpreted: unset TRITON_INTERPRET to compile them')
    products, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        product = run(self, *args, grid=grid, warmup=True, **kwargs)
        products.append((self.__name__.removesuffix('_kernel'), product))
        return product

    no_driver = SimpleNamespace(active=_NoDriver(sm))
    with patch.object(JITFunction, 'run', compile_only), patch.object(jit, 'driver', no_driver):
        yield products


class _NoDriver:
    """As much of a driver as compiling asks for; its device's number is the architecture."""

    def __init__(self, sm: int):
        self._target = GPUTarget('cuda', sm, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def check(compiled: Compiled) -> list[str]:
    """What is wrong with a kernel's PTX; nothing if it keeps the contract."""
    ptx, wrong = compiled.product.asm['ptx'], []
    if compiled.kernel in ('bit_conv', 'plane_conv') and not TENSOR_CORE.search(ptx):
        wrong.append('no tensor-core instruction')
    if found := INEXACT.search(ptx):
        wrong.append(f'{found.group()!r} is not exact')
    return wrong


def report(compiled: Compiled) -> Report:
    """Registers, spills and shared memory: of the machine code, and what a launch adds."""
    product = compiled.product
    sm, ptx = product.metadata.target.arch, product.asm['ptx']
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(product.asm['cubin'])
        file.flush()
        command = [BINARIES / 'cuobjdump', '-res-usage', file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, shared = (
        int(re.search(rf'\b{name}:(\d+)', usage).group(1)) for name in ('REG', 'STACK', 'SHARED')
    )
    tensor_core = TENSOR_CORE.search(ptx)
    kind = tensor_core.group().split('.')[0] if tensor_core else ''
    return Report(
        compiled.kernel, compiled.layer, sm, compiled.tile, product.metadata.num_warps,
        product.metadata.num_stages, registers, stack,
        product.metadata.shared + shared, f'{kind} b1' if compiled.kernel == 'plane_conv' else kind,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('table', type=Path, help='the CSV to write')
    parser.add_argument('--depth', type=int, choices=(18, 50), default=50)
    parser.add_argument('--bits', nargs=2, type=int, default=(1, 2), metavar=('W', 'A'))
    parser.add_argument('--size', nargs=2, type=int, default=(1024, 2048), metavar=('H', 'W'))
    parser.add_argument('--sm', nargs='+', type=int, default=ARCHITECTURES)
    parser.add_argument('--fast', action='store_true', help="only the rule's choice for each layer")
    args = parser.parse_args()
    network, wrong, rows = resnet_bfcn(args.depth, *args.bits), [], []
    planes = [resnet_bfcn(18, *bits, width=64) for bits in ((1, 1), (2, 2), (2, 4))]
    planes.insert(0, network)
    for sm in args.sm:
        for compiled in chain(
            compile_training(sm),
            compile_graph(toy(), (24, 36), sm),  # every op
            compile_graph(network, tuple(args.size), sm, not args.fast),
            chain.from_iterable(compile_planes(graph, sm) for graph in planes),
        ):
            rows.append(report(compiled))
            wrong += [f'{rows[-1]}: {what}' for what in check(compiled)]
            print(*asdict(rows[-1]).values(), sep='\t', flush=True)
    with args.table.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator='\n')
        writer.writeheader()
        writer.writerows(map(asdict, rows))
    print(f'{len(rows)} kernels, {len(wrong)} of them wrong', *wrong, sep='\n')
    raise SystemExit(bool(wrong))


if __name__ == '__main__':
    main()
