"""Memory: what float32 feature maps need at least, and what a process was seen to hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bfcn_kernels.graph import Graph
from bfcn_kernels.ops import Add, Resize


def float32_peak(graph: Graph, height: int, width: int) -> int:
    """Bytes of live float32 maps at their most, the normalized image included, labels not.

    Of the packed graph, by the rules that bfcn plans its own maps by: a convolution with its batch norm,
    activation and addition writes one map; a map dies after its last reader; a sum takes the place of an
    addend that dies with it; upsampled scores that are added are not stored. Nothing is lost between
    maps and there is no scratch, so no peer that computes these maps holds less.
    """
    values, grids = graph.validate(), graph.shapes(height, width)
    streamed = _streamed(graph)
    last = _last_reads(graph, streamed)
    live: dict[str, int] = {}
    peak = 0
    for index, op in enumerate(graph.ops):
        if op.name in streamed:
            continue
        rows, columns = grids[op.name]
        size = 4 * rows * columns * values[op.name].channels
        if values[op.name].kind == 'labels':
            size = 0
        for source in op.addends:
            if live.get(source) == size and last[source] == index:
                del live[source]
                break
        live[op.name] = size
        peak = max(peak, sum(live.values()))
        live = {name: held for name, held in live.items() if last[name] > index}
    return peak


def _streamed(graph: Graph) -> dict[str, str]:
    """Resizes that nothing but one Add reads, of two such only the first -> that Add."""
    reads = Counter(source for op in graph.ops for source in op.data_sources)
    resizes = [op.name for op in graph.ops if isinstance(op, Resize) and reads[op.name] == 1]
    found = {}
    for op in graph.ops:
        if isinstance(op, Add):
            found |= dict.fromkeys([name for name in resizes if name in op.sources][:1], op.name)
    return found


def _last_reads(graph: Graph, streamed: dict[str, str]) -> dict[str, int]:
    """Index of the last op that needs each value; of the logits, one past the end."""
    order = {op.name: index for index, op in enumerate(graph.ops)}
    last = dict(order)
    for op in graph.ops:
        reader = order[streamed.get(op.name, op.name)]
        for source in op.data_sources:
            last[source] = max(last.get(source, 0), reader)
    return last | {graph.logits: len(graph.ops)}


def reset_peak() -> None:
    """Forget the most that this process has held. Raises RuntimeError where the system cannot."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError as error:
        raise RuntimeError(f'memory cannot be measured here ({error}): add --no-memory') from error


def resident() -> tuple[int, int]:
    """(now, at its most) bytes of this process in memory, as Linux tells."""
    lines = Path('/proc/self/status').read_text().splitlines()
    fields = dict(line.split(':', 1) for line in lines)
    return tuple(1024 * int(fields[name].split()[0]) for name in ('VmRSS', 'VmHWM'))
