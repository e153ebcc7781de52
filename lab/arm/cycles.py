"""Cycles of basic blocks: llvm-mca where LLVM models the core, a table of rates for the Cortex-A15.

A model: code runs from full caches, every branch is foreseen, and a block is timed as if it ran
again and again.
"""

import json
import re
import subprocess
from dataclasses import dataclass

from lab.arm import cortex_a15
from lab.arm.blocks import Block


@dataclass(frozen=True)
class Core:
    """qemu: the CPU model to run; mca: LLVM's name of the scheduling model, or None for our table."""

    name: str
    architecture: str  # armv7 or aarch64
    qemu: str
    mca: str | None
    ghz: float  # of the board named
    board: str
    memory_bytes: int


CORES = {
    core.name: core
    for core in (
        Core('cortex-a15', 'armv7', 'cortex-a15', None, 2.3, 'Tegra K1 (Jetson TK1)', 2 << 30),
        Core('cortex-a53', 'aarch64', 'cortex-a53', 'cortex-a53', 1.4, 'Raspberry Pi 3B+', 1 << 30),
        Core('cortex-a72', 'aarch64', 'cortex-a72', 'cortex-a72', 1.5, 'Raspberry Pi 4', 1 << 30),
        Core('cortex-a76', 'aarch64', 'cortex-a76', 'neoverse-n1', 2.4, 'Raspberry Pi 5', 2 << 30),
        Core('neoverse-v1', 'aarch64', 'max', 'neoverse-v1', 2.6, 'AWS Graviton3', 2 << 30),
    )
}
IN_ORDER = {'cortex-a53'}
_ITERATIONS = 50


def disassemble(words: set[str], mode: str) -> dict[str, str]:
    """Instruction text by its bytes, as LLVM writes it; mode aarch64, armv7 or thumbv7.

    Thumb's IT is left out of what LLVM reads: it would make the instructions after it conditional.
    What LLVM cannot read counts as nop.
    """
    order = sorted(word for word in words if not (mode == 'thumbv7' and _is_it(word)))
    lines = ['[' + ' '.join(f'0x{w[i : i + 2]}' for i in range(0, len(w), 2)) + ']' for w in order]
    attributes = '+all' if mode == 'aarch64' else '+neon,+vfp4,+hwdiv'
    command = ['llvm-mc-19', '-disassemble', f'-triple={mode}', f'-mattr={attributes}']
    run = subprocess.run(
        command, input='\n'.join(lines), capture_output=True, text=True, check=False
    )
    bad = {int(n) - 1 for n in re.findall(r'<stdin>:(\d+):\d+: warning: invalid', run.stderr)}
    texts = [
        line.strip() for line in run.stdout.splitlines() if line.strip() and '.text' not in line
    ]
    good = [word for index, word in enumerate(order) if index not in bad]
    found = dict.fromkeys(words, 'nop')
    if len(texts) == len(good):
        found.update(zip(good, texts, strict=True))
    elif len(good) == 1:  # two short instructions where data was taken for one long
        found[good[0]] = texts[0]
    else:
        for half in (good[: len(good) // 2], good[len(good) // 2 :]):
            found.update(disassemble(set(half), mode))
    return found


def _is_it(word: str) -> bool:
    return len(word) == 4 and word[2:] == 'bf' and word[1] != '0'


def _mode(block: Block, architecture: str) -> str:
    """Thumb if an instruction has 2 bytes, or if each begins as Thumb's long ones must."""
    if architecture == 'aarch64':
        return architecture
    thumb = any(len(word) == 4 for word in block.words) or all(
        int(word[2:4], 16) >= 0xE8 for word in block.words
    )
    return 'thumbv7' if thumb else 'armv7'


def block_cycles(blocks: list[Block], core: Core) -> list[float]:
    """Cycles of one run of each block on a core."""
    modes = [_mode(block, core.architecture) for block in blocks]
    texts = {}
    for mode in set(modes):
        mine = (block for block, other in zip(blocks, modes, strict=True) if other == mode)
        texts[mode] = disassemble({word for block in mine for word in block.words}, mode)
    listed = [[texts[m][word] for word in b.words] for b, m in zip(blocks, modes, strict=True)]
    loops = [_loops(*of) for of in zip(blocks, listed, modes, strict=True)]
    if core.mca is None:
        return [cortex_a15.cycles(*pair) for pair in zip(listed, loops, strict=True)]
    return mca(listed, loops, core.mca)


def _loops(block: Block, lines: list[str], mode: str) -> bool:
    """Whether the block ends in a branch to its own beginning."""
    target = re.search(r'#(-\d+)$', lines[-1])
    ahead = {'aarch64': 0, 'thumbv7': 4, 'armv7': 8}[mode]  # of the branch, where its offset starts
    before = sum(len(word) // 2 for word in block.words[:-1])
    return target is not None and int(target[1]) + before + ahead == 0


def mca(listed: list[list[str]], loops: list[bool], model: str) -> list[float]:
    """Cycles by llvm-mca: of a loop with its dependencies, of other blocks by what they occupy, of the
    busiest unit too (BlockRThroughput counts what one of two alike units alone can do apart from what
    either can).

    Instructions that the model lacks count as nothing. A core that issues in order waits for results
    in every block.
    """
    source = []
    for index, lines in enumerate(listed):
        source += [f'# LLVM-MCA-BEGIN {index}', *lines, f'# LLVM-MCA-END {index}']
    command = [
        'llvm-mca-19', '-mtriple=aarch64', f'-mcpu={model}', '-mattr=+dotprod,+i8mm',
        f'-iterations={_ITERATIONS}', '-skip-unsupported-instructions=any', '-json',
    ]  # fmt: skip
    run = subprocess.run(
        command, input='\n'.join([*source, '']), capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise RuntimeError(f'llvm-mca failed: {run.stderr.strip()[-500:]}')
    found = [0.0] * len(listed)
    for region in json.loads(run.stdout)['CodeRegions']:
        summary, index = region['SummaryView'], int(region['Name'])
        waits = loops[index] or model in IN_ORDER
        total = summary['TotalCycles'] / summary['Iterations']
        found[index] = total if waits else max(summary['BlockRThroughput'], _busiest(region))
    return found


def _busiest(region: dict) -> float:
    """Cycles a run that the busiest unit is in use."""
    whole = len(region['Instructions'])  # the index after the last instruction stands for all
    pressures = region['ResourcePressureView']['ResourcePressureInfo']
    return max(
        (p['ResourceUsage'] for p in pressures if p['InstructionIndex'] == whole), default=0.0
    )
