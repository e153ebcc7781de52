"""What `bfcn verify` checks, one verdict a criterion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from mmengine.config import Config

from bfcn_kernels import Graph, load, read
from bfcn_kernels.builder import random_image

from . import verify
from .checkpoint import pack_checkpoint, test_samples
from .torch_engine import TorchEngine
from .verdict import Verdict, judge


def all_of(args: argparse.Namespace, config: Config | None) -> Iterator[Verdict]:
    """args: of the command; config: what it names, if it names a checkpoint too."""
    yield from _verify_file(args) if config is None else _verify_checkpoint(args, config)


def _verify_file(args: argparse.Namespace) -> Iterator[Verdict]:
    images = [random_image(*args.size, seed) for seed in range(args.images)]
    yield from _engines(args, images)


def _verify_checkpoint(args: argparse.Namespace, config: Config) -> Iterator[Verdict]:
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
