"""Running a model without a trace: nothing of it has changed afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

_PLAIN = (int, float, bool, str, type(None))


@contextmanager
def undisturbed(model: nn.Module, training: bool, seed: int = 0) -> Iterator[None]:
    """In training or evaluation mode, without gradients, from seeded random numbers.

    Afterwards modes, parameters, buffers, requires_grad, numbers among the modules' attributes and all
    random states are as before. Batch norm stays in evaluation mode: one image at a time will do, and
    synchronized ones do not wait for other processes.
    """
    modules = list(model.modules())
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, _PLAIN)} for m in modules]
    registered = [(dict(m._parameters), dict(m._buffers)) for m in modules]
    tensors = {
        id(t): (t, t.detach().clone(), t.requires_grad)
        for pair in registered
        for group in pair
        for t in group.values()
        if t is not None and not is_lazy(t)
    }
    model.train(training)
    for module in modules:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = False
    try:
        with torch.no_grad(), _seeded(model, seed):
            yield
    finally:
        for module, values, (parameters, buffers) in zip(modules, plain, registered, strict=True):
            vars(module).update(values)
            module._parameters.update(parameters)
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, value, requires_grad in tensors.values():
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
                tensor.requires_grad_(requires_grad)


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type == 'cuda'}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
