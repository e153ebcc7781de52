"""The ops of the integer graph: what each is, what it makes of its sources, and on which grid.

`docs/format.md` gives each op's arithmetic; `reference.py` runs it. Every op has

    sources                    names of the values it reads
    output(*values) -> Value   the value it writes; raises GraphError on a broken rule
    grid(image, *grids)        (h, w) of that value, given the image's and its sources' (h, w)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bfcn_kernels import values as v
from bfcn_kernels.conv import BitConv
from bfcn_kernels.values import Grid, Value, pair, require, same_grid, within

RESIZE_MODES = ('nearest', 'bilinear', 'align_corners')


@dataclass(frozen=True, eq=False)
class ImageCodes:
    """uint8 pixels to codes: out[..., c] = tables[c][image[..., order[c]]]."""

    opcode: ClassVar[int] = 1
    name: str
    tables: np.ndarray  # uint8 (3, 256)
    order: tuple[int, int, int] = (0, 1, 2)
    bits: int = 8
    zero_point: int = 0
    sources: ClassVar[tuple[str, ...]] = ('image',)

    def output(self, image: Value) -> Value:
        v.kind('source', image, 'image')
        out = v.codes(3, self.bits, self.zero_point)
        v.array('tables', self.tables, np.uint8, (3, 256))
        v.entries('tables', self.tables, self.bits)
        require(len(self.order) == 3, f'order must name 3 channels, got {self.order}')
        for channel in self.order:
            within('order', channel, 0, 2)
        return out

    def grid(self, image: Grid, source: Grid) -> Grid:
        return image


@dataclass(frozen=True, eq=False)
class Table:
    """Codes to codes: out = table[q]."""

    opcode: ClassVar[int] = 3
    name: str
    source: str
    table: np.ndarray  # uint8 (2**bits of the source,)
    bits: int
    zero_point: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def output(self, source: Value) -> Value:
        v.kind('source', source, 'codes')
        out = v.codes(source.channels, self.bits, self.zero_point)
        v.array('table', self.table, np.uint8, (2**source.bits,))
        v.entries('table', self.table, self.bits)
        return out

    def grid(self, image: Grid, source: Grid) -> Grid:
        return source


@dataclass(frozen=True)
class MaxPool:
    """Largest code of each window; padding never wins."""

    opcode: ClassVar[int] = 4
    name: str
    source: str
    kernel: Grid
    stride: Grid
    padding: Grid = (0, 0)
    dilation: Grid = (1, 1)
    ceil: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def output(self, source: Value) -> Value:
        v.kind('source', source, 'codes')
        pair('dilation', self.dilation, 1)
        _check_window(self)
        return source

    def grid(self, image: Grid, source: Grid) -> Grid:
        return pooled(source, self.kernel, self.stride, self.padding, self.dilation, self.ceil)


@dataclass(frozen=True)
class AvgPool:
    """code(mean * A + B) of each window's mean of q - zero_point."""

    opcode: ClassVar[int] = 5
    name: str
    source: str
    kernel: Grid
    stride: Grid
    A: float
    B: float
    bits: int
    zero_point: int = 0
    padding: Grid = (0, 0)
    ceil: bool = False
    count_include_pad: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def output(self, source: Value) -> Value:
        _check_window(self)
        return _requantized(self, source)

    def grid(self, image: Grid, source: Grid) -> Grid:
        return pooled(source, self.kernel, self.stride, self.padding, (1, 1), self.ceil)


@dataclass(frozen=True)
class AdaptiveAvgPool:
    """code(mean * A + B) over size[0] x size[1] bins: floor(i*n/out) .. ceil((i + 1)*n/out)."""

    opcode: ClassVar[int] = 6
    name: str
    source: str
    size: Grid
    A: float
    B: float
    bits: int
    zero_point: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def output(self, source: Value) -> Value:
        pair('size', self.size, 1, v.MAX_SIDE)
        return _requantized(self, source)

    def grid(self, image: Grid, source: Grid) -> Grid:
        return self.size


@dataclass(frozen=True)
class Resize:
    """Nearest or bilinear, of codes (then code(v * A + B)) or of scores (bits None, A 1, B 0).

    Exactly one target: `like` (a value's name, or 'image'), `size` or `factor`.
    """

    opcode: ClassVar[int] = 7
    name: str
    source: str
    mode: str = 'bilinear'
    like: str | None = None
    size: Grid | None = None
    factor: Grid | None = None
    A: float = 1.0
    B: float = 0.0
    bits: int | None = None
    zero_point: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if self.like is None else (self.source, self.like)

    def output(self, source: Value, like: Value | None = None) -> Value:
        targets = [t for t in ('like', 'size', 'factor') if getattr(self, t) is not None]
        require(len(targets) == 1, f'one of like, size, factor must be given, got {targets}')
        require(self.mode in RESIZE_MODES, f'mode must be in {RESIZE_MODES}, got {self.mode!r}')
        if self.size is not None:
            pair('size', self.size, 1, v.MAX_SIDE)
        if self.factor is not None:
            pair('factor', self.factor, 1, 64)
        if source.kind == 'scores':
            require(
                (self.A, self.B, self.bits, self.zero_point) == (1.0, 0.0, None, 0),
                'a resize of scores must have A 1, B 0 and no bits, got '
                f'A {self.A}, B {self.B}, bits {self.bits}, zero point {self.zero_point}',
            )
            return source
        return _requantized(self, source)

    def grid(self, image: Grid, source: Grid, like: Grid | None = None) -> Grid:
        if self.factor is not None:
            return source[0] * self.factor[0], source[1] * self.factor[1]
        return self.size or like


@dataclass(frozen=True)
class Add:
    """Sum of two scores."""

    opcode: ClassVar[int] = 8
    name: str
    sources: tuple[str, str]

    def output(self, *sources: Value) -> Value:
        return _two_scores(sources)

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        same_grid(f'source {self.sources[1]!r}', grids[1], grids[0])
        return grids[0]


@dataclass(frozen=True)
class Concat:
    """Codes of one grid along channels."""

    opcode: ClassVar[int] = 9
    name: str
    sources: tuple[str, ...]

    def output(self, *sources: Value) -> Value:
        within('number of sources', len(sources), 1, 64)
        first = sources[0]
        for name, source in zip(self.sources, sources, strict=True):
            v.kind(f'source {name!r}', source, 'codes')
            require(
                (source.bits, source.zero_point) == (first.bits, first.zero_point),
                f'sources must share bits and zero point, got {first} and {source}; '
                'use a bit_conv of several terms instead',
            )
        return v.codes(sum(s.channels for s in sources), first.bits, first.zero_point)

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        for name, grid in zip(self.sources, grids, strict=True):
            same_grid(f'source {name!r}', grid, grids[0])
        return grids[0]


@dataclass(frozen=True)
class Mask:
    """up + fine near the boundaries between the labels of `up`, up elsewhere."""

    opcode: ClassVar[int] = 10
    name: str
    up: str
    fine: str
    dilation: int = 0

    @property
    def sources(self) -> tuple[str, str]:
        return self.up, self.fine

    def output(self, *sources: Value) -> Value:
        within('dilation', self.dilation, 0, v.MAX_EXTENT)
        return _two_scores(sources)

    def grid(self, image: Grid, *grids: Grid) -> Grid:
        same_grid(f'source {self.fine!r}', grids[1], grids[0])
        return grids[0]


@dataclass(frozen=True)
class ArgMax:
    """Scores resized to the image, then the first largest channel: labels."""

    opcode: ClassVar[int] = 11
    name: str
    source: str
    mode: str = 'bilinear'

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def output(self, source: Value) -> Value:
        v.kind('source', source, 'scores')
        require(self.mode in RESIZE_MODES, f'mode must be in {RESIZE_MODES}, got {self.mode!r}')
        require(source.channels <= 256, f'classes must be at most 256, got {source.channels}')
        return Value('labels', source.channels)

    def grid(self, image: Grid, source: Grid) -> Grid:
        return image


Op = (
    ImageCodes | BitConv | Table | MaxPool | AvgPool | AdaptiveAvgPool
    | Resize | Add | Concat | Mask | ArgMax
)  # fmt: skip


def pooled(
    source: Grid, kernel: Grid, stride: Grid, padding: Grid, dilation: Grid, ceil: bool
) -> Grid:
    """Output grid of a pooling window, by PyTorch's rule."""
    grid = []
    for n, k, s, p, d in zip(source, kernel, stride, padding, dilation, strict=True):
        out = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil else 0)) // s + 1
        if ceil and (out - 1) * s >= n + p:
            out -= 1
        grid.append(out)
    return tuple(grid)


def _check_window(op: MaxPool | AvgPool) -> None:
    pair('kernel', op.kernel, 1)
    pair('stride', op.stride, 1)
    pair('padding', op.padding, 0)
    for k, p in zip(op.kernel, op.padding, strict=True):
        require(
            2 * p <= k, f'padding must be at most half the kernel {op.kernel}, got {op.padding}'
        )


def _requantized(op: AvgPool | AdaptiveAvgPool | Resize, source: Value) -> Value:
    v.kind('source', source, 'codes')
    v.coefficient('A', op.A)
    v.coefficient('B', op.B)
    return v.codes(source.channels, op.bits, op.zero_point)


def _two_scores(sources: tuple[Value, ...]) -> Value:
    require(len(sources) == 2, f'sources must be two scores, got {len(sources)} values')
    for source in sources:
        v.kind('source', source, 'scores')
    require(
        sources[0].channels == sources[1].channels,
        f'sources must have equal channels, got {sources[0].channels} and {sources[1].channels}',
    )
    return sources[0]


OPS = (
    ImageCodes, BitConv, Table, MaxPool, AvgPool, AdaptiveAvgPool,
    Resize, Add, Concat, Mask, ArgMax,
)  # fmt: skip
# As format.md and profiles name them.
OP_NAMES = (
    'image_codes', 'bit_conv', 'table', 'max_pool', 'avg_pool', 'adaptive_avg_pool',
    'resize', 'add', 'concat', 'mask', 'argmax',
)  # fmt: skip


def op_name(op: Op) -> str:
    """What kind of op it is, e.g. 'bit_conv'."""
    return OP_NAMES[op.opcode - 1]
