"""`benchmark.py cpu`: packed models against what users would pick instead, end to end.

Ours goes from a uint8 image to labels. Peers are asked for less: from the normalized float image to the
scores of the head, without the last resize and without argmax.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from mmengine.config import Config

from bfcn_kernels import read
from bfcn_kernels.builder import random_image
from bfcn_kernels.cpu import Engine, isas
from bfcn_mm.analysis.report import format_table
from bfcn_mm.export import verify

from . import files, memory, network, process, report, timing

_ORACLE_SIZE = (66, 98)
_LARGE = 360 * 480  # pixels: portable C takes minutes beyond, and a float peer seconds a run
_SMALL = (32, 32)  # what a process holds at this size is taken for all that are not feature maps
_ROUNDS, _ROUNDS_OF_LARGE = 15, 5  # up to _LARGE pixels, and beyond


def run(args: argparse.Namespace) -> None:
    """Verify, then measure each size, thread count and instruction set; print, append, draw."""
    _check(args)
    rows = []
    with tempfile.TemporaryDirectory(prefix='bfcn-bench-') as folder:
        net = _network(args, Path(folder))
        _hold_to_oracle(net, args.isa)
        files.prepare(net, args.peers, Path(folder))
        small = _at_small_size(net, args, Path(folder)) if args.memory else []
        for size in args.size:
            rows += _measure_size(net, size, small, args, Path(folder))
    if args.chart:
        report.chart(rows, args.chart)
        print(f'chart: {args.chart}')


def _check(args: argparse.Namespace) -> None:
    here = isas()
    vector = [isa for isa in here if isa != 'portable'] or here
    args.isa = vector if args.isa == ['all'] else args.isa or vector[:1]
    args.size = args.size or [[160, 256]]
    for isa in args.isa:
        if isa not in here:
            raise ValueError(f'--isa {isa}: this CPU and build have {", ".join(here)}')
    most = len(report.cpus())
    for threads in args.threads:
        if not 1 <= threads <= most:
            raise ValueError(
                f'--threads must be 1..{most}, the CPUs of this process, got {threads}'
            )
    if args.rounds is not None and args.rounds < 3:
        raise ValueError(f'--rounds must be at least 3, got {args.rounds}')
    files.require(args.peers)
    if not hasattr(os, 'sched_setaffinity'):
        print('This system cannot keep a process to chosen cores: times may wander.')


def _network(args: argparse.Namespace, folder: Path) -> network.Network:
    paths = [Path(path) for path in args.paths]
    packed = [path for path in paths if path.suffix == '.gguf']
    if packed and len(packed) == len(paths):
        return _network_of_files(packed, args)
    if packed or len(paths) > 2:
        raise ValueError('give CONFIG, CONFIG CHECKPOINT, or packed files alone')
    config = Config.fromfile(paths[0])
    if len(paths) == 2:
        if args.bits:
            raise ValueError('--bits: a checkpoint has its own, leave one of them out')
        return network.from_checkpoint(config, str(paths[1]), folder)
    return network.from_config(config, args.bits, folder, args.seed)


def _network_of_files(paths: list[Path], args: argparse.Namespace) -> network.Network:
    if args.bits:
        raise ValueError('--bits: packed files have their own, leave one of them out')
    packed, config = network.from_files(paths)
    if config is not None:
        return network.twin_of_files(packed, config, args.seed)
    if args.peers:
        raise ValueError(
            f'{paths[0]} does not hold its config, so there is no float network for peers: give CONFIG '
            '[CHECKPOINT] instead, or an empty --peers'
        )
    return network.Network(network.name_of_files(packed), 'files', None, packed)


def _hold_to_oracle(net: network.Network, asked: list[str]) -> None:
    """Every map of every file, bit for bit, on each instruction set. Raises RuntimeError."""
    image = random_image(*_ORACLE_SIZE, seed=3)
    for bits, path in net.packed.items():
        graph = read(path).graph
        expected = verify.oracle(graph, image)
        for isa in asked:
            different = verify.first_difference(graph, expected, Engine(path, isa=isa).trace(image))
            if different is not None:
                raise RuntimeError(f'{bits} on {isa}: {different.op} {different.what}')
        print(
            f'bfcn {bits}: {len(graph.ops)} maps equal the oracle on {", ".join(asked)}', flush=True
        )


def _at_small_size(net: network.Network, args: argparse.Namespace, folder: Path) -> list[dict]:
    """Entries of ours and of the float peers, each with its own reference."""
    folder = folder / 'small'
    folder.mkdir()
    path = _reference(net, _SMALL, folder)
    entries = [*_ours(net), *files.small(net, _SMALL, args.peers, folder)]
    return [entry | dict(reference=str(path)) for entry in entries]


def _ours(net: network.Network) -> list[dict]:
    return [dict(name='bfcn', precision=b, file=str(p)) for b, p in net.packed.items()]


def _reference(net: network.Network, size: tuple[int, int], folder: Path) -> Path:
    if net.segmentor is not None:
        return files.reference(net, size, folder)
    path = folder / 'reference.npz'
    np.savez(path, image=random_image(*size, seed=99))
    return path


def _measure_size(
    net: network.Network,
    size: tuple[int, int],
    small: list[dict],
    args: argparse.Namespace,
    folder: Path,
) -> list[dict]:
    folder = folder / f'{size[0]}x{size[1]}'
    folder.mkdir()
    path = _reference(net, size, folder)
    peers = files.contenders(net, size, args.peers, folder)
    with np.load(path) as arrays:
        _hold_isas_together(net, arrays['image'], args.isa)
    maps = memory.float32_peak(net.graph(), *size)
    rows = []
    for isa in args.isa:
        for threads in args.threads:
            plan = dict(
                entries=[*_ours(net), *peers], threads=threads, isa=isa, reference=str(path)
            )
            plan |= dict(rounds=args.rounds or _rounds(size), cores=_cores(args, threads))
            rows += _measure(net, size, plan, maps, small, args)
    return rows


def _rounds(size: tuple[int, int]) -> int:
    return _ROUNDS if size[0] * size[1] <= _LARGE else _ROUNDS_OF_LARGE


def _hold_isas_together(net: network.Network, image: np.ndarray, asked: list[str]) -> None:
    """At the size that is timed, scores and labels equal those of another instruction set's code."""
    small = image.shape[0] * image.shape[1] <= _LARGE
    threads = len(report.cpus())
    for bits, path in net.packed.items():
        for isa in asked:
            others = [name for name in isas() if name != isa]
            if not others:
                continue
            other = 'portable' if small and isa != 'portable' else others[0]
            engines = [Engine(path, threads=threads, isa=name) for name in (isa, other)]
            labels = [engine(image) for engine in engines]
            scores = [engine.logits.view(np.uint32) for engine in engines]
            if not (np.array_equal(*labels) and np.array_equal(*scores)):
                raise RuntimeError(f'{bits} at {image.shape[:2]}: {isa} and {other} differ')


def _measure(
    net: network.Network,
    size: tuple[int, int],
    plan: dict,
    maps: int,
    small: list[dict],
    args: argparse.Namespace,
) -> list[dict]:
    stamp = datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
    measured = process.measure(plan | dict(task='time'))
    common = dict(time=stamp, network=net.name, weights=net.weights, rounds=plan['rounds'])
    common |= dict(height=size[0], width=size[1], threads=plan['threads'], isa=plan['isa'])
    common |= report.environment()
    best = {kind: _best(measured, kind, plan['isa']) for kind in ('float32', 'int8')}
    rows = []
    for one in measured:
        row = dict.fromkeys(report.HEADER, '') | common | _times(one)
        if one['name'] == 'bfcn':
            row |= _ratios(one, best)
        if args.memory and plan['threads'] == args.threads[0]:
            row |= _memory(one, plan, maps, small)
        rows.append(row)
    header, lines = report.table(rows)
    key = (net.name, *size, plan['threads'], plan['isa'])
    print(f'\n{net.name}, {report.title(key)}, {plan["rounds"]} rounds')
    print(format_table(header, lines), flush=True)
    _say_what_was_not_capped(measured, plan['isa'])
    if args.csv:
        report.append(args.csv, rows)
    return rows


def _times(one: dict) -> dict:
    low, middle, high = timing.quartiles(one['seconds'])
    milliseconds = dict(median_ms=middle, q1_ms=low, q3_ms=high, min_ms=min(one['seconds']))
    return dict(
        contender=one['name'],
        precision=one['precision'],
        version=one['version'],
        isa_used=one['isa'],
        agreement=f'{one["agreement"]:.3g}',
        **{name: f'{1e3 * value:.4f}' for name, value in milliseconds.items()},
    )


def _best(measured: list[dict], precision: str, isa: str) -> dict | None:
    """The peer with the least median, among those that keep to the instruction set."""
    peers = [
        one
        for one in measured
        if one['name'] != 'bfcn' and one['precision'] == precision and not _beyond(one, isa)
    ]
    return min(peers, key=lambda one: timing.quartiles(one['seconds'])[1], default=None)


def _ratios(one: dict, best: dict[str, dict | None]) -> dict:
    row = {}
    for kind, peer in best.items():
        if peer is not None:
            low, middle, high = timing.quartiles(timing.ratios(peer['seconds'], one['seconds']))
            row |= {f'over_{kind}': f'{middle:.3f}', f'over_{kind}_peer': peer['name']}
            row |= {f'over_{kind}_q1': f'{low:.3f}', f'over_{kind}_q3': f'{high:.3f}'}
    return row


def _memory(one: dict, plan: dict, maps: int, small: list[dict]) -> dict:
    """What it knows of itself, or the least that float32 maps need; and what its process was seen to
    hold, in all and more than at the small size."""

    def is_it(entry: dict) -> bool:
        return (entry['name'], entry['precision']) == (one['name'], one['precision'])

    entry = next(filter(is_it, plan['entries']))
    seen = process.measure(plan | dict(task='memory', entries=[entry]))
    growth = ''
    for entry in filter(is_it, small):
        there = process.measure(
            plan | dict(task='memory', entries=[entry], reference=entry['reference'])
        )
        growth = seen['run'] - there['run']
    sizes = one['sizes'] or (dict(activations=maps) if one['precision'] == 'float32' else {})
    return dict(
        activation_bytes=sizes.get('activations', ''),
        weight_bytes=sizes.get('weights', ''),
        process_bytes=seen['process'],
        growth_bytes=growth,
    )


def _beyond(one: dict, isa: str) -> bool:
    """Whether it used instructions that this CPU has beyond the ISA."""
    return one['isa'] in isas()[: isas().index(isa)]


def _say_what_was_not_capped(measured: list[dict], isa: str) -> None:
    for one in filter(lambda one: _beyond(one, isa), measured):
        print(
            f'{one["name"]} {one["precision"]} is not capped: it used {one["isa"]}, so it is in no '
            'ratio here'
        )


def _cores(args: argparse.Namespace, threads: int) -> list[int]:
    """The last ones, since a system's own work gathers on the first; --cores names others."""
    chosen = args.cores or report.cpus()
    if len(chosen) < threads:
        raise ValueError(f'--cores must name at least {threads} CPUs, got {chosen}')
    return chosen[-threads:]
