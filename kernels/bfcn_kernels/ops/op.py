"""What every op of the integer graph has in common, and the table of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bfcn_kernels.values import Grid, MapShape, Value

if TYPE_CHECKING:
    from bfcn_kernels.records import RecordReader

BY_OPCODE: dict[int, type[Op]] = {}
STEP = 64  # operations that a step of anything but a product counts: products are many a cycle

Tensor = Callable[[str, type, tuple[int, ...]], np.ndarray]
Source = tuple[np.ndarray, Value]


def register(opcode: int, opname: str) -> Callable[[type[Op]], type[Op]]:
    """Enter a class in the table: `opcode` in files, `opname` in format.md, profiles and messages."""

    def enter(cls: type[Op]) -> type[Op]:
        if opcode in BY_OPCODE or opname in {op.opname for op in BY_OPCODE.values()}:
            raise ValueError(f'op {opname!r}: name or opcode {opcode} is taken')
        cls.opcode, cls.opname = opcode, opname
        BY_OPCODE[opcode] = cls
        return cls

    return enter


class Op(ABC):
    """One operation; a subclass is a frozen dataclass in a file of its own.

    A subclass gives its fields (`name` first), `sources`, `output`, `grid`, `record`, `read` and `run`;
    what else stands here has a default that fits most ops. docs/format.md gives each op's arithmetic.
    """

    opcode: ClassVar[int]
    opname: ClassVar[str]
    last_only: ClassVar[bool] = False  # no op may read its value
    name: str
    sources: tuple[str, ...]
    """Names of the values it reads; 'image' is the image."""

    @property
    def data_sources(self) -> tuple[str, ...]:
        """Those whose numbers it reads, and not their size alone."""
        return self.sources

    @property
    def addends(self) -> tuple[str, ...]:
        """Sources whose memory its value may take: it reads each number just before it writes there."""
        return ()

    @abstractmethod
    def output(self, *sources: Value) -> Value:
        """The value it writes. Raises GraphError if a rule is broken."""

    @abstractmethod
    def grid(self, image: Grid, *sources: Grid) -> Grid:
        """(height, width) of its value, given those of the image and of its sources."""

    def summands(self, *sources: int) -> int:
        """Of scores: how many convolutions' outputs they add; sources: those of its data sources."""
        return sum(sources)

    @abstractmethod
    def record(self, number: dict[str, int]) -> list[int]:
        """Its words in the file after the header; number: of each value, the image's is 0."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Its tensors in the file, by name."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, r: RecordReader, name: str, tensor: Tensor, values: dict[str, Value]) -> Op:
        """The op of a record. Raises GraphError; what `output` checks need not be checked here."""

    @abstractmethod
    def run(self, *sources: Source, grid: Grid) -> np.ndarray:
        """The oracle: its value in numpy, from (array, value) of its data sources, on `grid`.

        Codes and labels are uint8, scores float32; maps are (h, w, channels), labels (h, w).
        """

    def operations(self, out: MapShape, *sources: MapShape) -> int:
        """How much work it is, as max_ops counts: see docs/format.md."""
        return STEP * out.pixels * out.value.channels

    def temporary_bytes(self, out: MapShape, *sources: MapShape) -> int:
        """Of arrays on the way in numpy, from above."""
        return (16 + 8 * out.value.channels) * out.pixels


class UnaryOp(Op):
    """An op of one source, in the field `source`."""

    source: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


def float_word(value: float) -> int:
    """A float32 by its bits, as int32."""
    return np.float32(value).view(np.int32).item()
