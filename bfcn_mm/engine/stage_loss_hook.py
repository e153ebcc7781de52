"""Stage-wise losses: the 32x prediction learns first, finer ones join one by one."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import nn


@HOOKS.register_module()
class StageLossHook(Hook):
    """Set `active_levels` of the head as the paper does ("Experiment Setup").

    Level k, the coarsest being 0, is in the loss from iteration begins[k] on (epoch begins[k] with
    by_epoch). The number follows from runner.iter alone, so a resumed run continues exactly. It is
    logged as `active_levels`.

    The head is any module of the model, however wrapped, with `active_levels` and `num_levels`.

    Raises ValueError if begins does not start at 0, decreases, has not one value for each level,
    or reaches past the end of the run.
    """

    priority = 'NORMAL'

    def __init__(
        self, begins: Sequence[int] = (0, 1000, 2000, 3000), by_epoch: bool = False
    ) -> None:
        begins = tuple(begins)
        if not begins or not all(type(begin) is int for begin in begins):
            raise ValueError(f'begins must be whole numbers, one for each level, got {begins}')
        if begins[0] != 0:
            raise ValueError(f'begins must start at 0, where the 32x loss begins, got {begins}')
        if list(begins) != sorted(begins):
            raise ValueError(f'begins must not decrease: a finer level joins later, got {begins}')
        self.begins = begins
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Check the schedule against the model and the length of the run."""
        for head in _heads(runner.model):
            if len(self.begins) != head.num_levels:
                raise ValueError(
                    f'begins must have one value for each of the {head.num_levels} levels of '
                    f'{type(head).__name__} (num_levels), got {self.begins}'
                )
        unit, end = ('epochs', runner.max_epochs) if self.by_epoch else ('iters', runner.max_iters)
        if self.begins[-1] >= end:
            raise ValueError(
                f'begins must lie inside the run: lower {self.begins} or raise max_{unit}={end}'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        now = runner.epoch if self.by_epoch else runner.iter
        active = sum(begin <= now for begin in self.begins)
        for head in _heads(runner.model):
            if head.active_levels != active:
                head.active_levels = active
                print_log(
                    f'{active} of {head.num_levels} levels in the loss from now on', 'current'
                )
        runner.message_hub.update_scalar('train/active_levels', active)


def _heads(model: nn.Module) -> list[nn.Module]:
    """The staged heads of a model; modules() looks through DDP and other wrappers."""
    heads = [m for m in model.modules() if hasattr(m, 'active_levels') and hasattr(m, 'num_levels')]
    if not heads:
        raise ValueError(
            'StageLossHook needs a head with active_levels: use ResidualLaplacianHead as '
            'decode_head or remove the hook from custom_hooks'
        )
    return heads
