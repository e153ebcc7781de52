"""Graph records: ops as int32 words, and back. Arrays travel beside them as named tensors."""

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.graph import Graph, check_names, named_layer
from bfcn_kernels.ops import BY_OPCODE
from bfcn_kernels.ops.op import Tensor
from bfcn_kernels.values import IMAGE, KINDS, Value, require, within

HEADER = 6


def encode(graph: Graph) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Words (int32) and tensors by name (uint8, uint64, float32) of a graph, validated here."""
    values = graph.validate()
    number = {name: index for index, name in enumerate(values)}
    words, tensors = [], {}
    for op in graph.ops:
        body = op.record(number)
        value = values[op.name]
        head = [op.opcode, HEADER + len(body), KINDS.index(value.kind), value.channels]
        words += [*head, value.bits, value.zero_point, *body]
        tensors.update(op.tensors())
    return np.array(words, np.int32), tensors


def decode(words: np.ndarray, names: list[str], tensor: Tensor) -> Graph:
    """The validated graph of words; tensor(name, dtype, shape) gives its arrays or raises.

    Raises GraphError for anything that format.md says a reader refuses.
    """
    check_names(names)
    decoded, values, position = [], {'image': IMAGE}, 0
    for name in names:
        with named_layer(name):
            reader = RecordReader(words[position:], list(values))
            op = BY_OPCODE[reader.opcode].read(reader, name, tensor, values)
            reader.finish()
            value = op.output(*(values[source] for source in op.sources))
            require(value == reader.value, f'must be described as {value}, got {reader.value}')
        values[name] = value
        decoded.append(op)
        position += reader.length
    require(position == len(words), f'graph must end at word {position}, got {len(words)}')
    graph = Graph(tuple(decoded))
    graph.validate()
    return graph


class RecordReader:
    """One record, read word by word; its header is read at once."""

    def __init__(self, words: np.ndarray, names: list[str]):
        self._names = names
        require(len(words) >= HEADER, f'record must have {HEADER} words, got {len(words)} left')
        self.opcode, self.length, kind, channels, bits, zero_point = words[:HEADER].tolist()
        within('opcode', self.opcode, 1, max(BY_OPCODE))
        within('record length', self.length, HEADER, len(words))
        within('kind', kind, 1, len(KINDS) - 1)
        within('channels', channels, 1, v.MAX_CHANNELS)
        codes = KINDS[kind] == 'codes'
        within('bits', bits, int(codes), 8 if codes else 0)
        within('zero_point', zero_point, 0, 2**bits - 1)
        self.value = Value(KINDS[kind], channels, bits, zero_point)
        self._words = words[HEADER : self.length].tolist()
        self._next = 0

    @property
    def grid_of_codes(self) -> tuple[int, int]:
        """bits and zero point of the value."""
        return self.value.bits, self.value.zero_point

    def require_codes(self) -> None:
        require(self.value.kind == 'codes', f'must be described as codes, got {self.value}')

    def int(self, name: str, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        require(self._next < len(self._words), f'record must hold {name}, got {self.length} words')
        word = self._words[self._next]
        self._next += 1
        within(name, word, low, high)
        return word

    def pair(self, name: str) -> tuple[int, int]:
        return self.int(name), self.int(name)

    def flag(self, name: str) -> bool:
        return bool(self.int(name, 0, 1))

    def float(self, name: str) -> float:
        return np.array(self.int(name), np.int32).view(np.float32).item()

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        return choices[self.int(name, 0, len(choices) - 1)]

    def source(self) -> str:
        return self._names[self.int('source', 0, len(self._names) - 1)]

    def finish(self) -> None:
        left = len(self._words) - self._next
        require(left == 0, f'record must end after {self.length - left} words, got {self.length}')
