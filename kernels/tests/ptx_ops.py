"""What PTX instructions do, on arrays with one number a thread: those that our kernels compile to."""

from dataclasses import dataclass

import numpy as np

DTYPES = {
    **{f'{kind}{8 * size}': np.dtype(f'{code}{size}')
       for kind, code in (('b', 'u'), ('u', 'u'), ('s', 'i')) for size in (1, 2, 4, 8)},
    'f16': np.dtype('f2'), 'f32': np.dtype('f4'), 'f64': np.dtype('f8'), 'pred': np.dtype(bool),
}  # fmt: skip
WIDTHS = {
    '%rd': np.dtype('u8'),
    '%rs': np.dtype('u2'),
    '%r': np.dtype('u4'),
    '%f': np.dtype('u4'),
    '%p': np.dtype(bool),
}


@dataclass(frozen=True)
class Access:
    """[base + offset]"""

    base: str
    offset: int


def execute(machine, instruction) -> None:
    """Run one instruction on the threads that its guard lets pass."""
    parts, mask = instruction.parts, machine.mask(instruction)
    with np.errstate(all='ignore'):
        if parts[0] in _MACHINE:
            _MACHINE[parts[0]](machine, instruction, mask)
            return
        target, *sources = instruction.operands
        value = _value(machine, parts, sources)
        machine.write(target, value, mask)


def raw(register: str, value: np.ndarray) -> np.ndarray:
    """A value as the bits that a register holds; signed ones are extended."""
    width = next(dtype for prefix, dtype in WIDTHS.items() if register.startswith(prefix))
    value = np.asarray(value)
    if width.kind == 'b':
        return value.astype(bool)
    if value.dtype.kind == 'f':
        return value.view(f'u{value.dtype.itemsize}').astype(width)
    return value.astype(width)  # C's rule: sign extension of signed, zero extension of unsigned


def _value(machine, parts: tuple[str, ...], sources: list) -> np.ndarray:
    name, kind = parts[0], parts[-1]
    if name == 'cvt':
        return _convert(machine.read(sources[0], kind), parts)
    if name == 'setp':
        a, b = (machine.read(source, kind) for source in sources)
        return _COMPARE[parts[1]](a, b)
    if name == 'selp':
        a, b = (machine.read(source, kind) for source in sources[:2])
        return np.where(machine.read(sources[2], 'pred'), a, b)
    if name == 'shfl':  # .sync, within a warp
        value, lane = machine.read(sources[0], kind), np.arange(machine.threads)
        by = machine.read(sources[1], 'b32').astype(int)
        return value[{'bfly': lane ^ by, 'idx': lane // 32 * 32 + by % 32}[parts[2]]]
    if name == 'redux':  # .sync.add
        if parts[2] != 'add':
            raise KeyError(parts)
        lanes = machine.read(sources[0], kind).reshape(-1, 32)
        return np.repeat(lanes.sum(1, dtype=lanes.dtype), 32)
    if name in ('shl', 'shr'):
        a, by = machine.read(sources[0], kind), machine.read(sources[1], 'b32').astype(int)
        bits = 8 * a.dtype.itemsize
        by = np.minimum(by, bits - 1) if a.dtype.kind == 'i' else by
        moved = a << by.astype(a.dtype) if name == 'shl' else a >> by.astype(a.dtype)
        return np.where(by < bits, moved, 0).astype(a.dtype)
    if name == 'bfe':
        a, at, length = (machine.read(s, k) for s, k in zip(sources, (kind, 'b32', 'b32')))  # noqa: B905
        bits = a.astype(np.uint64 if kind[0] == 'u' else np.int64)
        field = bits >> at.astype(bits.dtype) & ((1 << length.astype(np.int64)) - 1).astype(
            bits.dtype
        )
        sign = 1 << np.maximum(length.astype(np.int64) - 1, 0)
        signed = kind[0] == 's'
        return (np.where(field & sign, field - 2 * sign, field) if signed else field).astype(
            a.dtype
        )
    if name == 'bfi':
        a, b, at, length = (machine.read(source, 'b32').astype(np.int64) for source in sources)
        field = (1 << length) - 1
        return ((a & field) << at | b & ~(field << at)).astype(np.uint32)
    if name == 'prmt':
        return _permute(*(machine.read(source, 'b32') for source in sources))
    if name in ('mul', 'mad'):
        return _multiply(machine, parts, sources)
    return _PLAIN[name](*(machine.read(source, kind) for source in sources))


def _multiply(machine, parts: tuple[str, ...], sources: list) -> np.ndarray:
    kind = parts[-1]
    a, b = (machine.read(source, kind) for source in sources[:2])
    if kind[0] == 'f':
        product = a * b
        return product if parts[0] == 'mul' else _refuse('a fused float operation')
    wide = np.dtype(f'{a.dtype.kind}{min(8, 2 * a.dtype.itemsize)}')
    if parts[1] == 'lo':
        product = a * b
    elif parts[1] == 'wide':
        product = a.astype(wide) * b.astype(wide)
    else:
        product = (a.astype(wide) * b.astype(wide) >> wide.type(8 * a.dtype.itemsize)).astype(
            a.dtype
        )
    if parts[0] == 'mul':
        return product
    name = f'{kind[0]}{8 * product.dtype.itemsize}'
    return product + machine.read(sources[2], name)


def _convert(a: np.ndarray, parts: tuple[str, ...]) -> np.ndarray:
    target = DTYPES[parts[-2]]
    if a.dtype.kind == 'f' and target.kind == 'f' and len(parts) == 4 and parts[1] == 'rmi':
        return np.floor(a).astype(target)
    if a.dtype.kind == 'f' and target.kind in 'iu':
        if parts[1] != 'rzi':
            raise KeyError(parts)
        low, high = np.iinfo(target).min, np.iinfo(target).max
        return np.clip(np.trunc(a.astype(float)), low, high).astype(target)
    return a.astype(target)  # to nearest even, or by C's rules


def _permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    pool = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    out = np.zeros(len(a), np.uint64)
    for i in range(4):
        nibble = selector.astype(np.uint64) >> np.uint64(4 * i) & np.uint64(15)
        byte = pool >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        byte = np.where(nibble & 8, np.where(byte & 128, 255, 0), byte).astype(np.uint64)
        out |= byte << np.uint64(8 * i)
    return out.astype(np.uint32)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == 'f':
        return a / b
    safe = np.where(b == 0, 1, b)
    return (a - _remainder(a, safe)) // safe


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmod(a, np.where(b == 0, 1, b))


def _refuse(what: str):
    raise ValueError(f'{what} is not exact')


_COMPARE = {
    'eq': np.equal, 'ne': np.not_equal, 'neu': np.not_equal, 'lt': np.less, 'le': np.less_equal,
    'gt': np.greater, 'ge': np.greater_equal,
}  # fmt: skip
_PLAIN = {
    'add': np.add, 'sub': np.subtract, 'min': np.minimum, 'max': np.maximum, 'and': np.bitwise_and,
    'or': np.bitwise_or, 'xor': np.bitwise_xor, 'not': np.invert, 'neg': np.negative,
    'abs': np.abs, 'div': _divide, 'rem': _remainder, 'cvta': lambda address: address,
}  # fmt: skip


def _move(machine, instruction, mask) -> None:
    target, source = instruction.operands
    kind = instruction.parts[-1]
    if isinstance(source, tuple):  # a vector into one wider register
        size = DTYPES[kind].itemsize // len(source)
        pieces = [machine.read(part, f'b{8 * size}') for part in source]
        machine.write(target, np.stack(pieces, 1).view(DTYPES[kind])[:, 0], mask)
    elif isinstance(target, tuple):
        size = DTYPES[kind].itemsize // len(target)
        pieces = np.ascontiguousarray(machine.read(source, kind)).view(f'u{size}')
        for i, part in enumerate(target):
            machine.write(part, pieces.reshape(-1, len(target))[:, i], mask)
    else:
        machine.write(target, machine.read(source, kind), mask)


def _load(machine, instruction, mask) -> None:
    target, access = instruction.operands
    space, kind = instruction.parts[1], instruction.parts[-1]
    dtype = DTYPES[kind]
    targets = target if isinstance(target, tuple) else (target,)
    if space == 'param':
        values = _parameter(machine, access, dtype, len(targets))
        for register, value in zip(targets, values, strict=True):
            machine.write(register, value, mask)
        return
    size = dtype.itemsize * len(targets)
    rows = np.flatnonzero(mask)
    data = np.zeros((machine.threads, size), np.uint8)
    data[rows] = _fetch(machine, space, _addresses(machine, access)[rows], size)
    for i, register in enumerate(targets):
        piece = np.ascontiguousarray(data[:, i * dtype.itemsize : (i + 1) * dtype.itemsize])
        machine.write(register, piece.view(dtype)[:, 0], mask)


def _parameter(machine, access: Access, dtype: np.dtype, count: int) -> np.ndarray:
    """Of a parameter by name, or of the only one by address."""
    if access.base.startswith('%'):
        (value,) = machine.parameters
        start = int(machine.read(access.base, 'u64')[0]) + access.offset
    else:
        value, start = machine.parameters[int(access.base.rpartition('_')[2])], access.offset
    return np.frombuffer(value, dtype, count, start)


def _store(machine, instruction, mask) -> None:
    access, source = instruction.operands
    space, dtype = instruction.parts[1], DTYPES[instruction.parts[-1]]
    sources = source if isinstance(source, tuple) else (source,)
    pieces = [np.ascontiguousarray(machine.read(s, instruction.parts[-1])) for s in sources]
    data = np.stack(pieces, 1).view(np.uint8).reshape(machine.threads, -1)
    rows = np.flatnonzero(mask)
    addresses = _addresses(machine, access)[rows]
    if dtype.itemsize * len(sources) != data.shape[1]:
        raise ValueError('sizes differ')
    if space == 'global':
        machine.memory.store(addresses, data[rows])
    else:
        machine.shared[_within(machine, addresses, data.shape[1])] = data[rows]


def _fetch(machine, space: str, addresses: np.ndarray, size: int) -> np.ndarray:
    if space == 'global':
        return machine.memory.load(addresses, size)
    return machine.shared[_within(machine, addresses, size)]


def _within(machine, addresses: np.ndarray, size: int) -> np.ndarray:
    """Indices of shared bytes (threads, size)."""
    if len(addresses) and int(addresses.max()) + size > machine.shared_bytes:
        raise IndexError(f'{int(addresses.max())} + {size} is outside of shared memory')
    return addresses.astype(np.int64)[:, None] + np.arange(size)


def _addresses(machine, access: Access) -> np.ndarray:
    kind = 'u64' if access.base.startswith('%rd') else 'u32'
    offset = np.int64(access.offset)
    return (machine.read(access.base, kind).astype(np.int64) + offset).astype(np.uint64)


def _async(machine, instruction, mask) -> None:
    """cp.async: copies wait in groups until a wait_group asks for them."""
    what = instruction.parts[2]
    if what == 'commit_group':
        machine.groups.append(machine.copies)
        machine.copies = []
    elif what == 'wait_group':
        keep = int(instruction.operands[0])
        while len(machine.groups) > keep:
            for space, data in machine.groups.pop(0):
                machine.shared[space] = data
    else:
        target, source, size, *bytes_read = instruction.operands
        size, rows = int(size, 0), np.flatnonzero(mask)
        data = np.zeros((machine.threads, size), np.uint8)
        asked = machine.read(bytes_read[0], 'u32') if bytes_read else np.full(machine.threads, size)
        real = rows[asked[rows] > 0]
        data[real] = machine.memory.load(_addresses(machine, source)[real], size)
        space = _within(machine, _addresses(machine, target)[rows], size)
        machine.copies.append((space, data[rows]))


def _ldmatrix(machine, instruction, mask) -> None:
    """8 x 8 matrices of 16 bits: lane 8 * i + r names row r of matrix i; lane t gets its 32 bits t."""
    targets, access = instruction.operands
    if 'trans' in instruction.parts:
        raise KeyError(instruction.parts)
    addresses = _addresses(machine, access).reshape(-1, 32)
    lane = np.arange(32)
    for i, register in enumerate(targets):
        row = addresses[:, 8 * i + lane // 4] + (lane % 4 * 4).astype(np.uint64)
        data = machine.shared[_within(machine, row.reshape(-1), 4)]
        machine.write(register, np.ascontiguousarray(data).view(np.uint32)[:, 0], mask)


def _mma(machine, instruction, mask) -> None:
    """m16n8k32 of int8, saturated to int32, or m16n8k256 of bits."""
    if instruction.parts[-6:] == ('s32', 'b1', 'b1', 's32', 'and', 'popc'):
        _mma_bits(machine, instruction, mask)
        return
    if instruction.parts[-4:] != ('s32', 's8', 's8', 's32') or 'm16n8k32' not in instruction.parts:
        raise KeyError(instruction.parts)
    d, a, b, c = instruction.operands
    warps = machine.threads // 32
    left, right = np.zeros((warps, 16, 32), np.int64), np.zeros((warps, 32, 8), np.int64)
    total = np.zeros((warps, 16, 8), np.int64)
    lane = np.arange(32)
    group, k = lane // 4, (lane % 4)[:, None] * 4 + np.arange(4)
    for i, register in enumerate(a):
        left[:, (group + 8 * (i % 2))[:, None], k + 16 * (i // 2)] = _lanes(machine, register, 's8')
    for i, register in enumerate(b):
        right[:, k + 16 * i, group[:, None]] = _lanes(machine, register, 's8')
    place = [(group + 8 * (i // 2), lane % 4 * 2 + i % 2) for i in range(4)]
    for (row, column), register in zip(place, c, strict=True):
        total[:, row, column] = _lanes(machine, register, 's32')[..., 0]
    total = np.clip(total + left @ right, -(2**31), 2**31 - 1).astype(np.int32)
    for (row, column), register in zip(place, d, strict=True):
        machine.write(register, total[:, row, column].reshape(-1), mask)


def _mma_bits(machine, instruction, mask) -> None:
    """m16n8k256: k is 8 words, of which lane t of a quad has the words t and t + 4."""
    if 'm16n8k256' not in instruction.parts:
        raise KeyError(instruction.parts)
    d, a, b, c = instruction.operands
    warps, lane = machine.threads // 32, np.arange(32)
    row, word = lane // 4, lane % 4
    left, right = np.zeros((warps, 16, 8), np.uint32), np.zeros((warps, 8, 8), np.uint32)
    for i, register in enumerate(a):
        left[:, row + 8 * (i % 2), word + 4 * (i // 2)] = _lanes(machine, register, 'u32')[..., 0]
    for i, register in enumerate(b):
        right[:, row, word + 4 * i] = _lanes(machine, register, 'u32')[..., 0]
    counts = np.bitwise_count(left[:, :, None] & right[:, None]).sum(-1, dtype=np.int64)
    for i, (old, new) in enumerate(zip(c, d, strict=True)):
        count = counts[:, row + 8 * (i // 2), lane % 4 * 2 + i % 2]
        total = count + _lanes(machine, old, 's32')[..., 0]
        machine.write(new, total.astype(np.int32).reshape(-1), mask)


def _stmatrix(machine, instruction, mask) -> None:
    """Inverse of ldmatrix."""
    access, sources = instruction.operands
    addresses = _addresses(machine, access).reshape(-1, 32)
    lane = np.arange(32)
    for i, register in enumerate(sources):
        row = addresses[:, 8 * i + lane // 4] + (lane % 4 * 4).astype(np.uint64)
        words = np.ascontiguousarray(machine.read(register, 'b32'))
        machine.shared[_within(machine, row.reshape(-1), 4)] = words.view(np.uint8).reshape(-1, 4)


def _wgmma(machine, instruction, mask) -> None:
    """Products wait in groups until a wait_group asks for them: operands must be there until then."""
    what = instruction.parts[1]
    if what == 'commit_group':
        machine.product_groups.append(machine.products)
        machine.products = []
    elif what == 'wait_group':
        while len(machine.product_groups) > int(instruction.operands[0]):
            for product in machine.product_groups.pop(0):
                _warpgroup_product(machine, product, mask)
    elif what == 'mma_async':
        if instruction.parts[-3:] != ('s32', 's8', 's8') and not _of_bits(instruction):
            raise KeyError(instruction.parts)
        machine.products.append(instruction)
    elif what != 'fence':
        raise KeyError(instruction.parts)


def _warpgroup_product(machine, instruction, mask) -> None:
    """d = a * b (+ d): 64 rows a warpgroup, a in registers or shared memory, b in shared memory."""
    d, a, b, accumulate = instruction.operands[:4]
    columns, groups, lane = len(d) * 2, machine.threads // 128, np.arange(32)
    if f'm64n{columns}k{256 if _of_bits(instruction) else 32}' not in instruction.parts:
        raise KeyError(instruction.parts)
    right = _tile(machine, b, columns).transpose(0, 2, 1)
    if _of_bits(instruction):  # bytes to bits, in the same order on both sides
        bits = np.zeros((groups * 4, 16, 32), np.uint8)
        for i, register in enumerate(a):
            k = (lane % 4)[:, None] * 4 + np.arange(4) + 16 * (i // 2)
            bits[:, (lane // 4 + 8 * (i % 2))[:, None], k] = _lanes(machine, register, 'u8')
        left = np.unpackbits(bits, axis=-1).astype(np.int64).reshape(groups, 64, 256)
        right = np.unpackbits(right.astype(np.uint8), axis=1).astype(np.int64)
    elif isinstance(a, tuple):
        left = np.zeros((groups * 4, 16, 32), np.int64)
        row, k = lane // 4, (lane % 4)[:, None] * 4 + np.arange(4)
        for i, register in enumerate(a):
            numbers = _lanes(machine, register, 's8')
            left[:, (row + 8 * (i % 2))[:, None], k + 16 * (i // 2)] = numbers
        left = left.reshape(groups, 64, 32)
    else:
        left = _tile(machine, a, 64)
    total = (left @ right).reshape(groups * 4, 16, columns)
    keep = machine.read(accumulate, 'pred').reshape(-1, 32)
    for i, register in enumerate(d):
        row, column = lane // 4 + 8 * (i // 2 % 2), i // 4 * 8 + lane % 4 * 2 + i % 2
        before = np.where(keep, _lanes(machine, register, 's32')[..., 0].astype(np.int64), 0)
        machine.write(register, (total[:, row, column] + before).astype(np.int32).reshape(-1), mask)


def _of_bits(instruction) -> bool:
    return instruction.parts[-5:] == ('s32', 'b1', 'b1', 'and', 'popc')


def _tile(machine, descriptor: str, rows: int) -> np.ndarray:
    """int64 (warpgroups, rows, 32) of shared memory: rows of k, swizzled in groups of eight."""
    tiles = []
    for word in machine.read(descriptor, 'u64')[::128].tolist():
        start, stride = (word & 0x3FFF) << 4, (word >> 32 & 0x3FFF) << 4
        width = {1: 128, 2: 64, 3: 32}[word >> 62]
        row, k = np.arange(rows)[:, None], np.arange(32)
        at = start + row // 8 * stride + row % 8 * width + k
        at ^= (at >> 7 & width // 16 - 1) << 4
        data = machine.shared[_within(machine, at.reshape(-1).astype(np.uint64), 1)]
        tiles.append(data.view(np.int8).reshape(rows, 32).astype(np.int64))
    return np.stack(tiles)


def _lanes(machine, register: str, kind: str) -> np.ndarray:
    """(warps, 32, numbers of a register)"""
    words = np.ascontiguousarray(machine.read(register, 'b32'))
    return words.view(DTYPES[kind]).reshape(len(words) // 32, 32, -1)


def _nothing(machine, instruction, mask) -> None:
    """Threads of a block run in step: nobody has to be waited for."""


_MACHINE = {
    'mov': _move, 'ld': _load, 'st': _store, 'cp': _async, 'ldmatrix': _ldmatrix, 'mma': _mma,
    'bar': _nothing, 'fence': _nothing, 'stmatrix': _stmatrix, 'wgmma': _wgmma,
}  # fmt: skip
