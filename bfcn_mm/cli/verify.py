"""Compare the engines with the oracle, layer by layer: OUT.gguf, or CONFIG CHECKPOINT OUT.gguf.

With config and checkpoint, the file must also be what the checkpoint packs to, and the integers must be
as close to fake-quantized evaluation as rounding ties allow. Prints PASS or FAIL for each criterion; the
exit status is 0 if all pass.
"""

import argparse

from .config import add_cfg_options, read_config

# In percent, see bfcn_mm/export/verdict.py; a test holds them equal.
CODES, PIXELS = 0.05, 1.0
ENGINES = ('numpy', 'torch', 'cpu', 'triton')


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser('bfcn verify', description=__doc__)
    parser.add_argument('paths', nargs='+', metavar='PATH', help='[CONFIG CHECKPOINT] OUT.gguf')
    parser.add_argument(
        '--engine', nargs='+', choices=ENGINES, help='default: those that start here'
    )
    parser.add_argument(
        '--one-bit', action='store_true', help="engine 'triton' on one-bit tensor cores"
    )
    parser.add_argument('--images', type=int, default=2)
    parser.add_argument('--size', nargs=2, type=int, default=(128, 192), help='H W, file alone')
    add_cfg_options(parser)
    parser.add_argument(
        '--tolerance',
        type=_percent,
        default=PIXELS,
        metavar='PERCENT',
        help='of pixels may have another label than in fake-quantized evaluation, default %(default)s',
    )
    parser.add_argument(
        '--max-flips',
        type=_percent,
        default=CODES,
        metavar='PERCENT',
        help="of an op's codes may differ by themselves, default %(default)s",
    )
    args = parser.parse_args(arguments)
    if len(args.paths) not in (1, 3):
        parser.error(f'give OUT.gguf or CONFIG CHECKPOINT OUT.gguf, got {len(args.paths)} paths')
    if args.images < 1:
        parser.error(f'--images must be 1 or more, got {args.images}')
    config = None
    if len(args.paths) == 3:
        config = read_config(args.paths[0], args.cfg_options)
    from ..export import criteria

    failed = []
    for verdict in criteria.all_of(args, config):
        print(verdict, flush=True)
        failed += [] if verdict.passed else [verdict.name]
    print(f'verify: FAIL ({", ".join(failed)})' if failed else 'verify: PASS')
    return 1 if failed else 0


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f'must be a percentage in 0..100, got {text}')
    return value
