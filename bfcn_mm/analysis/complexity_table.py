"""The cost of a network as text, as JSON and as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from prettytable import PrettyTable

from .complexity import Complexity, Layer

COLUMNS = (
    'name', 'kind', 'weights', 'w', 'a', 'macs', 'bitops', 'float_macs', 'float32_bytes', 'bytes',
)  # fmt: skip


def as_text(cost: Complexity) -> str:
    size = 'x'.join(map(str, cost.shape[2:]))
    table = PrettyTable(
        ['layer', 'kind', 'weights', 'w', 'a', 'MMAC', 'Mbitop', 'float32 kB', 'kB']
    )
    for layer in cost.layers:
        bitops = 'float' if layer.in_float else f'{layer.bitops / 1e6:.2f}'
        table.add_row(
            [layer.name, layer.kind, f'{layer.weights:,}', layer.w, layer.a]
            + [f'{layer.macs / 1e6:.2f}', bitops]
            + [f'{layer.float32_bytes / 1e3:.1f}', f'{layer.bytes / 1e3:.1f}']
        )
    table.align = 'r'
    table.align['layer'] = table.align['kind'] = 'l'
    return '\n'.join([f'input {size}', str(table), *totals(cost)])


def totals(cost: Complexity) -> list[str]:
    lines = [f'{"weights":<22}{cost.weights / 1e6:.1f} M']
    lines.append(f'{"in float32":<22}{cost.float32_bytes / 1e6:.1f} MB')
    bits = min(layer.w for layer in cost.layers)
    if bits != 32:
        lines.append(f'{f"all at {bits} bit":<22}{cost.bytes_at(bits) / 1e6:.1f} MB')
    others = ', '.join(f'{name} {count:,}' for name, count in cost.others.items())
    lines.append(f'{"as stored":<22}{cost.stored_bytes / 1e6:.1f} MB, with float32 {others}')
    for name, count in cost.idle.items():
        lines.append(f'{"not in inference":<22}{name}: {count / 1e6:.1f} M weights, in no sum')
    lines.append(f'{"multiply-accumulates":<22}{cost.macs / 1e9:.2f} G')
    lines.append(f'{"  of them in float":<22}{cost.float_macs / 1e9:.2f} G')
    if cost.products:
        lines.append(f'{"  activation products":<22}{cost.products.total() / 1e9:.2f} G, in float')
    lines.append(f'{"bit-operations":<22}{cost.bitops / 1e9:.2f} G')
    for device in ('CPU', 'FPGA'):
        lines.append(
            f"{f'estimate, {device}':<22}{cost.speedup(device):.1f}x float32 by the paper's cost model"
        )
    return lines


def to_dict(cost: Complexity) -> dict:
    return dict(
        shape=list(cost.shape),
        weights=cost.weights,
        float32_bytes=cost.float32_bytes,
        stored_bytes=cost.stored_bytes,
        macs=cost.macs,
        float_macs=cost.float_macs,
        bitops=cost.bitops,
        speedup_by_cost_model={device: cost.speedup(device) for device in ('CPU', 'FPGA')},
        layers=[row(layer) for layer in cost.layers],
        products=cost.products,
        others=cost.others,
        idle=cost.idle,
    )


def row(layer: Layer) -> dict:
    return {column: getattr(layer, column) for column in COLUMNS}


def write_csv(path: Path, layers: list[Layer]) -> None:
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(map(row, layers))
