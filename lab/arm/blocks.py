"""Executed instructions of a program under qemu-user, block by block and phase by phase."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bfcn_kernels.arm import toolchain

_PAGE = 4096
PLUGIN = Path(__file__).with_name('count_blocks.c')


@dataclass(frozen=True)
class Block:
    address: int
    words: tuple[str, ...]  # instructions, bytes in memory order, in hexadecimal


@dataclass(frozen=True)
class Phase:
    mark: int  # address of the mark that began it; 0: the start
    counts: dict[int, int]  # executions by index of block


def build_plugin(folder: Path) -> Path:
    """Compile the plugin for this machine's qemu. Raises RuntimeError if the compiler fails."""
    path = folder / 'count_blocks.so'
    toolchain.require('cc')
    toolchain.call(['cc', '-O2', '-fPIC', '-shared', '-fvisibility=hidden', PLUGIN, '-o', path])
    return path


def count(
    qemu: list[str],
    plugin: Path,
    marks: list[int],
    command: list[str],
    folder: Path,
    text: str = '',
) -> tuple[list[Block], list[Phase], str]:
    """Run command under qemu with the plugin: its blocks, its phases, what it printed.

    text is what the program reads. Raises RuntimeError if it fails.
    """
    out = folder / 'blocks.txt'
    options = ','.join([str(plugin), f'out={out}', *(f'mark={mark:x}' for mark in marks)])
    run = subprocess.run(
        [*qemu, '-plugin', options, *command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f'{command[0]} failed under {qemu[0]}: {run.stderr.strip()[-500:]}')
    blocks, phases = [], []
    for line in out.read_text().splitlines():
        kind, _, address, *rest = line.split()
        if kind == 'block':
            blocks.append(Block(int(address, 16), tuple(rest)))
        else:
            pairs = (pair.split(':') for pair in rest)
            phases.append(Phase(int(address, 16), {int(index): int(n) for index, n in pairs}))
    return *_whole(blocks, phases), run.stdout


def _whole(blocks: list[Block], phases: list[Phase]) -> tuple[list[Block], list[Phase]]:
    """Blocks that qemu cut where a page of code ends, put together: a loop shows as one again."""
    starts = {block.address: index for index, block in enumerate(blocks)}
    blocks = list(blocks)
    for index in sorted(range(len(blocks)), key=lambda index: -blocks[index].address):
        address, words = blocks[index].address, blocks[index].words
        end = address + sum(len(word) // 2 for word in words)
        if end % _PAGE not in (0, 2):
            continue
        if end - 2 in starts and len(words[-1]) > 4:  # with half of one across the end
            words, end = (*words[:-1], words[-1][:-4]), end - 2
        rest = starts.get(end)
        if rest is None or any(p.counts.get(index) != p.counts.get(rest) for p in phases):
            continue
        blocks[index] = Block(address, words + blocks[rest].words)
        for phase in phases:
            phase.counts.pop(rest, None)
    return blocks, phases
