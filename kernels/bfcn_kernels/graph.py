"""The integer graph: ops in execution order, checked before anything runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bfcn_kernels.ops.op import Op
from bfcn_kernels.packing import words_per_plane
from bfcn_kernels.values import (
    IMAGE,
    MAX_SIDE,
    MAX_SUMMANDS,
    GraphError,
    Grid,
    Value,
    require,
    within,
)  # fmt: skip

MAX_OPS = 4096
_NAME = re.compile(r'[A-Za-z0-9_.-]{1,48}')


@dataclass(frozen=True)
class Graph:
    """Ops in execution order; each reads values of earlier ops (or 'image') by name.

    The last op's value is the output. An op and the value it writes share one name.
    """

    ops: tuple[Op, ...]

    def validate(self) -> dict[str, Value]:
        """Check every rule that does not depend on the image's size.

        Returns the value each op writes, by name, 'image' included. Raises GraphError.
        """
        within('number of ops', len(self.ops), 1, MAX_OPS)
        check_names([op.name for op in self.ops])
        values, summands = {'image': IMAGE}, {}
        for op in self.ops:
            with named_layer(op.name):
                last = op is self.ops[-1]
                require(last or not op.last_only, f'an {op.opname} must be the last op')
                for source in op.sources:
                    require(
                        source in values,
                        f'source {source!r} must be written by an earlier op or be the image',
                    )
                values[op.name] = op.output(*(values[source] for source in op.sources))
                if values[op.name].kind == 'scores':
                    count = op.summands(*(summands.get(source, 0) for source in op.data_sources))
                    require(
                        count <= MAX_SUMMANDS,
                        f'scores must add at most {MAX_SUMMANDS} maps, got {count}',
                    )
                    summands[op.name] = count
        self._check_uses()
        return values

    def shapes(self, height: int, width: int) -> dict[str, Grid]:
        """(h, w) of every value, 'image' included, for an image of height x width.

        Expects a validated graph. Raises GraphError if a map is empty, too large or mismatched.
        """
        within('image height', height, 1, MAX_SIDE)
        within('image width', width, 1, MAX_SIDE)
        grids = {'image': (height, width)}
        for op in self.ops:
            with named_layer(op.name):
                grid = op.grid(grids['image'], *(grids[source] for source in op.sources))
                for side in grid:
                    require(
                        1 <= side <= MAX_SIDE,
                        f'sides must be in 1..{MAX_SIDE}, got {grid} for the image {height, width}',
                    )
                grids[op.name] = grid
        return grids

    def last_reads(self) -> dict[str, int]:
        """Index of the last op that reads each value's data; a value dies after it."""
        last = {op.name: index for index, op in enumerate(self.ops)}
        for index, op in enumerate(self.ops):
            for source in op.data_sources:
                last[source] = index
        return last

    def peak_bytes(self, height: int, width: int) -> int:
        """Most bytes that live values take together, image excluded.

        Codes count as packed planes or as bytes, whichever is smaller. An engine that plans by
        liveness and fuses nothing needs this much for feature maps.
        """
        values, grids, last = self.validate(), self.shapes(height, width), self.last_reads()
        live, peak = {}, 0
        for index, op in enumerate(self.ops):
            live[op.name] = _bytes(values[op.name], grids[op.name])
            peak = max(peak, sum(live.values()))
            live = {name: size for name, size in live.items() if last[name] > index}
        return peak

    @property
    def output(self) -> str:
        """Name of the last op's value."""
        return self.ops[-1].name

    @property
    def logits(self) -> str:
        """Name of the scores that argmax reads, or of the last value where there is no argmax."""
        last = self.ops[-1]
        return last.source if last.last_only else last.name

    def _check_uses(self) -> None:
        read = {source for op in self.ops for source in op.sources}
        for op in self.ops[:-1]:
            with named_layer(op.name):
                require(op.name in read, 'its value must be read by a later op: remove it')


def check_names(names: list[str]) -> None:
    """Require distinct names of 1..48 letters, digits, _ . and -."""
    seen = set()
    for name in names:
        with named_layer(name):
            require(
                bool(_NAME.fullmatch(name)) and name != 'image',
                "a name must be 1..48 of A-Z a-z 0-9 _ . - and not 'image'",
            )
            require(name not in seen, 'names must be distinct')
        seen.add(name)


@contextmanager
def named_layer(name: str) -> Iterator[None]:
    """Put the layer's name before the rule in a GraphError."""
    try:
        yield
    except GraphError as err:
        raise GraphError(f'layer {name!r:.60}: {err}') from err


def _bytes(value: Value, grid: Grid) -> int:
    pixels = grid[0] * grid[1]
    if value.kind == 'codes':
        planes = value.bits * words_per_plane(value.channels) * 8
        return pixels * min(planes, value.channels)
    return pixels * (4 * value.channels if value.kind == 'scores' else 1)
