"""Cycles of basic blocks: llvm-mca where LLVM models the core, a table of rates for the Cortex-A15.

A model: code runs from full caches, every branch is foreseen, and a block is timed as if it ran
again and again.
"""

import json
import re
import subprocess
from dataclasses import dataclass

from bfcn_kernels.arm import cortex_a15
from bfcn_kernels.arm.blocks import Block


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
    )
}
IN_ORDER = {'cortex-a53'}
_TRIPLES = {'armv7': 'thumbv7', 'aarch64': 'aarch64'}
_ITERATIONS = 50


def disassemble(words: set[str], architecture: str) -> dict[str, str]:
    """Instruction text by its bytes, as LLVM writes it.

    Thumb's IT is left out of what LLVM reads: it would make the instructions after it conditional.
    """
    if architecture == 'armv7':
        conditional = {word for word in words if len(word) == 4 and word[2:] == 'bf' and word[1] != '0'}
        if conditional:
            texts = disassemble(words - conditional, architecture)
            return {**texts, **dict.fromkeys(conditional, 'it')}
    order = sorted(words)
    lines = [' '.join(f'0x{word[i : i + 2]}' for i in range(0, len(word), 2)) for word in order]
    # llvm-mc drops what it cannot read without a trace in its output: a label goes before each.
    attributes = '+all' if architecture == 'aarch64' else '+neon,+vfp4,+hwdiv'
    command = ['llvm-mc-19', '-disassemble', f'-triple={_TRIPLES[architecture]}', f'-mattr={attributes}']
    run = subprocess.run(command, input='\n'.join(lines), capture_output=True, text=True, check=False)
    texts = [line.strip() for line in run.stdout.splitlines() if line.strip() and '.text' not in line]
    if len(texts) == len(order):
        return dict(zip(order, texts, strict=True))
    return _one_by_one(order, lines, command)


def _one_by_one(order: list[str], lines: list[str], command: list[str]) -> dict[str, str]:
    texts = {}
    half = len(order) // 2
    if len(order) == 1:
        run = subprocess.run(command, input=lines[0], capture_output=True, text=True, check=False)
        found = [line.strip() for line in run.stdout.splitlines() if '.text' not in line]
        return {order[0]: ' '.join(found) or 'nop'}
    for part in (slice(0, half), slice(half, None)):
        run = subprocess.run(
            command, input='\n'.join(lines[part]), capture_output=True, text=True, check=False
        )
        found = [
            line.strip() for line in run.stdout.splitlines() if line.strip() and '.text' not in line
        ]
        if len(found) == len(order[part]):
            texts.update(zip(order[part], found, strict=True))
        else:
            texts.update(_one_by_one(order[part], lines[part], command))
    return texts


def block_cycles(blocks: list[Block], core: Core) -> list[float]:
    """Cycles of one run of each block on a core."""
    texts = disassemble({word for block in blocks for word in block.words}, core.architecture)
    listed = [[texts[word] for word in block.words] for block in blocks]
    loops = [_loops(block, lines, core.architecture) for block, lines in zip(blocks, listed, strict=True)]
    if core.mca is None:
        return [cortex_a15.cycles(*pair) for pair in zip(listed, loops, strict=True)]
    return mca(listed, loops, core.mca)


def _loops(block: Block, lines: list[str], architecture: str) -> bool:
    """Whether the block ends in a branch to its own beginning."""
    target = re.search(r'#(-\d+)$', lines[-1])
    ahead = 4 if architecture == 'armv7' else 0  # Thumb counts from the instruction after the next
    before = sum(len(word) // 2 for word in block.words[:-1])
    return target is not None and int(target[1]) + before + ahead == 0


def mca(listed: list[list[str]], loops: list[bool], model: str) -> list[float]:
    """Cycles by llvm-mca: of a loop with its dependencies, of other blocks by what they occupy.

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
    run = subprocess.run(command, input="\n".join([*source, ""]), capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f'llvm-mca failed: {run.stderr.strip()[-500:]}')
    found = [0.0] * len(listed)
    for region in json.loads(run.stdout)['CodeRegions']:
        summary, index = region['SummaryView'], int(region['Name'])
        waits = loops[index] or model in IN_ORDER
        total = summary['TotalCycles'] / summary['Iterations']
        found[index] = total if waits else summary['BlockRThroughput']
    return found
