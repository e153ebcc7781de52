"""Loops whose cycles a compiler's tables tell: how far the model is from them.

The loops run under the same emulator and plugin as a network, so that a miscounted block, a wrong
rate or a dependency read wrongly would show. On AArch64 the expected cycles come from the rates of
LLVM's own scheduling models: there the loops check how they are applied, not whether they are true.
"""

from dataclasses import dataclass
from pathlib import Path

from bfcn_kernels.arm import toolchain
from lab.arm import blocks
from lab.arm.cycles import Core, block_cycles

_TURNS = 1000
_A57 = "LLVM's CortexA57Model, which it uses for the Cortex-A72"
_N1 = "LLVM's NeoverseN1Model, after Arm's guide to the Neoverse N1"
_GCC = "GCC's cortex-a15-neon.md"


@dataclass(frozen=True)
class Loop:
    """cycles of one turn by the source: `body` and a decrement-and-branch beside it."""

    name: str
    body: tuple[str, ...]
    cycles: float
    source: str


def _repeat(template: str, count: int = 8, first: int = 8) -> tuple[str, ...]:
    return tuple(template.format(d=first + i) for i in range(count))


_ARMV7 = {
    '8 adds': _repeat('vadd.i8 q{d}, q{d}, q0'),
    '8 popcounts': _repeat('vcnt.8 q{d}, q0'),
    '16 lookups': _repeat('vtbl.8 d{d}, {{d0, d1}}, d2', 16, 16),
    '8 widening products': _repeat('vmlal.s8 q{d}, d0, d1'),
    '8 float accumulations': _repeat('vmla.f32 q{d}, q0, q1'),
    '8 shifts and adds': _repeat('vsra.u8 q{d}, q0, #4'),
    'a chain of 4 adds': ('vadd.i8 q8, q8, q0',) * 4,
}
_AARCH64 = {
    '8 adds': _repeat('add v{d}.16b, v{d}.16b, v0.16b'),
    '8 float accumulations': _repeat('fmla v{d}.4s, v0.4s, v1.4s'),
    '8 widening products': _repeat('smull v{d}.8h, v0.8b, v1.8b'),
    '8 pairwise accumulations': _repeat('sadalp v{d}.4s, v0.8h'),
    '8 popcounts': _repeat('cnt v{d}.16b, v0.16b'),
    '8 lookups': _repeat('tbl v{d}.16b, {{v0.16b}}, v1.16b'),
    '8 lookups in two registers': _repeat('tbl v{d}.16b, {{v0.16b, v1.16b}}, v2.16b'),
    '8 shifts and adds': _repeat('usra v{d}.16b, v0.16b, #4'),
    '8 dot products': _repeat('sdot v{d}.4s, v0.16b, v1.16b'),
    'a chain of 4 adds': ('add v8.16b, v8.16b, v0.16b',) * 4,
}


def _loops(
    bodies: dict[str, tuple[str, ...]], source: str, cycles: dict[str, float]
) -> tuple[Loop, ...]:
    return tuple(Loop(name, bodies[name], count, source) for name, count in cycles.items())


LOOPS = {
    'cortex-a15': _loops(_ARMV7, _GCC, {
        '8 adds': 4, '8 popcounts': 8, '16 lookups': 8, '8 widening products': 8,
        '8 float accumulations': 8, '8 shifts and adds': 8, 'a chain of 4 adds': 16,
    }),
    'cortex-a72': _loops(_AARCH64, _A57, {
        '8 adds': 4, '8 float accumulations': 8, '8 widening products': 8,
        '8 pairwise accumulations': 8, '8 popcounts': 4, '8 lookups': 12, '8 shifts and adds': 8,
        'a chain of 4 adds': 12,
    }),
    'cortex-a76': _loops(_AARCH64, _N1, {
        '8 adds': 4, '8 float accumulations': 4, '8 widening products': 8, '8 popcounts': 4,
        '8 lookups': 4, '8 lookups in two registers': 4, '8 shifts and adds': 8,
        '8 dot products': 4, 'a chain of 4 adds': 8,
    }),
}  # fmt: skip


def modelled(loop: Loop, core: Core, folder: Path) -> float:
    """Cycles of a turn by the model, from a run of the loop under the emulator."""
    program = _assemble(loop, core.architecture, folder)
    addresses = toolchain.symbols(program, core.architecture)
    listed, phases, _ = blocks.count(
        toolchain.emulator(core.architecture, core.qemu),
        blocks.build_plugin(folder),
        [addresses['begin'], addresses['end']],
        [str(program)],
        folder,
    )
    counts = phases[1].counts
    used = sorted(counts)
    cycles = block_cycles([listed[index] for index in used], core)
    return sum(counts[index] * each for index, each in zip(used, cycles, strict=True)) / _TURNS


def _assemble(loop: Loop, architecture: str, folder: Path) -> Path:
    """A program that is the loop, between the labels begin and end, and an exit."""
    if architecture == 'armv7':
        head = ['.syntax unified', '.thumb', '.fpu neon-vfpv4', '.thumb_func']
        turns, turn = f'movw r4, #{_TURNS}', ['subs r4, r4, #1', 'bne again']
        leave = ['movs r0, #0', 'movs r7, #1', 'svc #0']
    else:
        head = ['.arch armv8.2-a+dotprod']
        turns, turn = f'mov x4, #{_TURNS}', ['subs x4, x4, #1', 'b.ne again']
        leave = ['mov x0, #0', 'mov x8, #93', 'svc #0']
    lines = ['.text', *head, '.globl _start', '_start:', turns, 'b begin', 'begin:', 'nop',
             'again:', *loop.body, *turn, 'end:', 'nop', *leave, '']  # fmt: skip
    program = folder / 'microkernel'
    compiler = f'{toolchain.ARCHITECTURES[architecture].triple}-gcc'
    command = [compiler, '-nostdlib', '-static', '-x', 'assembler', '-', '-o', program]
    toolchain.call(command, '\n'.join(lines))
    return program
