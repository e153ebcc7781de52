"""A GPU in numpy, slow but exact: runs the PTX of Triton or NVRTC for sm_80 and sm_90, block by block.

Every thread of a block is a lane of numpy arrays; threads part at branches and meet again at the lowest
program counter. Asynchronous copies and products happen as late as they may, at the wait for them. An
access outside of the tensors that a kernel was given is an error, as is an instruction not known here.
"""

import re
from dataclasses import dataclass

import numpy as np
import ptx_ops
from ptx_ops import DTYPES, Access

END = 1 << 30


@dataclass(frozen=True)
class Instruction:
    """@[!]guard parts[0].parts[1]... operands; vectors and addresses are tuples of operands."""

    parts: tuple[str, ...]
    operands: tuple
    guard: str | None
    negated: bool
    text: str


def parse(ptx: str) -> tuple[list[Instruction], dict[str, int], str, int]:
    """(instructions, index of each label, the kernel's name, threads of a block)."""
    name = re.search(r'\.visible \.entry (\w+)\(', ptx).group(1)
    threads = re.search(r'\.(?:req|max)ntid (\d+)', ptx)
    end = ptx.find('$L__func_end')
    body = ptx[ptx.index('{', threads.end()) + 1 : end if end > 0 else ptx.rindex('}')]
    body = re.sub(r'//[^\n]*', '', body)
    instructions, labels = [], {}
    for line in re.split(r'[;\n]', body.replace(':\n', ':;')):
        line = line.strip()
        if label := re.fullmatch(r'(\$\w+):', line):
            labels[label.group(1)] = len(instructions)
        elif (line and line[0] not in '.{}') or line.startswith('{ %'):
            instructions.append(_instruction(line))
    return instructions, labels, name, int(threads.group(1))


def _instruction(line: str) -> Instruction:
    guard, negated, rest = None, False, line
    if match := re.match(r'@(!?)(%p\d+)\s+(.*)', line):
        negated, guard, rest = match.group(1) == '!', match.group(2), match.group(3)
    opcode, _, operands = rest.partition(' ') if ' ' in rest else rest.partition('\t')
    opcode, extra = re.match(r'(\S+)\s*(.*)', opcode + ' ' + operands).groups()
    found = re.findall(r'\{[^}]*\}|\[[^]]*\]|[^,\s{}\[\]]+', extra)
    return Instruction(tuple(opcode.split('.')), tuple(map(_operand, found)), guard, negated, line)


def _operand(text: str):
    if text[0] == '{':
        return tuple(part.strip() for part in text[1:-1].split(','))
    if text[0] == '[':
        base, _, offset = text[1:-1].replace(' ', '').partition('+')
        return Access(base, int(offset or 0))
    return text


class Memory:
    """The tensors of a launch, by address; nothing else can be reached."""

    def __init__(self, arrays: list[tuple[int, np.ndarray]]):
        """arrays: (address, uint8 array)."""
        self.arrays = sorted(arrays, key=lambda pair: pair[0])
        self.starts = np.array([start for start, _ in self.arrays], np.uint64)

    def load(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """uint8 (threads, size)"""
        out = np.zeros((len(addresses), size), np.uint8)
        for rows, array, offsets in self._split(addresses, size):
            out[rows] = array[offsets[:, None] + np.arange(size)]
        return out

    def store(self, addresses: np.ndarray, values: np.ndarray) -> None:
        for rows, array, offsets in self._split(addresses, values.shape[1]):
            array[offsets[:, None] + np.arange(values.shape[1])] = values[rows]

    def _split(self, addresses: np.ndarray, size: int):
        index = np.searchsorted(self.starts, addresses, 'right').astype(int) - 1
        for i in np.unique(index):
            rows = np.flatnonzero(index == i)
            start, array = self.arrays[max(i, 0)]
            offsets = addresses[rows].astype(np.int64) - start
            if i < 0 or (offsets + size > array.size).any():
                bad = int(addresses[rows][offsets + size > array.size][0]) if i >= 0 else 0
                raise IndexError(f'{size} bytes at {bad:#x} are in no tensor of the launch')
            if (offsets % size).any():
                raise IndexError(f'an access of {size} bytes must be aligned')
            yield rows, array, offsets


class Machine:
    """Runs one kernel: Machine(ptx, memory, parameters, shared bytes).run(grid)."""

    def __init__(self, ptx: str, memory: Memory, parameters: list[bytes], shared: int):
        self.instructions, self.labels, self.name, self.threads = parse(ptx)
        self.memory, self.parameters, self.shared_bytes = memory, parameters, shared
        self.executed = 0

    def run(self, grid: tuple[int, ...]) -> None:
        """Every block of the grid, one after the other."""
        self.grid = (*grid, 1, 1)[:3]
        for x in range(self.grid[0]):
            for y in range(self.grid[1]):
                self._run_block((x, y, 0))

    def _run_block(self, block: tuple[int, int, int]) -> None:
        self.block, self.registers = block, {}
        self.shared = np.full(max(self.shared_bytes, 1), 0xA5, np.uint8)
        self.copies, self.groups = [], []
        self.products, self.product_groups = [], []
        pc = np.zeros(self.threads, np.int64)
        while (now := int(pc.min())) < END:
            self.active = pc == now
            instruction = self.instructions[now] if now < len(self.instructions) else None
            if instruction is None or instruction.parts[0] == 'ret':
                pc[self.mask(instruction) if instruction else self.active] = END
                pc[pc == now] += 1
                continue
            self.executed += 1
            taken = None
            if instruction.parts[0] == 'bra':
                taken = self.mask(instruction)
            else:
                self._execute(instruction)
            pc[self.active] = now + 1
            if taken is not None:
                pc[taken] = self.labels[instruction.operands[0]]

    def _execute(self, instruction: Instruction) -> None:
        try:
            ptx_ops.execute(self, instruction)
        except (KeyError, IndexError, ValueError, TypeError) as err:
            raise RuntimeError(f'{self.name}: {instruction.text}: {err!r}') from err

    def mask(self, instruction: Instruction) -> np.ndarray:
        """Threads that are here and that the guard lets pass."""
        if instruction.guard is None:
            return self.active
        guard = self.registers[instruction.guard]
        return self.active & (~guard if instruction.negated else guard)

    def read(self, operand: str, kind: str) -> np.ndarray:
        """A register or an immediate as an array of `kind`, one number a thread."""
        dtype = DTYPES[kind]
        if operand in self.registers:
            value = self.registers[operand]
            if value.dtype.itemsize == dtype.itemsize:
                return value.view(dtype)
            unsigned = np.dtype(f'u{dtype.itemsize}')
            return value.astype(unsigned).view(dtype)  # narrower: the low bits
        if re.fullmatch(
            r'%(r|rd|rs|f)\d+', operand
        ):  # nobody wrote it, so nothing may depend on it
            garbage = np.frombuffer(b'\xa5' * dtype.itemsize, dtype)
            return np.broadcast_to(garbage, self.threads)
        if re.match(r'[%A-Za-z_]', operand):
            return np.full(self.threads, 0, np.uint64) + self._special(operand).astype(np.uint64)
        if operand[:2] in ('0f', '0d'):
            raw = np.array(int(operand[2:], 16), 'u4' if operand[1] == 'f' else 'u8')
            return np.broadcast_to(raw.view(dtype), self.threads)
        number = int(operand.rstrip('U'), 0)
        raw = np.array(number & ((1 << 8 * dtype.itemsize) - 1), f'u{dtype.itemsize}')
        return np.broadcast_to(
            raw.astype(bool) if kind == 'pred' else raw.view(dtype), self.threads
        )

    def write(self, register: str, value: np.ndarray, mask: np.ndarray) -> None:
        """Set a register where mask; its width is in its name."""
        if register == '_':
            return
        raw = ptx_ops.raw(register, value)
        if mask.all():
            self.registers[register] = np.array(np.broadcast_to(raw, self.threads))
            return
        old = self.registers.setdefault(register, np.zeros(self.threads, raw.dtype))
        old[mask] = np.broadcast_to(raw, self.threads)[mask]

    def _special(self, name: str) -> np.ndarray:
        if name == '%tid.x':
            return np.arange(self.threads)
        for prefix, triple in (('%ctaid.', self.block), ('%nctaid.', self.grid)):
            if name.startswith(prefix):
                return np.array(triple['xyz'.index(name[-1])])
        if name.startswith('%'):
            raise KeyError(name)
        return np.array(0)  # where shared memory begins, and so do parameters
