"""Pack a trained low-bit segmentor: CONFIG CHECKPOINT OUT.gguf."""

import argparse  # noqa: I001 - _mmseg comes before what it mends
from pathlib import Path

from _mmseg import CfgOptions, errors_in_one_line
from bfcn_kernels import write
from mmengine.config import Config

from bfcn_mm.export.checkpoint import pack_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('out', type=Path)
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    parser.add_argument(
        '--thresholds', action='store_true', help='store the thresholds too, about 3 %% more bytes'
    )
    args = parser.parse_args()
    config = Config.fromfile(args.config)
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    packed, _ = pack_checkpoint(config, args.checkpoint)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, packed.model, args.thresholds)
    meta = packed.model.metadata
    print(
        f'{args.out}: {args.out.stat().st_size:,} bytes, {len(packed.model.graph.ops)} ops, '
        f'{meta.weight_bits}-bit weights, {meta.activation_bits}-bit activations, '
        f'{len(meta.classes)} classes'
    )


if __name__ == '__main__':
    with errors_in_one_line():
        main()
