"""Learned steps are positions of grids, not weights: weight decay would only shrink the grids."""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ALL_CONSTRUCTORS
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.optim import Optimizer

from ..convert import quantizers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuantOptimWrapperConstructor:
    """Builds by another constructor, then moves learned steps to groups without weight decay.

    `quant` puts it into every config; `optim_wrapper.inner_constructor` is the constructor that the
    config names, mmengine's default one if it names none. Groups keep their other options (learning
    rate, lr_scale, ...), so any paramwise_cfg and layer-wise learning rates work as before. A
    constructor may also build several optimizers (OptimWrapperDict).
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        options = optim_wrapper_cfg.copy()
        kind = options.pop('inner_constructor', 'DefaultOptimWrapperConstructor')
        self.inner = ALL_CONSTRUCTORS.build(
            dict(type=kind, optim_wrapper_cfg=options, paramwise_cfg=paramwise_cfg)
        )

    def __call__(self, model: nn.Module) -> OptimWrapper | OptimWrapperDict:
        wrapper = self.inner(model)
        steps = learned_steps(getattr(model, 'module', model))
        for optimizer in optimizers(wrapper):
            _spare(optimizer, steps)
        return wrapper


def learned_steps(model: nn.Module) -> set[int]:
    """The ids of all parameters of quantizers."""
    return {id(p) for _, quantizer in quantizers(model) for p in quantizer.parameters()}


def optimizers(wrapper: OptimWrapper | OptimWrapperDict) -> list[Optimizer]:
    """The optimizers of a runner's optim_wrapper: one, or several under names."""
    several = isinstance(wrapper, OptimWrapperDict)
    return [w.optimizer for w in (wrapper.values() if several else [wrapper])]


def decayed_steps(wrapper: OptimWrapper | OptimWrapperDict, model: nn.Module) -> int:
    """How many learned steps have weight decay."""
    steps = learned_steps(model)
    groups = [group for optimizer in optimizers(wrapper) for group in optimizer.param_groups]
    return sum(
        id(p) in steps for group in groups if group.get('weight_decay') for p in group['params']
    )


def _spare(optimizer: Optimizer, steps: set[int]) -> None:
    for group in list(optimizer.param_groups):
        moved = [id(p) in steps for p in group['params']]
        if any(moved) and group.get('weight_decay'):
            steps_of_group = _part(group, moved, True)
            group.update(_part(group, moved, False))
            optimizer.add_param_group(steps_of_group | dict(weight_decay=0.0))
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group['params']]


def _part(group: dict[str, Any], moved: list[bool], which: bool) -> dict[str, Any]:
    """The group with those parameters, and their names where it lists them."""
    part = dict(group)
    for key in ('params', 'param_names'):
        if len(group.get(key, ())) == len(moved):
            part[key] = [entry for entry, m in zip(group[key], moved, strict=True) if m == which]
    return part
