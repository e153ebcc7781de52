"""Running a model without a trace: nothing of it has changed afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..layers import Snapshot


@contextmanager
def undisturbed(model: nn.Module, training: bool, seed: int = 0) -> Iterator[None]:
    """In training or evaluation mode, without gradients, from seeded random numbers.

    Afterwards the modules' modes, parameters, buffers and other attributes, caches among them, and all
    random states are as before. Batch norm stays in evaluation mode: one image at a time will do, and
    synchronized ones do not wait for other processes.
    """
    modules = list(model.modules())
    before = Snapshot(model)
    tensors = [
        (t, t.detach().clone(), t.requires_grad)
        for t in before.tensors
        if t.layout == torch.strided and not is_lazy(t)
    ]
    model.train(training)
    for module in modules:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = False
    try:
        with torch.no_grad(), _seeded(model, seed):
            yield
    finally:
        before.restore()
        with torch.no_grad():
            for tensor, value, requires_grad in tensors:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
                if tensor.requires_grad != requires_grad:
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
