"""Memory: what float32 feature maps need at least, and what a process was seen to hold."""

from __future__ import annotations

from pathlib import Path

from bfcn_kernels.graph import Graph


def float32_peak(graph: Graph, height: int, width: int) -> int:
    """Bytes of live float32 maps at their most, the normalized image included, labels not.

    Of the packed graph, whose ops are fused as the best of peers fuse them: a convolution with its batch
    norm, activation and addition writes one map, and a map dies after its last reader. A peer that
    fuses less or pads its maps holds more.
    """
    values, grids, last = graph.validate(), graph.shapes(height, width), graph.last_reads()
    live, peak = {}, 0
    for index, op in enumerate(graph.ops):
        if values[op.name].kind != 'labels':
            rows, columns = grids[op.name]
            live[op.name] = 4 * rows * columns * values[op.name].channels
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if last[name] > index}
    return peak


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
