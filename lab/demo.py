"""Train a small BFCN on drawn street scenes in float, take it down to 1-2 bit, pack it, and show both.

`make demo` runs this after installing. The steps are commands that work by themselves; each is printed
before it runs. Everything is written to --out; another run removes what this one made there, and starts
over on the same scenes.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOAT_CONFIG, BIT_CONFIG = 'configs/bfcn_demo_fp32.py', 'configs/bfcn_demo.py'
OUT = Path('demo_out')  # the configs read and write there too
FOLDERS = ('float', 'low_bit', 'compare', 'packed')  # in it, of one run
MARKER = '.made_by_demo'
ITERS = 640  # of each of the two runs, as in the configs
FLOAT = (32, 32)
IMAGE = (128, 192)  # height, width of a scene
EVERY = 20  # seconds between two lines of progress where the output is no terminal

TRAINING = re.compile(
    r'Iter\(train\) +\[ *(?P<done>\d+)/(?P<total>\d+)\].* eta: (?P<left>.+?)  .* loss: (?P<loss>\S+)'
)
BITS = re.compile(r' w_bits: (\d+) +a_bits: (\d+) ')
DRAWING = re.compile(r'Drawing (\d+) (?:train|val) street scenes')

NOTE = """\
Weights: all that is stored, scales too. A multiply-add of w-bit weights and a-bit activations is
w * a bit-operations; one in float takes as long as 18 (the paper, on a CPU). The first layer, which
stays at 8 / 8, adds {:.2f} G.
"""
NEXT = """\
{out}/compare/pictures.png   image, truth, float and 1-2 bit, side by side
{out}/compare/               classes.png, classes.csv, curves.png
{out}/packed/                model.gguf, speed.csv
{out}/float/, low_bit/       checkpoints, configs, training logs
{out}/logs/                  what the commands above said

Next:  quant = dict(w=1, a=2) in a config of your own          docs/quant.md
       python tools/train.py configs/bfcn_r18_camvid_1w2a.py   real streets, docs/data.md
       python tools/demo.py --iters 4000                       longer, and better"""


@dataclass(frozen=True)
class Step:
    """A command of this repository, and the file under logs/ that keeps what it says."""

    name: str
    title: str
    command: tuple[str, ...]


def main() -> int:
    args = parse_args()
    os.chdir(ROOT)
    out = shown(args.out)
    try:
        start_over(out)
    except OSError as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    started = time.monotonic()
    all_steps = steps(out, args.iters)
    try:
        for number, step in enumerate(all_steps, 1):
            print(f'\n[{number}/{len(all_steps)}] {step.title}\n$ {shlex.join(step.command)}')
            run(step, out / 'logs' / f'{step.name}.log', out)
        report(out)
    except KeyboardInterrupt:
        print(f'\nStopped. What is done lies in {out}; the next run starts over.')
        return 130
    except subprocess.CalledProcessError as error:
        print(f'{error.output}\n{error.cmd} ended with status {error.returncode}.')
        return 1
    print(f'\nDone in {clock(time.monotonic() - started)}.')
    return 0


def start_over(out: Path) -> None:
    """Empty folders for the steps: those of an earlier run are removed, known by the marker in them.

    Raises FileExistsError, before anything is removed, for a folder that a demo has not made; OSError.
    """
    folders = [out / name for name in FOLDERS]
    for folder in folders:
        if os.path.lexists(folder) and (folder.is_symlink() or not (folder / MARKER).is_file()):
            raise FileExistsError(
                f'{folder} was not made by a demo (it has no {MARKER}) and would be replaced: '
                'move it, or give another --out'
            )
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARKER).write_text(
            'Made by tools/demo.py, which removes this folder when it runs again.\n'
        )
    (out / 'logs').mkdir(exist_ok=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=ROOT / OUT, help='folder to write to')
    parser.add_argument(
        '--iters',
        type=int,
        default=ITERS,
        help=f'iterations of each run, {ITERS} by default; more make better models',
    )
    args = parser.parse_args()
    if args.iters < 16 or args.iters % 8:
        parser.error(f'--iters must be a multiple of 8, at least 16, got {args.iters}')
    return args


def steps(out: Path, iters: int) -> list[Step]:
    """Float training, decay, comparison, packing. The configs hold what is used unless --out or --iters
    differ."""
    float_dir, bit_dir = out / 'float', out / 'low_bit'
    both, for_float, for_bits, for_test = [], [], [], []
    if out != OUT:
        both = [f'{part}_dataloader.dataset.data_root={out}/streets' for part in ('train', 'val')]
        for_test = ['--cfg-options', f'test_dataloader.dataset.data_root={out}/streets']
    if iters != ITERS:
        eighth, warm_up = iters // 8, max(1, iters // 40)
        both += [f'train_cfg.max_iters={iters}', f'default_hooks.checkpoint.interval={iters}']
        for_float = [f'train_cfg.val_interval={iters}', f'param_scheduler.0.end={warm_up}']
        for_float += [f'param_scheduler.1.begin={warm_up}', f'param_scheduler.1.end={iters}']
        lengths = f'{eighth},{eighth},{2 * eighth}'
        for_bits = [f'train_cfg.val_interval={eighth}', f'model.quant.decay.every=[{lengths}]']
        fewer = ','.join(f'({end},{end})' for end in (2 * eighth, 4 * eighth))
        for_bits.append(f'train_cfg.dynamic_intervals=[{fewer}]')
        for_bits.append(f'param_scheduler.0.periods=[{lengths},{4 * eighth}]')
    if out != OUT or iters != ITERS:
        for_bits.append(f'load_from={float_dir}/iter_{iters}.pth')

    def train(config: str, folder: Path, *changes: str) -> tuple[str, ...]:
        more = ('--cfg-options', *changes) if changes else ()
        return ('python', 'tools/train.py', config, '--work-dir', str(folder), *more)

    models = (f'{float_dir}:float', f'{bit_dir}:1-2 bit')
    compare = ('python', 'tools/compare.py', *models, '--out', f'{out}/compare', *for_test)
    return [
        Step('float', 'Train in float', train(FLOAT_CONFIG, float_dir, *both, *for_float)),
        Step(
            'low_bit',
            'Take it down: 8, 4, 2 bits, then 1-bit weights with 2-bit activations',
            train(BIT_CONFIG, bit_dir, *both, *for_bits),
        ),
        Step('compare', 'Test both, class by class, and draw what they see', compare),
        *pack_steps(out, bit_dir / f'iter_{iters}.pth', for_test),
    ]


def pack_steps(out: Path, checkpoint: Path, for_test: list[str]) -> list[Step]:
    """Pack the checkpoint for the C engine, verify it against the reference, time it."""
    trained, packed = (BIT_CONFIG, str(checkpoint)), str(out / 'packed' / 'model.gguf')
    size = tuple(map(str, IMAGE))
    peers = ('onnxruntime',) if have_onnxruntime() else ()
    table = ('--csv', str(out / 'packed' / 'speed.csv'))
    speed = ('--size', *size, '--peers', *peers, '--no-memory', *table)
    return [
        Step('export', 'Pack it into one file', ('python', 'tools/export.py', *trained, packed)),
        Step(
            'verify',
            'Run the file in C: every map must be what numpy and PyTorch compute, bit for bit',
            ('python', 'tools/verify.py', *trained, packed, *for_test),
        ),
        Step(
            'speed',
            'Time it on one core, beside ONNX Runtime' if peers else 'Time it on one core',
            ('python', 'tools/benchmark.py', 'cpu', *trained, *speed),
        ),
    ]


def have_onnxruntime() -> bool:
    return all(find_spec(name) for name in ('onnx', 'onnxruntime'))


def run(step: Step, log: Path, out: Path) -> None:
    """Run a step, its output to a log, its progress to the screen.

    Raises CalledProcessError, with the end of the log as its output, if the step fails.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    env = dict(
        OMP_NUM_THREADS=str(min(4, cores or 1)),
        OMP_WAIT_POLICY='PASSIVE',  # threads that spin while they wait cripple a busy machine
        MPLCONFIGDIR=str(out.resolve() / 'logs'),
    )
    process = subprocess.Popen(
        [sys.executable, *step.command[1:]],
        env=env | os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    progress = Progress()
    last: list[str] = []
    try:
        with log.open('w') as file:
            for line in process.stdout:
                file.write(line)
                last = [*last[-14:], line.rstrip()]
                progress.show(line)
        status = process.wait()
    except KeyboardInterrupt:  # the step has been told as well
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    finally:
        progress.close()
    if status:
        end = '\n'.join([*last, f'(all of it: {log})'])
        raise subprocess.CalledProcessError(status, step.command[1], end)


class Progress:
    """One line that is written over on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._started = time.monotonic()
        self._said = self._started
        self._say('starting')

    def show(self, line: str) -> None:
        """Take a line of a step's output; most say nothing about progress."""
        text = progress_of(line)
        if text and (self._terminal or time.monotonic() - self._said > EVERY):
            self._said = time.monotonic()
            self._say(text)

    def close(self) -> None:
        self._say(f'{clock(time.monotonic() - self._started)} in all')
        if self._terminal:
            print(flush=True)

    def _say(self, text: str) -> None:
        if self._terminal:
            print(f'\r      {text:<66}', end='', flush=True)
        else:
            print(f'      {text}', flush=True)


def progress_of(line: str) -> str | None:
    """What a line of mmengine's log says about progress, for people; None for most lines."""
    if match := DRAWING.search(line):
        return f'drawing {match[1]} street scenes'
    if match := TRAINING.search(line):
        done, total, left, loss = match.groups()
        bar = '#' * (20 * int(done) // int(total))
        bits = BITS.search(line)
        bits = f', bits {bits[1]} / {bits[2]}' if bits else ''
        return f'{bar:.<20} {done}/{total}, {left.removeprefix("0:")} left, loss {float(loss):.2f}{bits}'
    return None


def report(out: Path) -> None:
    """The table, on the screen and in table.csv; where the files are; what to try next."""
    with (out / 'compare' / 'classes.csv').open() as file:
        mean = next(row for row in csv.DictReader(file) if row['class'] == 'mean')
    scores = {FLOAT: float(mean['float']), **stage_scores(out), (1, 2): float(mean['1-2 bit'])}
    prices = dict(zip(scores, price(list(scores)), strict=True))
    float_size, float_ops, _ = prices[FLOAT]
    rows = []
    for bits, score in scores.items():
        size, ops, _ = prices[bits]
        name = 'float' if bits == FLOAT else f'{bits[0]} / {bits[1]}'
        change = '' if bits == FLOAT else f'{score - scores[FLOAT]:+.1f}'
        rows.append(
            [name, f'{score:.1f}', change, f'{size / 1e3:.0f}', f'{float_size / size:.1f}x']
        )
        rows[-1] += [f'{ops / 1e9:.2f}', f'{float_ops / ops:.1f}x']
    from bfcn_mm.analysis.report import format_table, write_csv

    header = ['bits w / a', 'mIoU %', 'change', 'weights kB', 'smaller', 'G bit-ops', 'fewer']
    write_csv(out / 'table.csv', header, rows)
    print(f'\n{format_table(header, rows)}\n{NOTE.format(prices[1, 2][2] / 1e9)}')
    print(f'{packed_report(out, float_size)}\n\n{NEXT.format(out=out)}')


def packed_report(out: Path, float_size: int) -> str:
    """Size and speed of the packed file in a few lines. float_size: bytes of the float weights."""
    model = out / 'packed' / 'model.gguf'
    verified = (out / 'logs' / 'verify.log').read_text()
    equal = re.search(r'^PASS cpu: equal on (\d+) maps', verified, re.MULTILINE)[1]
    with (out / 'packed' / 'speed.csv').open() as file:
        times = {f'{row["contender"]} {row["precision"]}': row for row in csv.DictReader(file)}
    ours = times['bfcn 1-2']
    lines = [
        f'Packed: {model}, {model.stat().st_size / 1e3:.0f} kB with its config (float weights: '
        f'{float_size / 1e3:.0f} kB). C computes all {equal} maps bit for bit.',
        f'An image of {IMAGE[0]}x{IMAGE[1]} on one core ({ours["isa_used"]}): '
        f'{float(ours["median_ms"]):.2f} ms',
    ]
    for name, words in (('float32', 'in float32'), ('int8', 'in int8')):
        if row := times.get(f'onnxruntime {name}'):
            times_faster = float(row['median_ms']) / float(ours['median_ms'])
            lines[-1] += (
                f', ONNX Runtime {words} {float(row["median_ms"]):.2f} ms ({times_faster:.1f}x)'
            )
    if len(times) == 1:
        lines.append('To see it beside ONNX Runtime: pip install onnx onnxruntime')
    lines.append(
        'Maps of 16 to 48 channels fill less than the 64 lanes of a kernel; docs/performance.md has a '
        'ResNet-50.'
    )
    return '\n'.join(lines)


def stage_scores(out: Path) -> dict[tuple[int, int], float]:
    """(weight bits, activation bits) -> mIoU of the last validation at these bits."""
    with (out / 'low_bit' / 'stages.csv').open() as file:
        rows = list(csv.DictReader(file))
    return {(int(row['w_bits']), int(row['a_bits'])): float(row['mIoU']) for row in rows}


def price(stages: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """What the network costs at the bits of each stage, for one image: (bytes of all that is stored,
    bit-operations of all layers but the first, those of the first)."""
    import bfcn_mm

    bfcn_mm.register()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from bfcn_mm.analysis.complexity import BITOPS_PER_FLOP, complexity

    init_default_scope('mmseg')
    config = Config.fromfile(FLOAT_CONFIG)
    prices = []
    for w, a in stages:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='mmseg')  # its notes on its own ways
            model = MODELS.build(config.model)
        if (w, a) != FLOAT:
            bfcn_mm.quantize_(model, w=w, a=a)
        cost = complexity(model, config.crop_size)
        ops = [layer.bitops + BITOPS_PER_FLOP['CPU'] * layer.float_macs for layer in cost.layers]
        prices.append((cost.stored_bytes, sum(ops[1:]), ops[0]))
    return prices


def clock(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def shown(path: Path) -> Path:
    """A path as people read it: relative to the repository where it lies inside."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
