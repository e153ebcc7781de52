"""Pack a trained low-bit segmentor into one file: CONFIG CHECKPOINT OUT.gguf."""

import argparse
from pathlib import Path

from .config import add_cfg_options, read_config


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser('bfcn export', description=__doc__)
    parser.add_argument('config', help='that it was trained with')
    parser.add_argument('checkpoint', help='the .pth file of the training')
    parser.add_argument('out', type=Path, metavar='OUT.gguf')
    add_cfg_options(parser)
    parser.add_argument(
        '--thresholds', action='store_true', help='store the thresholds too, about 3 %% more bytes'
    )
    args = parser.parse_args(arguments)
    config = read_config(args.config, args.cfg_options)
    from bfcn_kernels import write

    from ..export.checkpoint import pack_checkpoint

    packed, _ = pack_checkpoint(config, args.checkpoint)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, packed.model, args.thresholds)
    meta = packed.model.metadata
    print(
        f'{args.out}: {args.out.stat().st_size:,} bytes, {len(packed.model.graph.ops)} ops, '
        f'{meta.weight_bits}-bit weights, {meta.activation_bits}-bit activations, '
        f'{len(meta.classes)} classes'
    )
