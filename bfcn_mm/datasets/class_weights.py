"""Class weights of ENet: rare classes count more, by at most 1 / ln(c)."""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.losses.utils import weight_reduce_loss
from mmseg.registry import HOOKS
from torch import Tensor, nn

from .check import class_names, dataset_counts, empty_class_message, empty_classes


def class_weights(pixels: Sequence[int] | np.ndarray, c: float = 1.4) -> list[float]:
    """w_i = 1 / ln(c + p_i), p_i = pixels_i / sum(pixels). ENet (Paszke et al., 2016), section 5.2.

    pixels: one count per class, ignored pixels left out. Raises ValueError unless c > 1 (the
    weight of an absent class would be infinite) and there is a pixel.
    """
    if not c > 1:
        raise ValueError(f'c must be greater than 1, got {c!r}')
    counts = [int(count) for count in pixels]
    total = sum(counts)
    if total <= 0:
        raise ValueError('class weights need at least one labelled pixel, got none')
    return [1 / math.log(c + count / total) for count in counts]


def weighted_cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: float | None = None,
    ignore_index: int = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """sum w[y] * ce / sum w[y] over the pixels that are not ignored: torch's own weighted mean.

    pred: (N, C, H, W); label: (N, H, W). Takes the place of mmseg's function of the same
    signature, which indexes the weights with ignored labels: IndexError in mmseg 1.2.2, and in the
    maintained fork with avg_non_ignore=True. `avg_non_ignore` changes nothing here.
    """
    loss = F.cross_entropy(
        pred, label, weight=class_weight, reduction='none', ignore_index=ignore_index
    )
    if avg_factor is None and reduction == 'mean':
        seen = label != ignore_index
        avg_factor = (class_weight[label * seen] * seen).sum().clamp(min=1e-12)
    weight = None if weight is None else weight.float()
    return weight_reduce_loss(loss, weight=weight, reduction=reduction, avg_factor=avg_factor)


def format_table(classes: Sequence[str], pixels: Sequence[int], weights: Sequence[float]) -> str:
    """One line a class: name, share of the labelled pixels, weight."""
    width = max(map(len, ('class', *classes)))
    total = sum(int(count) for count in pixels)
    lines = [f'{"class":<{width}}  pixels %  weight']
    for name, count, weight in zip(classes, pixels, weights, strict=True):
        lines.append(f'{name:<{width}}  {100 * count / total:8.3f}  {weight:6.3f}')
    return '\n'.join(lines)


@HOOKS.register_module()
class ClassWeightHook(Hook):
    """Weigh every CrossEntropyLoss of the decode head by the classes' share of the training set.

    The weights travel in the checkpoint; a resumed run takes them from there.

    Args:
        c: the constant of ENet; 1.4 keeps weights within 1.1 and 3.
        auxiliary: weigh the auxiliary heads too.
        allow_empty: accept a class without a pixel (its weight is 1 / ln(c)).
    """

    def __init__(self, c: float = 1.4, auxiliary: bool = False, allow_empty: bool = False) -> None:
        if not c > 1:
            raise ValueError(f'ClassWeightHook: c must be greater than 1, got {c!r}')
        self.c = c
        self.auxiliary = auxiliary
        self.allow_empty = allow_empty
        self.weights: list[float] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the weights of the run that is resumed."""
        if runner._resume:
            self.weights = checkpoint.get('class_weights')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the weights."""
        checkpoint['class_weights'] = self.weights

    def before_train(self, runner: Runner) -> None:
        """Compute the weights unless resumed, show them, hand them to the losses."""
        if self.weights is None:
            self.weights = self._compute(runner.train_dataloader.dataset)
        losses = self._losses(runner)
        for loss in losses:
            loss.class_weight = list(self.weights)
            loss.cls_criterion = weighted_cross_entropy

    def _compute(self, dataset: object) -> list[float]:
        classes = class_names(dataset)
        counts, files = dataset_counts(dataset)
        missing = empty_classes(counts, classes)
        if missing and not self.allow_empty:
            way_out = 'set allow_empty=True in ClassWeightHook'
            raise ValueError(empty_class_message(missing, len(files), way_out))
        pixels = counts.sum(axis=0)[: len(classes)]
        weights = class_weights(pixels, self.c)
        print_log(
            f'Class weights 1 / ln({self.c} + p) over {len(files)} label files:\n'
            + format_table(classes, pixels, weights),
            logger='current',
        )
        return weights

    def _losses(self, runner: Runner) -> list[CrossEntropyLoss]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        heads = [model.decode_head]
        if self.auxiliary and getattr(model, 'auxiliary_head', None) is not None:
            heads.append(model.auxiliary_head)
        losses = [loss for head in heads for loss in _cross_entropies(head)]
        if not losses:
            raise ValueError(
                f'ClassWeightHook: {type(model.decode_head).__name__} has no softmax '
                'CrossEntropyLoss to weigh: use one, or remove the hook'
            )
        if any(loss.class_weight is not None for loss in losses):
            raise ValueError(
                'ClassWeightHook: loss_decode.class_weight is set in the config already: '
                'remove it, or the hook'
            )
        return losses


def _cross_entropies(head: nn.Module) -> list[CrossEntropyLoss]:
    return [
        module
        for module in head.modules()
        if isinstance(module, CrossEntropyLoss) and not (module.use_sigmoid or module.use_mask)
    ]
