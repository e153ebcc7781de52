"""One run of a model with eyes on its modules: who calls whom, and what layers with weights are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.call_site import call_site, calling_frame
from .origins import Call, Origin, tensors_in
from .places import Run
from .recorder import Recorder, version_of


@dataclass(frozen=True)
class Target:
    """What is watched: all modules by name, layers with weights, activations -> whether non-negative."""

    model: nn.Module
    modules: dict[str, nn.Module]
    layers: set[str]
    activations: dict[str, bool]


@dataclass
class LayerReads:
    """What a layer with weights was given, over all its calls; its MACs in one evaluation."""

    inputs: list[Origin] = field(default_factory=list)
    macs: int = 0


@dataclass
class Seen:
    """What one run of the model has shown.

    runs: forwards of modules in the order in which they began, the first that of none. layers: in order
    of execution. last: layers that make the output. identities: modules that always returned their input.
    learning: calls of activations whose values may depend on parameters that are trained. notes: what
    could not be run. complete: whether nothing else runs in this mode. counting: whether MACs are
    counted now.
    """

    recorder: Recorder
    runs: list[Run] = field(default_factory=lambda: [Run(None)])
    layers: dict[str, LayerReads] = field(default_factory=dict)
    last: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    learning: set[Call] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    complete: bool = True
    counting: bool = True

    def calls(self) -> set[tuple]:
        """Layers that ran, and (activation, line that called it)."""
        sites = {(a, site) for run in self.runs for a, found in run.sites.items() for site in found}
        return sites | {(name,) for name in self.layers}


@contextmanager
def watched(target: Target, seen: Seen, droppers: set[str]) -> Iterator[None]:
    """Watch the forwards of all modules. droppers: modules that return their input in evaluation."""
    watcher = _Watcher(target, seen, droppers)
    handles = [
        handle
        for name in target.layers
        for handle in watcher.surround_hooks(name, target.modules[name])
    ]
    replaced = []
    for name, module in target.modules.items():
        if not isinstance(module, torch.jit.ScriptModule):
            replaced.append((module, vars(module).get('forward')))
            vars(module)['forward'] = watcher.forward_of(name, module)
    try:
        yield
    finally:
        for module, forward in replaced:
            del vars(module)['forward']
            if forward is not None:
                vars(module)['forward'] = forward
        for handle in handles:
            handle.remove()
        seen.identities -= watcher.others


class _Watcher:
    def __init__(self, target: Target, seen: Seen, droppers: set[str]) -> None:
        self.target, self.seen, self.recorder = target, seen, seen.recorder
        self.droppers = droppers
        self.stack = [seen.runs[0]]
        self.others: set[str] = set()  # modules that returned something else than their input

    def forward_of(self, name: str, module: nn.Module) -> Callable:
        """The module's forward, watched."""
        forward = module.forward
        kind = type(module).__name__
        if name in self.target.activations:
            forward = self._activation(name, module, forward)
        if name in self.target.layers:
            forward = self._layer(name, module, forward)

        def watched_forward(*args, **kwargs):
            run = Run(name)
            self.seen.runs.append(run)
            self.stack.append(run)
            outer, self.recorder.where = self.recorder.where, kind
            try:
                before = self._first_tensor(args, kwargs)
                out = forward(*args, **kwargs)
            finally:
                self.stack.pop()
                self.recorder.where = outer
            self._compare(name, module, before, out)
            return out

        return watched_forward

    def surround_hooks(self, name: str, module: nn.Module) -> list:
        """A layer is running while its own hooks are, too: weight_norm computes the weight there."""

        def begin(*_) -> None:
            self.recorder.running[name] += 1

        def end(*_) -> None:
            self.recorder.running[name] -= 1

        return [
            module.register_forward_pre_hook(begin, prepend=True),
            module.register_forward_hook(end),
        ]

    def _activation(self, name: str, module: nn.Module, forward: Callable) -> Callable:
        nonneg, recorder = self.target.activations[name], self.recorder

        def watched_activation(*args, **kwargs):
            site = call_site(calling_frame(1))
            call = self.stack[-2].add(name, site, module.training)
            with _unseen():
                x = self._first_tensor(args, kwargs)
                given, version = recorder.origin(x), version_of(x)
            out = forward(*args, **kwargs)
            with _unseen():
                fixed = given.fixed and _is_frozen(module)
                origin = replace(
                    given,
                    places=frozenset([call]),
                    on_grid=True,
                    nonneg=nonneg,
                    learned=False,
                    fixed=fixed,
                )
                if not fixed:
                    self.seen.learning.add(call)
                if version_of(x) != version:
                    return recorder.note_in_place(out, origin, call)
                out = out.view_as(out) if out is x else out
                recorder.note(out, origin)
            return out

        return watched_activation

    def _layer(self, name: str, module: nn.Module, forward: Callable) -> Callable:
        recorder = self.recorder

        def watched_layer(*args, **kwargs):
            with _unseen():
                given = tensors_in((args, kwargs))
                recorder.use(given)
                reads = self.seen.layers.setdefault(name, LayerReads())
                reads.inputs.extend(recorder.origin(x) for x in _read_by(module, given))
            recorder.running[name] += 1
            out = forward(*args, **kwargs)
            recorder.running[name] -= 1
            with _unseen():
                if self.seen.counting:
                    reads.macs += _macs(module, given[0], out)
                fixed = _is_frozen(module) and all(recorder.origin(x).fixed for x in given)
                origin = Origin(weighted=True, layers=frozenset([name]), fixed=fixed)
                for leaf in tensors_in(out):
                    recorder.note(leaf, origin)
            return out

        return watched_layer

    def _compare(self, name: str, module: nn.Module, before: Tensor | None, out: Any) -> None:
        """Note a module that only hands its input on; in training, what thins out the same values
        (dropout, stochastic depth) has the origin of its input."""
        if out is before and before is not None:
            self.seen.identities.add(name)
            return
        self.others.add(name)
        if name in self.droppers and isinstance(out, Tensor) and not list(module.parameters()):
            with _unseen():
                if _is_thinned(before, out):
                    self.recorder.note(out, self.recorder.origin(before))

    @staticmethod
    def _first_tensor(args: tuple, kwargs: dict) -> Tensor | None:
        return next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)


def _unseen():
    """Functions that run inside are not recorded."""
    return torch._C.DisableTorchFunction()


def _is_frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())


def _read_by(module: nn.Module, given: list[Tensor]) -> list[Tensor]:
    """Of the tensors given to a layer: query, key and value of an attention, else the first."""
    return given[: 3 if isinstance(module, nn.MultiheadAttention) else 1]


def _macs(module: nn.Module, given: Tensor, out: Any) -> int:
    """Multiply-accumulates of one call of a convolution or linear layer, 0 for others."""
    weight = getattr(module, 'weight', None)
    if weight is None or not isinstance(out, Tensor):
        return 0
    if isinstance(module, nn.ConvTranspose2d):
        return given.numel() // weight.shape[0] * weight.numel()
    channels = out.shape[-1] if isinstance(module, nn.Linear) else out.shape[1]
    return out.numel() // channels * weight.numel()


def _is_thinned(x: Tensor, out: Tensor) -> bool:
    """Whether out is x with some values set to 0 and the others multiplied by one number."""
    if x.shape != out.shape or not x.is_floating_point():
        return False
    factors = (out / x)[(x != 0) & (out != 0)]
    if not factors.numel():
        return True
    low, high = factors.aminmax()
    return bool(high - low <= 1e-3 * high.abs())
