"""Wherever a run stops, its resumed end has the bits of the run that did not stop."""

import copy
import os
import re
import signal
import subprocess

import pytest
import torch
from helpers import TOOLS, command, environment, run_script, tiny_config, write_config
from mmengine.hooks import Hook

ITERS = 7
QUANT = dict(w=1, a=2, calibrate=2, decay=dict(start=4, rate=1, every=2))  # at 0, 2, 4: w 4, 3, 2


@pytest.fixture
def one_run(trained, tmp_path):
    """(checkpoints after every iteration, final state) of one uninterrupted run."""
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    _, state = trained(ITERS, quant=QUANT, default_hooks=dict(checkpoint=checkpoint))
    return tmp_path / 'work', state


def test_every_iteration_is_a_place_to_resume(one_run, trained, assert_same_state):
    """Stages begin at 2, 4 and 6: the checkpoints of those iterations hold the bits before."""
    folder, state = one_run
    for stop in range(1, ITERS):
        path = str(folder / f'iter_{stop}.pth')
        runner, resumed = trained(ITERS, quant=QUANT, load_from=path, resume=True)
        assert_same_state(state, resumed)
        assert runner.message_hub.get_scalar('train/w_bits').data[0].tolist() == [
            4, 4, 3, 3, 2, 2, 1,
        ]  # fmt: skip
        torch.manual_seed(stop)  # whatever state the generators are left in
    checkpoint = torch.load(folder / 'iter_7.pth', weights_only=False)
    assert checkpoint['message_hub']['runtime_info']['iter'] == 6


def test_resume_goes_on_in_work_dir_and_not_from_where_the_run_began(
    trained, tmp_path, assert_same_state
):
    trained(2)
    began = str(tmp_path / 'float.pth')
    (tmp_path / 'work/iter_2.pth').rename(began)
    (tmp_path / 'work/last_checkpoint').unlink()
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=3)
    settings = dict(quant=QUANT, load_from=began, default_hooks=dict(checkpoint=checkpoint))
    runner, state = trained(ITERS, resume=True, **settings)
    bits = runner.message_hub.get_scalar('train/w_bits').data[0]
    assert len(bits) == ITERS, 'it went on from the float run'
    (tmp_path / 'work/last_checkpoint').write_text(str(tmp_path / 'work/iter_3.pth'))
    runner, resumed = trained(ITERS, resume=True, **settings)
    assert runner._load_from is None
    assert_same_state(state, resumed)


def start(config, *arguments):
    return subprocess.Popen(
        command(TOOLS / 'train.py', config, *arguments),
        cwd=config.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process, pattern):
    """Read the log until a line matches; a run that ends before fails the test with its log."""
    log = ''
    for line in process.stdout:
        log += line
        if re.search(pattern, line):
            return
    pytest.fail(f'the run ended without {pattern!r}:\n{log[-3000:]}')


@pytest.mark.parametrize('workers', [0, 2])
def test_kill_9_in_the_middle_of_a_stage(tmp_path, workers, streets, trained, assert_same_state):
    quant = dict(w=1, a=2, calibrate=2, decay=dict(start=4, rate=1, every=4))
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=8)
    hooks = tiny_config(tmp_path)['default_hooks'] | dict(checkpoint=checkpoint)
    settings = dict(quant=quant, default_hooks=hooks)
    killed = tiny_config(streets, 24, workers, work_dir=str(tmp_path / 'killed'), **settings)
    config = write_config(tmp_path / 'c.py', killed)
    process = start(config)
    wait_for(process, r'Iter\(train\) \[10/24\]')
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / 'killed/iter_24.pth').exists()
    done = run_script(TOOLS / 'train.py', config, '--resume', cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'resumed epoch: 0, iter: 8' in done.stdout
    _, whole = trained(24, train_dataloader=killed['train_dataloader'], **settings)
    resumed = torch.load(tmp_path / 'killed/iter_24.pth', weights_only=False)['state_dict']
    assert int(resumed['backbone.layer1.0.conv1.weight_quant._bits']) == 1
    assert_same_state(whole, resumed)


def test_ctrl_c_reaches_workers_too(tmp_path, streets, trained, assert_same_state):
    """SIGINT goes to the whole process group, as a terminal sends it."""
    train = dict(type='IterBasedTrainLoop', max_iters=2000, val_interval=5000)
    settings = dict(quant=dict(w=1, a=2, calibrate=2), train_cfg=train)
    cfg = tiny_config(streets, 2000, 2, work_dir=str(tmp_path / 'work'), **settings)
    process = start(write_config(tmp_path / 'c.py', cfg))
    wait_for(process, r'Iter\(train\) \[ +3/2000\]')
    os.killpg(process.pid, signal.SIGINT)
    log = process.communicate(timeout=60)[0]
    assert process.returncode == 130, log
    assert 'Traceback' not in log
    stop = int(re.search(r'wrote a checkpoint at iteration (\d+), go on with --resume', log)[1])
    path = tmp_path / f'work/iter_{stop}.pth'
    assert (tmp_path / 'work/last_checkpoint').read_text() == str(path)

    settings |= dict(train_dataloader=cfg['train_dataloader'], train_cfg=train)
    train['max_iters'] = stop + 2
    assert_same_state(
        trained(2000, **settings)[1],
        trained(2000, load_from=str(path), resume=True, **settings)[1],
    )


@pytest.fixture
def interrupted_and_resumed(trained, tmp_path, assert_same_state):
    def check(runner, stop, settings):
        """Training ends in Ctrl-C with a checkpoint of iteration `stop`, and goes on from it exactly."""
        with pytest.raises(KeyboardInterrupt):
            runner.train()
        path = tmp_path / f'work/iter_{stop}.pth'
        assert (tmp_path / 'work/last_checkpoint').read_text() == str(path)
        _, resumed = trained(load_from=str(path), resume=True, **settings)
        assert_same_state(trained(**settings)[1], resumed)

    return check


INTERRUPTED = dict(
    quant=dict(w=1, a=2, calibrate=2),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=4),
)


@pytest.mark.parametrize(('loader', 'count', 'stop'), [('train', 12, 3), ('val', 2, 4)])
def test_ctrl_c_between_iterations(
    make_runner, streets, interrupted_and_resumed, loader, count, stop
):
    """While data are awaited (4 images calibrate, 4 x 2 train) and in the midst of a validation."""
    config = copy.deepcopy(tiny_config(streets)[f'{loader}_dataloader'])
    config['dataset']['pipeline'].insert(0, dict(type='InterruptAt', count=count))
    runner = make_runner(**{f'{loader}_dataloader': config}, **INTERRUPTED)
    interrupted_and_resumed(runner, stop, INTERRUPTED)


class InterruptAfter(Hook):
    """Ctrl-C at the very end of an iteration, when no hook asks for it any more."""

    priority = 'LOWEST'

    def __init__(self, iteration):
        self._iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 == self._iteration:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize('stop', [3, 4])
def test_ctrl_c_before_the_next_batch_is_asked_for(make_runner, interrupted_and_resumed, stop):
    """Data workers have ended then: no batch would come. A validation follows the fourth iteration."""
    runner = make_runner(**INTERRUPTED)
    runner.register_hook(InterruptAfter(stop))
    interrupted_and_resumed(runner, stop, INTERRUPTED)


def test_second_ctrl_c_stops_at_once(make_runner):
    runner = make_runner(quant=dict(w=1, a=2))
    hook = next(h for h in runner.hooks if type(h).__name__ == 'ExactResumeHook')
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    before = signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    type(hook)().before_train(runner)  # a run that fails leaves its handler behind
    hook.before_train(runner)
    assert signal.getsignal(signal.SIGINT) == hook._on_interrupt
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_resuming_with_another_seed_is_warned_of(make_runner, tmp_path, monkeypatch):
    settings = dict(quant=dict(w=1, a=2, calibrate=1))
    make_runner(1, randomness=dict(seed=7), **settings).train()
    path = str(tmp_path / 'work/iter_1.pth')
    for seed, expected in ((None, 1), (7, 0)):
        runner = make_runner(2, load_from=path, resume=True, randomness=dict(seed=seed), **settings)
        said = []
        monkeypatch.setattr(runner.logger, 'warning', said.append)
        runner.train()
        assert len([s for s in said if 'set randomness.seed=7' in s]) == expected
