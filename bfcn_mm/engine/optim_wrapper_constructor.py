"""Learned steps are positions of grids, not weights: weight decay would only shrink the grids."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..convert import quantizers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuantOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor; learned steps move to groups of their own without weight decay.

    `quant` puts it into configs that name no constructor. Any paramwise_cfg works as before.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        wrapper = super().__call__(model)
        model = getattr(model, 'module', model)
        steps = {id(p) for _, quantizer in quantizers(model) for p in quantizer.parameters()}
        optimizer = wrapper.optimizer
        for group in list(optimizer.param_groups):
            moved = [p for p in group['params'] if id(p) in steps]
            if moved and group.get('weight_decay'):
                group['params'] = [p for p in group['params'] if id(p) not in steps]
                optimizer.add_param_group({**group, 'params': moved, 'weight_decay': 0.0})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group['params']]
        return wrapper
