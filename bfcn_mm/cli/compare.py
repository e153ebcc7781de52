"""Compare models: class-wise IoU with differences, pictures side by side, training curves.

The first model is what the others are measured against. A model is the work directory of a run, or
CONFIG:CHECKPOINT; either may end in :LABEL. See docs/compare.md.

    bfcn compare work_dirs/bfcn_r18_camvid_fp32 work_dirs/bfcn_r18_camvid_1w2a:1-2
"""

import argparse
from pathlib import Path

from .config import add_cfg_options, parsed


def main(arguments: list[str]) -> None:
    args = parse_args(arguments)
    import bfcn_mm

    bfcn_mm.register()
    from ..analysis.comparison import compare

    args.cfg_options = parsed(args.cfg_options)
    compare(args)


def parse_args(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'bfcn compare', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'models', nargs='+', metavar='MODEL', help='WORK_DIR[:LABEL] or CONFIG:CHECKPOINT[:LABEL]'
    )
    parser.add_argument('--out', type=Path, default=Path('compare_out'), help='folder to write to')
    parser.add_argument('--pictures', type=int, default=4, help='images to show, 0 for none')
    add_cfg_options(parser)
    args = parser.parse_args(arguments)
    if args.pictures < 0:
        parser.error(f'--pictures must be 0 or more, got {args.pictures}')
    return args
