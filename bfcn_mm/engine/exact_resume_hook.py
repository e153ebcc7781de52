"""A run that is killed and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Randomness as a function of (seed, rank, iteration), and a checkpoint at Ctrl-C.

    Python's, numpy's and torch's generators are seeded before each iteration and before each batch that
    is loaded in this process; workers are seeded by mmengine and replayed by its loop. Exact on CPU
    with a fixed `randomness.seed` and an iteration-based loop. At Ctrl-C the iteration is
    finished, a checkpoint is written, and KeyboardInterrupt goes on; a second Ctrl-C stops at once.
    While one process waits for data or validates, nothing is half done and the checkpoint is written
    at once: Ctrl-C ends its data workers too, so that no batch would come.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._interrupted = False
        self._idle = False  # between iterations: the state is that of a checkpoint
        self._previous: Any = None

    def before_run(self, runner: Runner) -> None:
        """Let --resume go on where this work_dir stopped.

        A quantized run mostly has a `load_from`, which mmengine would resume instead: the float run's
        end. One outside work_dir is where the run began, unless nothing else is there to go on from.
        """
        start = runner._load_from
        if not runner._resume or start is None or _lies_in(start, runner.work_dir):
            return
        latest = find_latest_checkpoint(runner.work_dir)
        if latest is not None:
            runner.logger.info(f'--resume: going on from {latest}, not from load_from={start}')
            runner._load_from = None
        elif not _holds_quantizers(start):
            runner.logger.info(f'--resume: nothing to go on from in {runner.work_dir}, starting')
            runner._resume = False

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = _SeededIterator(
                loop.dataloader_iterator, runner.seed, self._set_idle
            )
        self._interrupted = False
        self._runner = runner
        try:
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
            owner = getattr(self._previous, '__self__', None)
            if isinstance(owner, ExactResumeHook):  # left by a run in this process that failed
                self._previous = owner._previous
        except ValueError:  # not in the main thread: leave Ctrl-C to whoever runs us
            self._previous = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        seed = checkpoint.get('meta', {}).get('seed')
        if runner._resume and seed not in (None, runner.seed):
            runner.logger.warning(
                f'the checkpoint was trained with seed {seed}, this run has drawn {runner.seed}: '
                f'batches come in another order; for an exact resume set randomness.seed={seed}'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        seed_all(runner.seed, get_rank(), runner.iter, 1)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if _any_rank(self._interrupted):
            self._stop(runner)

    def before_val(self, runner: Runner) -> None:
        self._set_idle(True)

    def after_val(self, runner: Runner) -> None:
        self._set_idle(False)

    def after_train(self, runner: Runner) -> None:
        self._restore()

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        self._stop_if_idle()  # Ctrl-C may have come since the iteration's end asked for it

    def _on_interrupt(self, *_: Any) -> None:
        self._interrupted = True
        self._restore()
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not (self._interrupted and self._idle) or get_world_size() > 1:
            return
        loop = self._runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            loop._iter -= 1  # as checkpoint hooks see it, at the end of the last iteration
            self._stop(self._runner)

    def _stop(self, runner: Runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and runner.iter >= 0:
                hook._save_checkpoint(runner)
                runner.logger.info(
                    f'interrupted: wrote a checkpoint at iteration {runner.iter + 1}, go on with --resume'
                )
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _holds_quantizers(checkpoint: str) -> bool:
    state = _load_checkpoint(checkpoint, map_location='cpu')
    return any('_quant.' in name for name in state.get('state_dict', state))


class _SeededIterator:
    """Seeds before each batch, for pipelines that draw random numbers in this process. waiting(True)
    and waiting(False) are called before and after."""

    def __init__(
        self, batches: Iterator, seed: int | None, waiting: Callable[[bool], None]
    ) -> None:
        self._batches, self._seed, self._waiting = batches, seed, waiting
        self._count = 0

    def __next__(self) -> Any:
        seed_all(self._seed, get_rank(), self._count, 0)
        self._count += 1
        self._waiting(True)
        try:
            batch = next(self._batches)
        except (OSError, RuntimeError):
            time.sleep(0.2)  # Ctrl-C may end a data worker before it reaches us: let it arrive
            raise
        self._waiting(False)
        return batch

    def skip_iter(self, count: int) -> None:
        """Replay batches on resume, where mmengine >= 0.10.8 would move the sampler alone: the random
        state of data workers depends on what they have loaded."""
        for _ in range(count):
            next(self)


def seed_all(*key: int | None) -> None:
    """Seed python, numpy and torch from a few integers."""
    state = np.random.SeedSequence([k or 0 for k in key]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])  # noqa: NPY002 - the global generator is what pipelines use
    torch.manual_seed(int(state[2]))


def _any_rank(flag: bool) -> bool:
    if get_world_size() == 1:
        return flag
    device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
    votes = torch.tensor(int(flag), device=device)
    dist.all_reduce(votes)
    return bool(votes)
