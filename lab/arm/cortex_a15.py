"""Cycles of straight-line code on a Cortex-A15, from published issue rates.

LLVM has no model of this core, so the numbers are those of GCC's pipeline description
(gcc/config/arm/cortex-a15.md and cortex-a15-neon.md): three micro-ops dispatched a cycle; two
integer pipes, a multiplier, a branch unit; two address pipes with one load and one store a cycle;
two NEON pipes, of which one multiplies integers and the other shifts and accumulates. Results wait
for operands; caches always hit; branches are always foreseen. Two departures: loads and stores move
at most 16 bytes a cycle, where GCC's description allows a load 32; and an accumulation hands its sum
to the next one early, as Arm's guide to the Cortex-A57 has it, where GCC's waits for the register.
How many micro-ops can be in flight is not published: WINDOW is what LLVM takes for the Cortex-A57.
"""

import re
from dataclasses import dataclass
from functools import cache

DISPATCH, WINDOW = 3, 128  # micro-ops a cycle; in flight
FORWARD = {
    'mla': 4,
    'mls': 4,
    'fma': 4,
    'fms': 4,
    'mlal': 1,
    'mlsl': 1,
    'padal': 1,
    'aba': 1,
    'sra': 1,
}
UNITS = {'sx': 2, 'mx': 1, 'bx': 1, 'ls': 2, 'ldr': 1, 'str': 1, 'ij': 1, 'ik': 1}


@dataclass(frozen=True)
class Op:
    """slots: micro-ops; units: (unit, cycles it is held) of UNITS, or 'cx' for either NEON pipe."""

    slots: int
    latency: int
    units: tuple[tuple[str, int], ...] = ()


def _cx(latency: int, both: bool = False) -> Op:
    return Op(2, latency, (('ij', 1), ('ik', 1))) if both else Op(1, latency, (('cx', 1),))


_KINDS = {
    'basic': 'add sub and orr eor bic orn addl addw subl subw neg tst padd paddl mvn',
    'complex': 'abs hadd rhadd hsub qadd qsub qabs qneg ceq cge cgt cle clt acge acgt max min pmax '
    'pmin addhn subhn',
    'multiply': 'mul mull mla mls mlal mlsl qdmull qdmulh qdmlal qrdmulh',
    'shift': 'shl shr shll shrn rshr rshrn sli sri movl qshl qshrn qshrun rshl qrshl qrshrun',
    'bitops': 'cnt bsl bit bif cls clz rev16 rev32 rev64 ext dup mov movn qmovn qmovun swp',
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names.split()}


@cache
def cost(text: str) -> Op:
    """What one instruction takes, by its mnemonic and operands."""
    mnemonic, _, rest = text.partition('\t')
    name, _, kind = mnemonic.partition('.')
    if name.startswith('v'):
        return _vector(name[1:], kind, rest)
    return _scalar(name, rest)


def _vector(name: str, kind: str, rest: str) -> Op:
    operands = _operands(rest)
    quad = bool(re.match(r'q\d', operands[0]))
    core = bool(re.search(r'\b(r\d+|lr|ip|sp)\b', re.sub(r'\[[^\]]*\]!?', '', rest)))
    if name in ('ldr', 'ld1', 'ld2', 'ld3', 'ld4', 'ldmia', 'ldmdb', 'pop'):
        return _vector_load(name, rest)
    if name in ('str', 'st1', 'st2', 'st3', 'st4', 'stmia', 'stmdb', 'push'):
        return _vector_store(name, rest)
    if name in ('mrs', 'msr'):
        return Op(2, 7, (('ls', 2),))
    if core:
        to_vector = bool(re.match(r'[qds]\d', operands[0]))
        return (
            Op(2, 9, (('ls', 2), ('cx', 2 if quad else 1))) if to_vector else Op(2, 7, (('ls', 2),))
        )
    if re.match(r's\d', operands[0]) or 'f64' in kind:
        return _vfp(name, 'f64' in kind)
    if 'f32' in kind and name not in ('mov', 'dup', 'neg', 'abs'):
        return _vector_float(name, quad)
    if _KIND.get(name) == 'multiply':
        return Op(2, 7, (('ij', 2),)) if quad and not name.endswith('l') else Op(1, 6, (('ij', 1),))
    if name in ('padal', 'aba', 'abal'):
        return Op(1, 7, (('ik', 1),))
    if name in ('sra', 'rsra'):
        return Op(1, 7, (('ik', 1),))
    if _KIND.get(name) == 'shift':
        by_register = name in ('shl', 'rshl', 'qshl', 'qrshl') and '#' not in rest
        return Op(2, 5, (('ik', 2),)) if by_register and quad else Op(1, 4, (('ik', 1),))
    if name in ('tbl', 'tbx'):
        wide = len(_registers(rest[rest.find('{') : rest.find('}')])) > 2
        return Op(2, 7, (('ij', 1), ('ik', 1))) if wide else _cx(4)
    if name in ('zip', 'uzp', 'trn'):
        return Op(3, 7, (('cx', 3),)) if quad else _cx(4)
    if name in ('cnt', 'bsl', 'bit', 'bif', 'cls', 'clz', 'rev16', 'rev32', 'rev64') and quad:
        return _cx(4, both=True)
    if name in ('abd', 'abdl') and quad:
        return Op(2, 5, (('cx', 2),))
    if _KIND.get(name) == 'complex' or name == 'abd':
        return _cx(5)
    if name in _KIND or name in ('abdl', 'cvt'):
        return _cx(4)
    raise ValueError(f'no Cortex-A15 rate for NEON instruction v{name}.{kind} {rest}')


def _vector_float(name: str, quad: bool) -> Op:
    if name == 'cvt':
        return Op(2, 6, (('cx', 2), ('ik', 1))) if quad else Op(1, 6, (('ik', 1),))
    latency = {'mul': 5, 'mla': 9, 'mls': 9, 'fma': 9, 'fms': 9, 'recps': 9, 'rsqrts': 9}
    return _cx(latency.get(name, 6), both=quad)


def _vfp(name: str, double: bool) -> Op:
    if name in ('div', 'sqrt'):
        return Op(1, 18 if double else 10, (('ik', 18 if double else 10),))
    if name in ('mov', 'abs', 'neg'):
        return _cx(4)
    if name in ('cmp', 'cmpe'):
        return Op(2, 8, (('cx', 1), ('ik', 1)))
    latency = (12 if double else 7) if 'mul' in name else (11 if double else 6)
    return Op(2 if double else 1, latency, (('ik', 2 if double else 1),))


def _vector_bytes(rest: str) -> int:
    head = rest[: rest.find('[')] if '[' in rest else rest
    size = {'q': 16, 'd': 8, 's': 4}
    listed = re.findall(r'\b([qds])(\d+)(?:-[qds](\d+))?', head)
    return sum(size[k] * (int(end) - int(first) + 1 if end else 1) for k, first, end in listed)


def _vector_load(name: str, rest: str) -> Op:
    if name in ('ld2', 'ld3', 'ld4'):
        return Op(4, 11, (('ls', 2), ('ldr', 2)))
    if re.search(r'd\d+\[', rest):
        return Op(2, 9, (('ls', 2), ('ldr', 2)))
    cycles = -(-_vector_bytes(rest) // 16)
    return Op(cycles, 6, (('ls', 1), ('ldr', cycles)))


def _vector_store(name: str, rest: str) -> Op:
    if re.search(r'd\d+\[', rest):
        return Op(2, 1, (('ls', 2), ('str', 1), ('cx', 1)))
    cycles = -(-_vector_bytes(rest) // 16)
    extra = name in ('st2', 'st3', 'st4')
    return Op(cycles + 2 * extra, 1, (('ls', 2), ('str', cycles), *((('cx', 1),) if extra else ())))


def _scalar(name: str, rest: str) -> Op:
    if re.match(r'(b|bl|blx|bx|cbz|cbnz|tbb|tbh|b[a-z]{2})$', name) and name != 'bic':
        return Op(1, 1, (('bx', 1),))
    if name.startswith(('ldm', 'pop', 'stm', 'push')):
        words = len(_registers(rest[rest.find('{') :]))
        cycles = -(-words // 2)
        load = name.startswith(('ldm', 'pop'))
        return Op(cycles, 5 if load else 1, (('ls', 1), ('ldr' if load else 'str', cycles)))
    if name.startswith('ldr'):
        return Op(1, 4, (('ls', 1), ('ldr', 1)))
    if name.startswith('str'):
        return Op(1, 1, (('ls', 1), ('str', 1)))
    if name.startswith(('umull', 'smull', 'umlal', 'smlal', 'umaal')):
        return Op(1, 4, (('mx', 2),))
    if name.startswith(('mul', 'mla', 'mls', 'smul', 'smla', 'smmul')):
        return Op(1, 3, (('mx', 1),))
    if name.startswith(('udiv', 'sdiv')):
        return Op(1, 10, (('mx', 10),))
    if re.search(r'(lsl|lsr|asr|ror) ', rest) or name.startswith(('uxt', 'sxt')):
        return Op(1, 2, (('sx', 2),))
    return Op(1, 1, (('sx', 1),))


def _operands(rest: str) -> list[str]:
    return [part.strip() for part in re.split(r',(?![^{\[]*[}\]])', rest)]


def _registers(text: str) -> tuple[str, ...]:
    """Names of core registers and of the d registers that q, d and s name."""
    found = []
    for kind, first, last in re.findall(r'\b([qdsr])(\d+)(?:-[qdsr](\d+))?', text):
        for number in range(int(first), int(last or first) + 1):
            if kind == 'q':
                found += [f'd{2 * number}', f'd{2 * number + 1}']
            else:
                found.append(f'd{number // 2}' if kind == 's' else f'{kind}{number}')
    return (*found, *re.findall(r'\b(sp|lr|ip|pc)\b', text))


@cache
def flow(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Registers that an instruction reads, and those it writes."""
    mnemonic, _, rest = text.partition('\t')
    name = mnemonic.partition('.')[0]
    operands = _operands(rest)
    inside = (
        re.findall(r'\[([^\]]*)\]', rest) if '[' in rest and not re.search(r'd\d+\[', rest) else []
    )
    address = _registers(' '.join(inside)) or (
        _registers(rest[rest.rfind('[') :]) if '[' in rest else ()
    )
    stepped = rest.rstrip().endswith('!') or re.search(r'\],', rest)
    base = address[:1] if stepped else ()
    stores = name.startswith(('str', 'vst', 'stm', 'push', 'vpush'))
    compares = name.startswith(('cmp', 'cmn', 'tst', 'teq', 'vcmp', 'cb', 'tb')) or (
        name.startswith('b') and not name.startswith(('bic', 'bfi', 'bfc'))
    )
    if stores or compares:
        return _registers(rest), base
    if name.startswith(('ldr', 'vldr', 'vld', 'ldm', 'pop', 'vpop')):
        head = rest[: rest.find('[')] if '[' in rest else rest
        lanes = _registers(head) if re.search(r'd\d+\[\d', rest) else ()
        return (*address, *lanes), (*_registers(head), *base)
    pairs = 2 if name in ('umull', 'smull', 'umlal', 'smlal') else 1
    written = _registers(' '.join(operands[:pairs]))
    read = _registers(' '.join(operands[pairs:]))
    updates = re.match(
        r'v(ml[as]|fm[as]|padal|aba|r?sra|s[lr]i|bsl|bi[tf]|tbx|zip|uzp|trn|swp)', name
    )
    moves = name.startswith(('mov', 'mvn', 'v', 'uxt', 'sxt', 'clz'))
    if updates or (len(operands) == 2 and not moves):
        read += written
    if re.match(r'v(zip|uzp|trn|swp)', name):
        written += read
    return read, written


@cache
def accumulates(text: str) -> tuple[str, int] | None:
    """The kind of accumulation and the cycles after which the next of its kind can begin, or None."""
    match = re.match(r'v(mla|mls|fma|fms|mlal|mlsl|padal|aba|sra)\.([a-z])', text)
    if not match:
        return None
    return text.partition('\t')[0], FORWARD[match[1]] if match[2] == 'f' else 1


def cycles(block: list[str], loops: bool, iterations: int = 24) -> float:
    """Cycles that one more run of a block takes, when it runs again and again.

    loops: it branches to itself, so that a run waits for the results of the one before.
    """
    core = _Core()
    half = iterations // 2
    marks = []
    for iteration in range(iterations):
        if iteration in (half, iterations - 1):
            marks.append(core.retired)
        if not loops:
            core.ready.clear()
            core.sums.clear()
        for text in block:
            core.run(text)
    return (marks[1] - marks[0]) / (iterations - 1 - half)


class _Core:
    """Micro-ops enter in order, start when their operands and units are free, and leave in order."""

    def __init__(self):
        self.busy = {unit: {} for unit in UNITS}
        self.ready: dict[str, int] = {}
        self.sums: dict[
            str, tuple[str, int]
        ] = {}  # register: which accumulation, when it may go on
        self.leaving = [0] * WINDOW
        self.entry, self.entered, self.retired = 0, 0, 0

    def run(self, text: str) -> None:
        op = cost(text)
        read, written = flow(text)
        for _ in range(op.slots):
            if self.entered == DISPATCH:
                self.entry, self.entered = self.entry + 1, 0
            oldest = self.leaving.pop(0)
            if oldest > self.entry:
                self.entry, self.entered = oldest, 0
            self.entered += 1
            self.leaving.append(0)
        sums = accumulates(text)
        start = self._reserve(op, max([self.entry, *(self._when(n, written, sums) for n in read)]))
        for name in written:
            self.ready[name] = start + op.latency
            self.sums.pop(name, None)
            if sums:
                self.sums[name] = sums[0], start + sums[1]
        self.retired = max(self.retired, start + op.latency)
        for slot in range(op.slots):
            self.leaving[-1 - slot] = self.retired

    def _when(self, name: str, written: tuple[str, ...], sums: tuple[str, int] | None) -> int:
        """When a register that an instruction reads is there; a running sum may be early."""
        if sums and name in written:
            kind, early = self.sums.get(name, ('', 0))
            if kind == sums[0]:
                return early
        return self.ready.get(name, 0)

    def _reserve(self, op: Op, start: int) -> int:
        while True:
            chosen = self._choose(op, start)
            if chosen is not None:
                break
            start += 1
        for unit, held in chosen:
            for cycle in range(start, start + held):
                self.busy[unit][cycle] = self.busy[unit].get(cycle, 0) + 1
        return start

    def _choose(self, op: Op, start: int) -> list[tuple[str, int]] | None:
        """Units for a start at this cycle, or None if one is taken. 'ls' 2 means both pipes."""
        chosen: list[tuple[str, int]] = []
        for unit, held in op.units:
            if unit == 'ls':
                free = 2 - self.busy['ls'].get(start, 0)
                if free < held:
                    return None
                chosen += [('ls', 1)] * held
                continue
            options = ('ij', 'ik') if unit == 'cx' else (unit,)
            fits = [
                name
                for name in options
                if all(
                    self.busy[name].get(cycle, 0) < UNITS[name]
                    for cycle in range(start, start + held)
                )
            ]
            if not fits:
                return None
            chosen.append((fits[0], held))
        return chosen
