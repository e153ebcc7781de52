"""Weights, bits, MACs and bit-operations of a config's network, per layer and in sum."""

import argparse
import json
from pathlib import Path

from .config import add_cfg_options, read_config

SORTED_BY = ('weights', 'w', 'a', 'macs', 'bitops', 'float_macs', 'float32_bytes', 'bytes')


def main(arguments: list[str]) -> None:
    args = parse_args(arguments)
    config = read_config(args.config, args.cfg_options)
    from ..analysis import complexity, complexity_table

    cost = complexity(_build(config), tuple(args.shape))
    if args.sort is not None:
        cost.layers.sort(key=lambda layer: getattr(layer, args.sort), reverse=True)
    if args.csv is not None:
        complexity_table.write_csv(args.csv, cost.layers)
    as_json = json.dumps(complexity_table.to_dict(cost), indent=2)
    print(as_json if args.json else complexity_table.as_text(cost))


def parse_args(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser('bfcn complexity', description=__doc__)
    parser.add_argument('config', help='any mmseg config, with or without quant')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=[160, 256])
    parser.add_argument('--sort', choices=SORTED_BY, help='largest first, by this column')
    parser.add_argument('--csv', type=Path, metavar='PATH', help='write the layers to a file')
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')
    add_cfg_options(parser)
    return parser.parse_args(arguments)


def _build(config):
    """The config's model with random weights: nothing is downloaded."""
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope(config.get('default_scope', 'mmseg'))
    MMLogger.get_instance('complexity', log_level='ERROR')
    config.model.pretrained = None
    return MODELS.build(config.model)
