"""Modelled milliseconds of a packed model on an ARM core, layer by layer; peers.py has other libraries'.

Executed instructions are counted under qemu; what they cost is a model (cycles.py): no cache misses,
no mispredicted branches, one core at its nominal clock. Measure on a board with bfcn-bench.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bfcn_kernels.arm import toolchain
from bfcn_kernels.gguf_io import Model, read
from lab.arm import blocks
from lab.arm.cycles import CORES, Core, block_cycles


@dataclass(frozen=True)
class Layer:
    """height, width, channels are the source's; one convolution of a bit_conv's sum."""

    op: str
    height: int
    width: int
    channels: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    groups: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height, self.width, self.channels, self.outputs, self.kernel, self.stride,
                self.dilation, self.groups)  # fmt: skip

    @property
    def macs(self) -> int:
        side = [-(-length // self.stride) for length in (self.height, self.width)]
        return side[0] * side[1] * self.outputs * self.kernel**2 * self.channels // self.groups


@dataclass(frozen=True)
class Row:
    """What one layer, or a whole run ('total'), takes by the model."""

    cpu: str
    ghz: float
    engine: str
    layer: str
    kernel: str
    macs: int
    instructions: int
    cycles: int
    ms: float
    parameter_bytes: int = (
        0  # of a whole run: the file's weights, or their size in the engine's type
    )
    activation_bytes: int = 0  # of a whole run, scratch included; 0 where it is not known


def core_of(name: str) -> Core:
    if name not in CORES:
        raise ValueError(f'--cpu must be one of {", ".join(CORES)}, got {name!r}')
    return CORES[name]


def layers_of(model: Model, size: tuple[int, int]) -> list[Layer]:
    """Every convolution of a model at an image size."""
    graph = model.graph
    shapes, values = graph.shapes(*size), graph.validate()
    found = []
    for op in graph.ops:
        for term in getattr(op, 'terms', ()):
            height, width = shapes[term.source]
            channels = values[term.source].channels
            found.append(
                Layer(op.name, height, width, channels, len(term.weight), term.kernel[0],
                      term.stride[0], term.dilation[0], term.groups)
            )  # fmt: skip
    return found


def check_fits(path: Path, model: Model, size: tuple[int, int], core: Core) -> None:
    """Raise ValueError if the model cannot lie in the core's memory."""
    needed = path.stat().st_size + model.graph.peak_bytes(*size)
    if needed > core.memory_bytes:
        raise ValueError(
            f'{path.name} at {size[0]} x {size[1]} needs {needed / 1e6:.0f} MB, '
            f'{core.name} ({core.board}) has {core.memory_bytes / 1e6:.0f} MB: take a smaller --size'
        )


def time_model(path: Path, core: Core, size: tuple[int, int], folder: Path) -> list[Row]:
    """Rows of every op and of the total, on one core. folder holds the builds between runs."""
    model = read(path)
    check_fits(path, model, size, core)
    toolchain.require_build(core.architecture)
    toolchain.require('llvm-mc-19', 'llvm-mca-19')
    program = (
        toolchain.build(folder / core.architecture, core.architecture) / 'tests' / 'test_trace'
    )
    address = toolchain.symbols(program, core.architecture)
    marks = [address['bfcn_conv_run'], address['bfcn_op_run'], address['bfcn_session_op']]
    listed, phases, said = blocks.count(
        toolchain.emulator(core.architecture, core.qemu),
        blocks.build_plugin(folder),
        marks,
        [str(program), str(path), *map(str, size)],
        folder,
    )
    ran = [phase for phase in phases if phase.mark in marks[:2]]
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
    activations = int(lines.pop('bytes')[0])
    lines.pop('isas')
    macs = Counter()
    for layer in layers_of(model, size):
        macs[layer.op] += layer.macs
    bits = model.metadata
    engine = f'bfcn {bits.weight_bits}-{bits.activation_bits}'
    names = [(name, kernel, macs[name]) for name, (kernel, _) in lines.items()]
    rows = rows_of(core, engine, names, ran, listed)
    return [*rows, total_of(rows, _weight_bytes(model), activations)]


def rows_of(core: Core, engine: str, names: list, phases: list, listed: list) -> list[Row]:
    """A row for each (name, kernel, MACs) and the phase in which it ran."""
    used = sorted({index for phase in phases for index in phase.counts})
    cycles = dict(zip(used, block_cycles([listed[index] for index in used], core), strict=True))
    rows = []
    for (name, kernel, macs), phase in zip(names, phases, strict=True):
        instructions = sum(n * len(listed[index].words) for index, n in phase.counts.items())
        taken = sum(n * cycles[index] for index, n in phase.counts.items())
        rows.append(Row(core.name, core.ghz, engine, name, kernel, macs, instructions, round(taken),
                        taken / core.ghz / 1e6))  # fmt: skip
    return rows


def total_of(rows: list[Row], parameters: int, activations: int) -> Row:
    """The row of a whole run; parameters, activations: bytes."""
    first = rows[0]
    sums = [
        sum(getattr(row, name) for row in rows) for name in ('macs', 'instructions', 'cycles', 'ms')
    ]
    return Row(first.cpu, first.ghz, first.engine, 'total', '', *sums, parameters, activations)


def _weight_bytes(model: Model) -> int:
    """Bytes of the packed weights and of their float32 scales and biases."""
    total = 0
    for op in model.graph.ops:
        for term in getattr(op, 'terms', ()):
            per_filter = term.weight[0].size
            total += len(term.weight) * (term.bits * 8 * -(-per_filter // 64) + 4)
        if hasattr(op, 'terms'):
            total += 4 * len(op.terms[0].weight)
    return total
