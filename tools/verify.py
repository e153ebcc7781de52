"""Compare the engines with the oracle, layer by layer: OUT.gguf, or CONFIG CHECKPOINT OUT.gguf.

With config and checkpoint, the file must also be what the checkpoint packs to, and the integers must be
as close to fake-quantized evaluation as rounding ties allow. Prints PASS or FAIL for each criterion; the
exit status is 0 if all pass.
"""

import argparse  # noqa: I001 - _mmseg comes before what it mends
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _mmseg import CfgOptions, errors_in_one_line
from bfcn_kernels import Graph, load, read
from bfcn_kernels.builder import random_image
from mmengine.config import Config

from bfcn_mm.export import TorchEngine, verify
from bfcn_mm.export.checkpoint import pack_checkpoint, test_samples
from bfcn_mm.export.verdict import CODES, PIXELS, Verdict, judge

ENGINES = ('numpy', 'torch', 'cpu', 'triton')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('paths', nargs='+', metavar='PATH', help='[CONFIG CHECKPOINT] OUT.gguf')
    parser.add_argument(
        '--engine', nargs='+', choices=ENGINES, help='default: those that start here'
    )
    parser.add_argument(
        '--one-bit', action='store_true', help="engine 'triton' on one-bit tensor cores"
    )
    parser.add_argument('--images', type=int, default=2)
    parser.add_argument('--size', nargs=2, type=int, default=(128, 192), help='H W, file alone')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
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
    args = parser.parse_args()
    if len(args.paths) not in (1, 3):
        parser.error(f'give OUT.gguf or CONFIG CHECKPOINT OUT.gguf, got {len(args.paths)} paths')
    if args.images < 1:
        parser.error(f'--images must be 1 or more, got {args.images}')
    check = _verify_file if len(args.paths) == 1 else _verify_checkpoint
    with errors_in_one_line():
        failed = [verdict.name for verdict in _printed(check(args)) if not verdict.passed]
    print(f'verify: FAIL ({", ".join(failed)})' if failed else 'verify: PASS')
    sys.exit(1 if failed else 0)


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f'must be a percentage in 0..100, got {text}')
    return value


def _printed(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    for verdict in verdicts:
        print(verdict, flush=True)
        yield verdict


def _verify_file(args: argparse.Namespace) -> Iterator[Verdict]:
    images = [random_image(*args.size, seed) for seed in range(args.images)]
    yield from _engines(args, images)


def _verify_checkpoint(args: argparse.Namespace) -> Iterator[Verdict]:
    config = Config.fromfile(args.paths[0])
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    packed, segmentor = pack_checkpoint(config, args.paths[1])
    graph = read(args.paths[2]).graph
    different = verify.graphs_differ(packed.model.graph, graph)
    if different is not None:
        yield Verdict(False, 'checkpoint', f'{different.op} {different.what}')
        return
    yield Verdict(True, 'checkpoint', f'packs to the {len(graph.ops)} ops of the file')
    samples = list(test_samples(config, args.images))
    report = verify.FakeQuantReport()
    for sample in samples:
        verify.compare_fake_quant(report, segmentor, graph, packed.origins, sample)
    _print_report(report)
    yield from judge(report, args.tolerance, args.max_flips)
    images = [s['inputs'].flip(0).permute(1, 2, 0).numpy() for s in samples]
    yield from _engines(args, images)


def _engines(args: argparse.Namespace, images: list) -> Iterator[Verdict]:
    """Every engine against the oracle."""
    path = args.paths[-1]
    graph = read(path).graph
    expected = [verify.oracle(graph, image) for image in images]
    if not all(np.isfinite(maps[graph.logits]).all() for maps in expected):
        yield Verdict(False, 'finite', 'NaN or Inf in the scores of the integers')
    for name in args.engine or _default_engines():
        try:
            trace = _trace(name, path, args.one_bit and name == 'triton')
        except (ImportError, RuntimeError, OSError) as error:
            if args.engine:
                raise RuntimeError(f'engine {name!r} is not available: {error}') from error
            print(f'{name}: not available here ({error})')
            continue
        yield _engine(name, graph, trace, images, expected)


def _engine(name: str, graph: Graph, trace: Callable, images: list, expected: list) -> Verdict:
    for number, (image, maps) in enumerate(zip(images, expected, strict=True)):
        different = verify.first_difference(graph, maps, trace(image))
        if different is not None:
            return Verdict(False, name, f'image {number}: {different.op} {different.what}')
    return Verdict(True, name, f'equal on {len(graph.ops)} maps of {len(images)} images')


def _default_engines() -> list[str]:
    return ['torch', 'cpu', *(['triton'] if torch.cuda.is_available() else [])]


def _trace(name: str, path: str, one_bit: bool):
    if name == 'numpy':
        return verify.slow_oracle(read(path).graph)
    return TorchEngine(path).trace if name == 'torch' else load(path, name, one_bit=one_bit).trace


def _print_report(report: verify.FakeQuantReport) -> None:
    print(f'{"codes that differ":48} {"end to end":>10} {"by itself":>10}')
    for name, flips in report.flips.items():
        if flips.codes:
            shares = flips.end_to_end / flips.codes, flips.local / flips.codes
            print(f'{name:48} {shares[0]:10.2e} {shares[1]:10.2e}')
        else:
            print(f'{name:48} {"scores differ by at most":>10} {flips.error:.2e}')
    codes = sum(flips.codes for flips in report.flips.values()) or 1
    total, local = (
        sum(getattr(f, k) for f in report.flips.values()) for k in ('end_to_end', 'local')
    )
    print(f'all codes: {total / codes:.2e} end to end, {local / codes:.2e} by themselves')
    if report.fake_counts is not None:
        fake, integer = verify.miou(report.fake_counts), verify.miou(report.integer_counts)
        print(f'mIoU: {fake:.2f} fake-quantized, {integer:.2f} integers')


if __name__ == '__main__':
    with errors_in_one_line():
        main()
