"""The integer oracle: a graph op by op in numpy, each as its file in ops/ has it: slow and short.

Codes and labels are uint8, scores float32; feature maps are (h, w, channels), labels (h, w).
"""

from collections.abc import Iterator

import numpy as np

from bfcn_kernels.graph import Graph
from bfcn_kernels.image import check_image
from bfcn_kernels.ops import BitConv, Op
from bfcn_kernels.ops.bit_conv import Accumulate
from bfcn_kernels.values import Grid, Value


def run(
    graph: Graph, image: np.ndarray, accumulate: Accumulate | None = None
) -> dict[str, np.ndarray]:
    """Every value by op name for a uint8 RGB image (h, w, 3).

    accumulate replaces the convolutions' sums by a faster equal, e.g. `fast.bit_conv_accumulate`.
    """
    maps: dict[str, np.ndarray] = {}
    for name, array in steps(graph, image, accumulate):
        maps[name] = array
    return maps


def steps(
    graph: Graph, image: np.ndarray, accumulate: Accumulate | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Run op by op, yielding (name, value); a value is forgotten after its last reader."""
    image = check_image(image)
    values, last = graph.validate(), graph.last_reads()
    grids = graph.shapes(*image.shape[:2])
    maps = {'image': image}
    for index, op in enumerate(graph.ops):
        sources = [(maps[name], values[name]) for name in op.data_sources]
        result = run_op(op, sources, grids[op.name], accumulate)
        yield op.name, result
        maps[op.name] = result
        maps = {name: array for name, array in maps.items() if last.get(name, -1) > index}


def run_op(
    op: Op,
    sources: list[tuple[np.ndarray, Value]],
    grid: Grid,
    accumulate: Accumulate | None = None,
) -> np.ndarray:
    """The value of one op, given (array, Value) of its data sources and its output grid."""
    if accumulate is not None and isinstance(op, BitConv):
        return op.run(*sources, grid=grid, accumulate=accumulate)
    return op.run(*sources, grid=grid)
