"""The size of every packed map as a function of the image's, tabulated."""

from __future__ import annotations

from bfcn_kernels import ops
from bfcn_kernels.values import MAX_SIDE, GraphError, Grid

_MOST = (
    640  # sides of images: every residue of strides up to 64, above the smallest that networks take
)


class MapSides:
    """Grids of values for square images of all sides up to 640 that are multiples of `step`."""

    def __init__(self, step: int) -> None:
        self._sides = range(step, max(_MOST, 8 * step) + 1, step)
        self._grids: dict[str, list[Grid | None]] = {'image': [(n, n) for n in self._sides]}

    def add(self, op: ops.Op) -> None:
        """Where a map would be empty, or does not fit its op, its grid is None."""
        sources = [self._grids[name] for name in op.sources]
        images = self._grids['image']
        self._grids[op.name] = [_grid(op, *grids) for grids in zip(images, *sources, strict=True)]

    def apart(self, names: list[str]) -> list[int]:
        """Sides of images at which not all of these values have one grid."""
        columns = zip(*(self._grids[name] for name in names), strict=True)
        return [
            side
            for side, grids in zip(self._sides, columns, strict=False)
            if len({grid for grid in grids if grid is not None}) > 1
        ]


def _grid(op: ops.Op, image: Grid, *sources: Grid | None) -> Grid | None:
    if None in sources:
        return None
    try:
        grid = op.grid(image, *sources)
    except GraphError:
        return None
    return grid if all(1 <= side <= MAX_SIDE for side in grid) else None
