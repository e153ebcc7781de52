"""A run that is killed and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Randomness as a function of (seed, rank, iteration), and a checkpoint at Ctrl-C.

    Python's, numpy's and torch's generators are seeded before each iteration and before each batch that
    is loaded in this process; workers are seeded by mmengine and replayed by its loop. Exact on CPU
    with a fixed `randomness.seed` and an iteration-based loop. At Ctrl-C the iteration is
    finished, a checkpoint is written, and KeyboardInterrupt goes on; a second Ctrl-C stops at once.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._interrupted = False
        self._previous: Any = None

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = _SeededIterator(loop.dataloader_iterator, runner.seed)
        if runner._resume and runner.iter and runner._randomness_cfg.get('seed') is None:
            runner.logger.warning(
                'randomness.seed is not set: batches of the resumed run come in another order'
            )
        self._interrupted = False
        try:
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:  # not in the main thread: leave Ctrl-C to whoever runs us
            self._previous = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        seed_all(runner.seed, get_rank(), runner.iter, 1)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if not _any_rank(self._interrupted):
            return
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook._save_checkpoint(runner)
                runner.logger.info(
                    f'interrupted: wrote a checkpoint at iteration {runner.iter + 1}, go on with --resume'
                )
        self._restore()
        raise KeyboardInterrupt

    def after_train(self, runner: Runner) -> None:
        self._restore()

    def _on_interrupt(self, *_: Any) -> None:
        self._interrupted = True
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class _SeededIterator:
    """Seeds before each batch, for pipelines that draw random numbers in this process."""

    def __init__(self, batches: Iterator, seed: int | None) -> None:
        self._batches, self._seed, self._count = batches, seed, 0

    def __next__(self) -> Any:
        seed_all(self._seed, get_rank(), self._count, 0)
        self._count += 1
        return next(self._batches)


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
