"""Weights, bits, MACs and bit-operations of a config's network, per layer and in sum."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from _mmseg import CfgOptions, errors_in_one_line
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from prettytable import PrettyTable

from bfcn_mm.analysis import Complexity, Layer, complexity

COLUMNS = (
    'name', 'kind', 'weights', 'w', 'a', 'macs', 'bitops', 'float_macs', 'float32_bytes', 'bytes',
)  # fmt: skip


def main() -> None:
    args = parse_args()
    cost = complexity(build(args.config, args.cfg_options), tuple(args.shape))
    if args.sort is not None:
        cost.layers.sort(key=lambda layer: getattr(layer, args.sort), reverse=True)
    if args.csv is not None:
        write_csv(args.csv, cost.layers)
    print(json.dumps(to_dict(cost), indent=2) if args.json else as_text(cost))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='any mmseg config, with or without quant')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=[160, 256])
    parser.add_argument('--sort', choices=COLUMNS[2:], help='largest first, by this column')
    parser.add_argument('--csv', type=Path, metavar='PATH', help='write the layers to a file')
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args()


def build(path: str, options: dict | None):
    """The config's model with random weights: nothing is downloaded."""
    config = Config.fromfile(path)
    if options is not None:
        config.merge_from_dict(options)
    init_default_scope(config.get('default_scope', 'mmseg'))
    MMLogger.get_instance('complexity', log_level='ERROR')
    config.model.pretrained = None
    return MODELS.build(config.model)


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


if __name__ == '__main__':
    with errors_in_one_line():
        main()
