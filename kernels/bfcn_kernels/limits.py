"""What a model may take, memory and arithmetic, worked out before either is spent.

A file of a few kilobytes can describe maps of gigabytes and products without end: one changed word does.
Every engine refuses an image that would take more than its limits.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from bfcn_kernels.files import file_bytes
from bfcn_kernels.graph import Graph
from bfcn_kernels.ops import BitConv, Op
from bfcn_kernels.values import Grid, MapShape, Value

DEFAULT_MAX_OPS = 2**44
_SIZES_KNOWN = 64  # image sizes whose needs are remembered
# Bytes that reading takes, in sizes of the file: its own, a code a byte where the file has a bit, and
# as much again while one tensor is unpacked.
READING = 18


class WorkError(ValueError):
    """An image would take more arithmetic than max_ops."""


@dataclass(frozen=True)
class Limits:
    """Of one engine.

    max_bytes: of all that a model makes the engine allocate; None: half of what is free now.
    max_ops: operations an image, as docs/format.md counts them; None: 2**44. Raises ValueError.
    """

    max_bytes: int | None = None
    max_ops: int | None = None
    _known: dict[Grid, tuple] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ('max_bytes', 'max_ops'):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value < 2**63):
                raise ValueError(f'{name} must be None or an int in 1..2**63 - 1, got {value!r}')

    def check_file(self, path: str | Path, times: int = 1) -> None:
        """Raise MemoryError if `times` a file's size is too much, FileError without a file."""
        self.check_bytes(times * file_bytes(path), f'{path}: reading the file takes')

    def check_image(
        self, graph: Graph, height: int, width: int, batch: int = 1, free: int | None = None
    ) -> None:
        """Raise WorkError, or MemoryError for an engine in numpy or torch; GraphError for a bad size.

        free: bytes of the device's memory; None: of this machine's.
        """
        self.check_work(graph, height, width)
        *_, each, weights = self._needs(graph, height, width)
        images = f'{batch} images' if batch > 1 else 'an image'
        self.check_bytes(batch * each + weights, f'{images} of {height} x {width}: up to', free)

    def check_work(self, graph: Graph, height: int, width: int) -> None:
        """Raise WorkError if an image takes too many operations, GraphError for a bad size."""
        limit = DEFAULT_MAX_OPS if self.max_ops is None else self.max_ops
        total = 0
        for name, count in self._needs(graph, height, width)[0]:
            total += count
            if total > limit:
                raise WorkError(
                    f'layer {name!r}: an image of {height} x {width} takes at least {total} operations, '
                    f'max_ops is {limit}: take a smaller image, or a larger max_ops for a file you trust'
                )

    def check_bytes(self, needed: int, what: str, free: int | None = None) -> None:
        """Raise MemoryError where `what` needs too many bytes; free: of a GPU, None: of this machine."""
        limit = self.max_bytes
        if limit is None:
            limit = (free_bytes() if free is None else free) // 2
        if needed > limit:
            raise MemoryError(
                f'{what} {needed} bytes, max_bytes is {limit}: take a smaller image, more memory, or a '
                'larger max_bytes for a file you trust'
            )

    def _needs(
        self, graph: Graph, height: int, width: int
    ) -> tuple[list[tuple[str, int]], int, int]:
        """Operations by layer, bytes of maps and of weights: worked out once a size."""
        needs = self._known.get((height, width))
        if needs is None:
            work = list(operations(graph, height, width).items())
            needs = work, map_bytes(graph, height, width), weight_bytes(graph)
            if len(self._known) >= _SIZES_KNOWN:
                self._known.clear()
            self._known[height, width] = needs
        return needs


def operations(graph: Graph, height: int, width: int) -> dict[str, int]:
    """Operations of each op for an image of height x width, by name: see docs/format.md."""
    values, grids = graph.validate(), graph.shapes(height, width)
    return {op.name: op.operations(*_sized(op, values, grids)) for op in graph.ops}


def _sized(op: Op, values: dict[str, Value], grids: dict[str, Grid]) -> list[MapShape]:
    """The op's value and its sources at one image size."""
    return [MapShape(values[name], grids[name]) for name in (op.name, *op.sources)]


def map_bytes(graph: Graph, height: int, width: int) -> int:
    """Most bytes that maps and temporary arrays take in numpy, from above: a code takes a byte."""
    values, grids, last = graph.validate(), graph.shapes(height, width), graph.last_reads()
    live, peak = {}, 0
    for index, op in enumerate(graph.ops):
        live[op.name] = _array_bytes(values[op.name], grids[op.name])
        peak = max(peak, sum(live.values()) + op.temporary_bytes(*_sized(op, values, grids)))
        live = {name: size for name, size in live.items() if last[name] > index}
    return peak


def weight_bytes(graph: Graph) -> int:
    """Bytes of all weights as codes of a byte each, and of their coefficients."""
    return sum(op.weight_bytes() for op in graph.ops if isinstance(op, BitConv))


def _array_bytes(value: Value, grid: Grid) -> int:
    return (
        grid[0]
        * grid[1]
        * {'scores': 4 * value.channels, 'codes': value.channels}.get(value.kind, 1)
    )


def free_bytes() -> int:
    """Memory that can be had now without swapping, within a container's own limit."""
    free = _meminfo()
    root = Path('/sys/fs/cgroup')
    for most, used, folder in (
        ('memory.max', 'memory.current', root),
        ('memory.limit_in_bytes', 'memory.usage_in_bytes', root / 'memory'),
    ):
        try:
            limit, taken = int((folder / most).read_text()), int((folder / used).read_text())
            cached = _cached((folder / 'memory.stat').read_text())
        except (OSError, ValueError):  # no such limit: 'max', or no such file
            continue
        free = min(free, max(limit - taken + cached, 0))
    return free


def _meminfo() -> int:
    try:
        for line in Path('/proc/meminfo').read_text().splitlines():
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _cached(statistics: str) -> int:
    """Bytes of files in memory, which a container gives back when it needs them."""
    fields = (line.split() for line in statistics.splitlines())
    return sum(int(size) for name, size in fields if name in ('inactive_file', 'active_file'))
