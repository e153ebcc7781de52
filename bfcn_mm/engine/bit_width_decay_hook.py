"""Bit-width decay: fewer bits, step by step, each step trained before the next (the paper's method)."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..convert import bits_now, set_cap
from .calibration_hook import bare_model
from .metric_watchers import MetricWatchers
from .optim_wrapper_constructor import optimizers


@HOOKS.register_module()
class BitWidthDecayHook(Hook):
    """Says when the bits fall; the schedule is the model's `quant.decay`, the state is in the model.

    At the start of stage t every quantizer goes to max(its target, caps[t]) bits; changed steps are
    placed again and lose their momentum. The stage follows from the iteration alone, so a resumed run
    is where it was. Logs the scalars w_bits and a_bits; keeps each validation in the checkpoint and in
    work_dir/stages.csv. save_best and EarlyStoppingHook count only at the final bits, see
    MetricWatchers; a run that ends before them says so. Raises ValueError before the first iteration if
    the schedule is longer than the run.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        spec = getattr(model, 'quant_spec', None)
        if spec is None or spec.decay is None:
            raise RuntimeError('BitWidthDecayHook: the config has no quant.decay')
        self.decay = spec.decay
        self.caps = spec.caps()
        self.begins = self.decay.begins(len(self.caps))
        self.history = list(runner.message_hub.runtime_info.get('stages', []))
        self._check_length(runner)
        if runner.iter == 0:  # before calibration; a resumed run has the bits of its checkpoint
            set_cap(model, self._cap(runner))
        self._trained = self._stage(runner)  # the loop counts an iteration before it validates
        self._watchers = MetricWatchers(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        model = bare_model(runner.model)
        changed = set_cap(model, self._cap(runner))
        self._trained = self._stage(runner)
        bits = bits_now(model)
        if changed:
            self._watchers.forget()
            _forget_momentum(runner, changed)
            runner.logger.info(
                f'bit-width decay, stage {self._stage(runner) + 1} of {len(self.caps)}: now '
                f'{bits["w_bits"]}-bit weights and {bits["a_bits"]}-bit activations '
                f'({len(changed)} quantizers)'
            )
        for name, value in bits.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        self._scheduled = _scale_rates(runner, self._rewarm_factor(runner))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        for group, rate in self._scheduled:
            group['lr'] = rate

    def before_val_epoch(self, runner: Runner) -> None:
        if hasattr(self, 'caps'):
            self._watchers.watch(final=self._final)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if not metrics or not hasattr(self, 'caps'):
            return
        row = {'stage': self._trained + 1, 'iter': runner.iter}
        row.update(bits_now(bare_model(runner.model)))
        row.update({k: float(v) for k, v in metrics.items() if isinstance(v, Real)})  # numpy's too
        self.history.append(row)
        runner.message_hub.update_info('stages', self.history)
        if is_main_process():
            _write_csv(Path(runner.work_dir) / 'stages.csv', self.history)

    def after_train(self, runner: Runner) -> None:
        if not self._final:
            bits = bits_now(bare_model(runner.model))
            runner.logger.warning(
                f'the run ended in stage {self._trained + 1} of {len(self.caps)} of bit-width decay, at '
                f'{bits["w_bits"]}-bit weights and {bits["a_bits"]}-bit activations: go on with --resume'
            )

    @property
    def _final(self) -> bool:
        """Whether the weights were trained in the last stage."""
        return self._trained == len(self.caps) - 1

    def _position(self, runner: Runner) -> int:
        return runner.epoch if self.decay.by_epoch else runner.iter

    def _stage(self, runner: Runner) -> int:
        return bisect_right(self.begins, self._position(runner)) - 1

    def _cap(self, runner: Runner) -> int:
        return self.caps[self._stage(runner)]

    def _check_length(self, runner: Runner) -> None:
        unit = 'epochs' if self.decay.by_epoch else 'iterations'
        length = runner.max_epochs if self.decay.by_epoch else runner.max_iters
        if self.begins[-1] >= length:
            raise ValueError(
                f'quant.decay: the last of {len(self.caps)} stages begins at {self.begins[-1]} {unit}, '
                f'the run ends at {length}: make quant.decay.every smaller or the run longer'
            )

    def _rewarm_factor(self, runner: Runner) -> float:
        stage = self._stage(runner)
        if self.decay.rewarm is None or stage == 0:
            return 1.0
        unit = len(runner.train_dataloader) if self.decay.by_epoch else 1
        low = self.decay.rewarm.get('factor', 0.1)
        done = (runner.iter - self.begins[stage] * unit) / self.decay.rewarm['iters']
        return min(1.0, low + (1 - low) * done)


def _forget_momentum(runner: Runner, changed: Sequence) -> None:
    """Optimizer state of steps that are placed again belongs to the old grid."""
    steps = {id(p) for quantizer in changed for p in quantizer.parameters()}
    for optimizer in optimizers(runner.optim_wrapper):
        for parameter in [p for p in optimizer.state if id(p) in steps]:
            del optimizer.state[parameter]


def _scale_rates(runner: Runner, factor: float) -> list[tuple[dict, float]]:
    """Scale every learning rate for this iteration; returns what to put back, since schedulers compute
    the next rate from the present one."""
    if factor == 1.0:
        return []
    built = optimizers(runner.optim_wrapper)
    scheduled = [(group, group['lr']) for optimizer in built for group in optimizer.param_groups]
    for group, rate in scheduled:
        group['lr'] = rate * factor
    return scheduled


def _write_csv(path: Path, rows: list[dict]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
