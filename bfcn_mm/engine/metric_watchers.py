"""What watches a validation metric while bits fall: the metric falls too, which is no failure."""

from __future__ import annotations

import math

from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner


class MetricWatchers:
    """save_best, EarlyStoppingHook and ReduceOnPlateau schedulers of a run with bit-width decay.

    Before the final stage nothing counts as best and no metric ends the run (one that is NaN or infinite
    still does). Wherever bits fall, early stopping and plateau schedulers forget what they have seen:
    each stage is compared with itself.
    """

    def __init__(self, runner: Runner) -> None:
        self._checkpoints = [
            (hook, hook.save_best) for hook in runner.hooks if isinstance(hook, CheckpointHook)
        ]
        self._stoppers = [
            (hook, hook.patience, hook.stopping_threshold)
            for hook in runner.hooks
            if isinstance(hook, EarlyStoppingHook)
        ]
        self._schedulers = [s for s in _schedulers(runner) if getattr(s, 'need_val_args', False)]
        for hook, *_ in self._stoppers:
            runner.logger.info(f'{type(hook).__name__} waits for the last stage of bit-width decay')
        for scheduler in self._schedulers:
            runner.logger.info(
                f'{type(scheduler).__name__} compares {scheduler.monitor} within each stage of '
                'bit-width decay; rates that it has reduced stay reduced'
            )

    def watch(self, final: bool) -> None:
        """Before a validation: whether the weights to be validated are of the final stage."""
        for hook, save_best in self._checkpoints:
            hook.save_best = save_best if final else None
        for hook, patience, threshold in self._stoppers:
            hook.patience = patience if final else math.inf
            hook.stopping_threshold = threshold if final else None

    def forget(self) -> None:
        """Where bits fall."""
        for hook, *_ in self._stoppers:
            hook.wait_count = 0
            hook.best_score = -math.inf if hook.rule == 'greater' else math.inf
        for scheduler in self._schedulers:
            scheduler._reset()


def _schedulers(runner: Runner) -> list[_ParamScheduler]:
    """The parameter schedulers of a run, those of each optimizer if there are several."""
    built = runner.param_schedulers or []
    return [s for part in built.values() for s in part] if isinstance(built, dict) else built
