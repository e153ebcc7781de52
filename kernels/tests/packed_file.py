"""Packed model files written word by word, so that each rule can be broken; standard library alone."""

import random
import struct
from dataclasses import dataclass, field

UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, FLOAT64 = 0, 4, 5, 6, 7, 8, 9, 10, 12
F32, F16, Q4_0, I8, I32, I64 = 0, 1, 2, 24, 26, 27
CODES, SCORES, LABELS = 1, 2, 3
ONE = struct.unpack('<i', struct.pack('<f', 1))[0]


def string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack('<Q', len(raw)) + raw


def array(kind: int, *items: bytes) -> bytes:
    return struct.pack('<IQ', kind, len(items)) + b''.join(items)


def floats(*values: float) -> bytes:
    return struct.pack(f'<{len(values)}f', *values)


def word(value: float) -> int:
    """A float's bits as an int32, as graph records hold it."""
    return struct.unpack('<i', struct.pack('<f', value))[0]


@dataclass
class Tensor:
    dims: list[int]  # fastest first
    kind: int
    data: bytes
    offset: int | None = None  # where the data is said to be, if not where it is


@dataclass
class PackedFile:
    """Keys, graph records and tensors; `bytes()` writes them down, true or not."""

    keys: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    more_keys: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    ops: dict[str, list[int]] = field(default_factory=dict)
    names: list[bytes] | None = None  # of the ops, if not their own
    tensors: dict[str | bytes, Tensor] = field(default_factory=dict)
    more_tensors: list[tuple[str | bytes, Tensor]] = field(default_factory=list)
    counts: tuple[int | None, int | None] = (None, None)  # of tensors and keys, if they lie
    magic: bytes = b'GGUF'
    version: int = 3
    backwards: bool = False  # the index lists tensors in another order than their data
    graph: Tensor | None = None  # in the place of the true one
    alignment: int = 8

    def add(self, name: str, opcode: int, out: tuple[int, int, int, int], *body: int) -> int:
        """Append a record; out is kind, channels, bits, zero point. Returns the value's number."""
        self.ops[name] = [opcode, 6 + len(body), *out, *body]
        return len(self.ops)

    def conv(
        self, name: str, out: tuple, terms: list[tuple], residuals: tuple[int, ...] = ()
    ) -> int:
        """terms: (source, its channels, kernel, weight bits, form, groups); padded to keep the size."""
        rng, body, channels = random.Random(name), [len(terms), len(residuals)], out[1]
        for index, (source, given, kernel, bits, form, groups) in enumerate(terms):
            pad = (kernel - 1) // 2
            body += [source, kernel, kernel, 1, 1, pad, pad, 1, 1, groups, bits, form]
            length = kernel * kernel * given // groups
            words = -(-length // 64)
            rows = [rng.getrandbits(length) for _ in range(channels * bits)]
            data = b''.join(row.to_bytes(8 * words, 'little') for row in rows)
            part = f'{name}:{index}' if index else name
            self.tensors[f'{part}.weight'] = Tensor([words, bits, channels], I64, data)
            scales = floats(*(rng.uniform(-0.1, 0.3) for _ in range(channels)))
            self.tensors[f'{part}.{"R" if index else "A"}'] = Tensor([channels], F32, scales)
        for source in residuals:
            body += [source, word(0.5)]
        bias = floats(*(rng.uniform(0, 1) for _ in range(channels)))
        self.tensors[f'{name}.B'] = Tensor([channels], F32, bias)
        return self.add(name, 2, out, *body)

    def bytes(self) -> bytes:
        keys = [(name, *value) for name, value in self.keys.items()]
        names = self.names or [name.encode() for name in self.ops]
        if b'bfcn.op_names' not in self.keys:
            keys.append((b'bfcn.op_names', ARRAY, array(STRING, *map(string, names))))
        if self.alignment != 32 and b'general.alignment' not in self.keys:
            keys.append((b'general.alignment', UINT32, struct.pack('<I', self.alignment)))
        keys += self.more_keys
        words = [word for record in self.ops.values() for word in record]
        graph = self.graph or Tensor([len(words)], I32, struct.pack(f'<{len(words)}i', *words))
        tensors = [('bfcn.graph', graph), *self.tensors.items(), *self.more_tensors]
        infos, data = [], b''
        for name, tensor in tensors:
            data += b'\0' * (-len(data) % self.alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            dims = struct.pack(f'<I{len(tensor.dims)}Q', len(tensor.dims), *tensor.dims)
            infos.append(string(name) + dims + struct.pack('<IQ', tensor.kind, offset))
            data += tensor.data
        counts = [
            given if given is not None else true
            for given, true in zip(self.counts, (len(tensors), len(keys)), strict=True)
        ]
        out = self.magic + struct.pack('<IQQ', self.version, *counts)
        out += b''.join(
            string(name) + struct.pack('<I', kind) + value for name, kind, value in keys
        )
        out += b''.join(reversed(infos) if self.backwards else infos)
        return out + b'\0' * (-len(out) % self.alignment) + data


def _empty() -> PackedFile:
    return PackedFile(
        {
            b'general.architecture': (STRING, string('bfcn')),
            b'bfcn.version': (UINT32, struct.pack('<I', 1)),
            b'bfcn.classes': (ARRAY, array(STRING, string('road'), string('Gebäude'))),
        }
    )


def _pixels(file: PackedFile, bits: int = 8) -> int:
    codes = bytes(code >> 8 - bits for code in range(256))
    file.tensors['pixels.table'] = Tensor([256, 3], I8, codes * 3)
    return file.add('pixels', 1, (CODES, 3, bits, 0), 2, 1, 0)


def tiny() -> PackedFile:
    """Pixels, a convolution, scores, labels: two kilobytes, for mutations of the container."""
    file = _empty()
    pixels = _pixels(file)
    stem = file.conv('stem', (CODES, 8, 2, 0), [(pixels, 3, 3, 2, 1, 1)])
    scores = file.conv('scores', (SCORES, 2, 0, 0), [(stem, 8, 1, 1, 2, 1)])
    file.add('labels', 11, (LABELS, 2, 0, 0), scores, 1)
    return file


def every_op() -> PackedFile:
    """Each op at least once, two terms, residuals, groups, every kind of resize."""
    file = _empty()
    codes, scores = (CODES, 8, 2, 0), (SCORES, 2, 0, 0)
    pixels = _pixels(file)
    stem = file.conv('stem', codes, [(pixels, 3, 3, 8, 1, 1)])
    joined = file.conv('joined', codes, [(stem, 8, 3, 1, 2, 1)], (stem,))
    pooled = file.add('pooled', 4, codes, joined, 2, 2, 2, 2, 0, 0, 1, 1, 1)
    file.tensors['low.table'] = Tensor([4], I8, bytes([0, 0, 1, 1]))
    low = file.add('low', 3, (CODES, 8, 1, 0), pooled)
    mean = file.add('mean', 5, codes, joined, 3, 3, 1, 1, 1, 1, 0, 1, word(1), word(0.25))
    one = file.add('one', 6, codes, mean, 1, 1, word(2), word(0))
    spread = file.add('spread', 7, codes, one, 0, 0, joined, 0, word(1), word(0))
    both = file.add('both', 9, (CODES, 16, 2, 0), 2, joined, spread)
    deep = file.conv('deep', codes, [(both, 16, 1, 1, 2, 1), (stem, 8, 3, 2, 2, 8)])
    coarse = file.conv('coarse', scores, [(low, 8, 1, 2, 1, 1)])
    fine = file.conv('fine', scores, [(deep, 8, 1, 1, 2, 1)])
    up = file.add('up', 7, scores, coarse, 1, 0, fine, 0, ONE, 0)
    sum_ = file.add('sum', 8, scores, up, fine)
    edge = file.add('edge', 10, scores, sum_, fine, 1)
    file.add('labels', 11, (LABELS, 2, 0, 0), edge, 1)
    return file
