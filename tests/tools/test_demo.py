"""tools/demo.py from end to end on few iterations, and what it makes of logs and results."""

import csv
import os
import shutil
import signal
import subprocess
import time
from bisect import bisect
from itertools import accumulate
from pathlib import Path

import pytest
from helpers import TOOLS, command, environment
from mmengine.config import Config, DictAction
from mmengine.runner.utils import calc_dynamic_intervals

import bfcn_mm  # noqa: F401
from lab import demo

LINE = (
    '11/23 20:49:15 - mmengine - INFO - Iter(train) [ 40/800]  lr: 1.0000e-05  eta: 0:01:09  time: 0.25  '
    'data_time: 0.01  {}loss: 0.7590  decode.loss_ce_32x: 0.1299'
)


@pytest.fixture
def run_demo(tmp_path):
    def run(*arguments):
        line = command(TOOLS / 'demo.py', '--out', tmp_path / 'out', *arguments)
        return subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)

    return run


def table_of(out):
    with (out / 'table.csv').open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_demo_runs_after_ctrl_c_and_runs_again(run_demo, tmp_path):
    out = tmp_path / 'out'
    interrupt_once_drawn(out)
    drawn = (out / 'streets' / 'train.json').stat().st_mtime_ns
    done = run_demo('--iters', 16)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / 'streets' / 'train.json').stat().st_mtime_ns == drawn
    rows = table_of(out)
    assert [row['bits w / a'] for row in rows] == ['float', '8 / 8', '4 / 4', '2 / 2', '1 / 2']
    assert all(0 < float(row['mIoU %']) < 100 for row in rows)
    assert float(rows[-1]['smaller'].removesuffix('x')) > 20
    for name in ('pictures.png', 'classes.png', 'curves.png'):
        assert (out / 'compare' / name).stat().st_size > 10_000
    assert str(out / 'compare/pictures.png') in done.stdout
    assert (out / 'packed' / 'model.gguf').stat().st_size < 200_000
    assert 'maps bit for bit' in done.stdout
    times = list(csv.DictReader((out / 'packed' / 'speed.csv').open()))
    peers = ['onnxruntime'] * 2 if demo.have_onnxruntime() else []
    assert [row['contender'] for row in times] == ['bfcn', *peers]
    assert ('ONNX Runtime in float32' in done.stdout) == demo.have_onnxruntime()
    stages = list(csv.DictReader((out / 'low_bit' / 'stages.csv').open()))
    assert {(row['stage'], row['w_bits'], row['a_bits']) for row in stages} == {
        ('1', '8', '8'),
        ('2', '4', '4'),
        ('3', '2', '2'),
        ('4', '1', '2'),
    }
    assert float(rows[-1]['mIoU %']) == pytest.approx(float(stages[-1]['mIoU']), abs=0.06)

    again = run_demo('--iters', 16)
    assert again.returncode == 0, again.stdout + again.stderr
    assert table_of(out) == rows
    assert (out / 'streets' / 'train.json').stat().st_mtime_ns == drawn


def interrupt_once_drawn(out):
    """Ctrl-C in the first step, when the scenes are there."""
    process = subprocess.Popen(
        command(TOOLS / 'demo.py', '--out', out, '--iters', 16),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A suite that runs in the background of a script has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not all((out / 'streets' / f'{part}.json').exists() for part in ('train', 'val')):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert 'Stopped.' in said
    assert 'Traceback' not in said


def test_a_failing_step_shows_the_end_of_its_log(tmp_path, capsys):
    step = demo.Step('bad', 'Fail', ('python', '-c', 'print("the reason"); raise SystemExit(3)'))
    (tmp_path / 'logs').mkdir()
    with pytest.raises(subprocess.CalledProcessError) as error:
        demo.run(step, tmp_path / 'logs' / 'bad.log', tmp_path)
    assert error.value.returncode == 3
    assert 'the reason' in error.value.output
    assert str(tmp_path / 'logs' / 'bad.log') in error.value.output


def test_too_few_iterations_are_refused(run_demo):
    result = run_demo('--iters', 20)
    assert result.returncode == 2
    assert '--iters must be a multiple of 8, at least 16, got 20' in result.stderr


def test_only_folders_that_a_demo_made_are_removed(tmp_path):
    out = tmp_path / 'out'
    demo.start_over(out)
    for name in demo.FOLDERS:
        (out / name / 'result').touch()
    (out / 'notes.txt').touch()
    demo.start_over(out)
    assert not list(out.glob('*/result'))
    assert (out / 'notes.txt').exists()

    shutil.rmtree(out / 'packed')
    (out / 'packed').mkdir()
    (out / 'packed' / 'mine').touch()
    (out / 'float' / 'result').touch()
    with pytest.raises(FileExistsError, match=r'out/packed was not made by a demo .*another --out'):
        demo.start_over(out)
    assert (out / 'packed' / 'mine').exists()
    assert (out / 'float' / 'result').exists()


def test_a_link_is_not_a_folder_that_a_demo_made(tmp_path):
    demo.start_over(tmp_path / 'first')
    out = tmp_path / 'second'
    out.mkdir()
    (out / 'float').symlink_to(tmp_path / 'first' / 'float')
    with pytest.raises(FileExistsError, match='second/float was not made by a demo'):
        demo.start_over(out)


def test_a_folder_of_others_is_one_line(run_demo, tmp_path):
    (tmp_path / 'out' / 'float').mkdir(parents=True)
    (tmp_path / 'out' / 'float' / 'mine').touch()
    result = run_demo('--iters', 16)
    assert (result.returncode, result.stdout, result.stderr.count('\n')) == (1, '', 1)
    assert 'out/float was not made by a demo' in result.stderr
    assert (tmp_path / 'out' / 'float' / 'mine').exists()


def test_the_configs_hold_the_default_schedule():
    for name in (demo.FLOAT_CONFIG, demo.BIT_CONFIG):
        config = Config.fromfile(demo.ROOT / name)
        assert config.train_cfg.max_iters == demo.ITERS
        assert config.default_hooks.checkpoint.interval == demo.ITERS
        for part in ('train', 'val', 'test'):
            root = config[f'{part}_dataloader'].dataset.data_root
            assert root == f'{demo.OUT}/streets'
    assert config.load_from == f'{demo.OUT}/float/iter_{demo.ITERS}.pth'
    every = config.model.quant.decay.every
    assert validations(config.train_cfg) == stage_ends(every, demo.ITERS)
    assert not any('--cfg-options' in step.command for step in demo.steps(demo.OUT, demo.ITERS))
    assert sum(every) < demo.ITERS


@pytest.mark.parametrize('iters', [16, 88, 400, 4000])
def test_every_stage_is_validated_at_its_end(iters):
    config = Config.fromfile(demo.ROOT / demo.BIT_CONFIG)
    config.merge_from_dict(options_of(demo.steps(Path('elsewhere'), iters)[1].command))
    ends = stage_ends(config.model.quant.decay.every, iters)
    assert validations(config.train_cfg) == ends
    assert list(accumulate(config.param_scheduler[0].periods)) == ends
    assert config.load_from == f'elsewhere/float/iter_{iters}.pth'


def stage_ends(every, iters):
    return [*accumulate(every), iters]


def validations(train_cfg):
    """Iterations after which mmengine's loop validates."""
    milestones, intervals = calc_dynamic_intervals(
        train_cfg.val_interval, train_cfg.dynamic_intervals
    )
    done = range(1, train_cfg.max_iters + 1)
    return [i for i in done if i % intervals[bisect(milestones, i + 1) - 1] == 0]


def options_of(words):
    given = [word.split('=', 1) for word in words[words.index('--cfg-options') + 1 :]]
    return {key: DictAction._parse_iterable(value) for key, value in given}


def test_progress_is_read_from_the_log_of_mmengine():
    assert demo.progress_of(LINE.format('')) == '#................... 40/800, 01:09 left, loss 0.76'
    with_bits = demo.progress_of(LINE.format('w_bits: 1  a_bits: 2  '))
    assert with_bits.endswith('loss 0.76, bits 1 / 2')
    drawing = 'INFO - Drawing 200 train street scenes of 128x192'
    assert demo.progress_of(drawing) == 'drawing 200 street scenes'
    assert demo.progress_of('mmengine - INFO - paramwise_options -- lr=0.005') is None


def test_a_path_in_the_repository_is_shown_from_there(tmp_path):
    assert demo.shown(demo.ROOT / 'demo_out') == demo.OUT
    assert demo.shown(tmp_path) == tmp_path.resolve()
