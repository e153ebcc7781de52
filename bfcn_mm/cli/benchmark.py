"""Measure a training step, or packed models on a CPU beside other runtimes."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path

PEERS = ('onnxruntime', 'openvino', 'torch')


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser('bfcn benchmark', description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_train(commands.add_parser('train', help='training step, quantized over float'))
    _add_cpu(
        commands.add_parser(
            'cpu',
            help='packed models in C beside ONNX Runtime, OpenVINO and PyTorch',
            description='Verify packed models, then time them and what users would pick instead, in '
            'turns in one process on the same cores. With a config alone, weights are random.',
        )
    )
    args = parser.parse_args(arguments)
    end_cleanly()
    args.run(args)


def end_cleanly() -> None:
    """SIGTERM raises SystemExit, so that a child is ended and temporary files are removed."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument('--config', required=True, help='a config with quant')
    train.add_argument('--size', type=int, nargs=2, default=[240, 240], metavar=('H', 'W'))
    train.add_argument('--batch', type=int, default=4)
    train.add_argument('--steps', type=int, default=20, help='timed steps of each network')
    train.add_argument('--threads', type=int, help='default: as many as torch takes')
    train.add_argument('--device', default='cpu')
    train.add_argument('--seed', type=int, default=0, help='of weights, data and order')
    train.add_argument('--csv', type=Path, metavar='PATH', help='append a row to this file')

    def run(args: argparse.Namespace) -> None:
        if args.steps < 2 or args.batch < 1 or (args.threads or 1) < 1:
            train.error('--steps must be at least 2, --batch and --threads at least 1')
        import bfcn_mm

        bfcn_mm.register()
        from ..benchmark import train as command

        command.run(args)

    train.set_defaults(run=run)


def _add_cpu(cpu: argparse.ArgumentParser) -> None:
    cpu.add_argument(
        'paths', nargs='+', metavar='PATH', help='CONFIG, CONFIG CHECKPOINT, or packed .gguf files'
    )
    cpu.add_argument(
        '--size', type=int, nargs=2, action='append', metavar=('H', 'W'),
        help='of the image, 160 256 by default; may be given several times',
    )  # fmt: skip
    cpu.add_argument('--threads', type=int, nargs='+', default=[1], help='one measurement for each')
    cpu.add_argument(
        '--isa', nargs='+', metavar='ISA',
        help='most to use, peers included: amx, avx512, avx2 or all of those here; one measurement for '
        'each; default: the best here',
    )  # fmt: skip
    cpu.add_argument(
        '--peers', nargs='*', choices=PEERS, default=list(PEERS), help='default: all three'
    )
    cpu.add_argument(
        '--bits', nargs='+', type=_bits, default=[], metavar='W-A',
        help='of weights and activations, such as 1-2; default: as in the config',
    )  # fmt: skip
    cpu.add_argument(
        '--rounds',
        type=int,
        help='timed runs of each; default: 15, and 5 for images beyond 360x480',
    )
    cpu.add_argument('--cores', type=int, nargs='+', help='CPUs to run on; default: the last ones')
    cpu.add_argument('--seed', type=int, default=0, help='of random weights')
    cpu.add_argument('--csv', type=Path, metavar='PATH', help='append rows to this file')
    cpu.add_argument('--chart', type=Path, metavar='PNG', help='draw a bar chart')
    cpu.add_argument(
        '--no-memory', dest='memory', action='store_false', help='leave processes unmeasured'
    )

    def run(args: argparse.Namespace) -> None:
        import bfcn_mm

        bfcn_mm.register()
        from ..benchmark import cpu as command

        command.run(args)

    cpu.set_defaults(run=run)


def _bits(text: str) -> tuple[int, int]:
    if not re.fullmatch('[1-8]-[1-8]', text):
        raise argparse.ArgumentTypeError(
            f'bits must be W-A, each 1 to 8, such as 1-2, got {text!r}'
        )
    return int(text[0]), int(text[2])
