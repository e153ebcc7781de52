"""Activation functions that store what they compute as codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import Tensor, nn

from ..quantizers import ActivationQuantizer
from .call_site import (
    Site,
    call_site,
    calling_frame,
    checkpoint_frame,
    describe,
    inside_a_module,
    rewritten,
)


@dataclass
class Places:
    """Which quantizer serves which call of an activation module.

    count: quantizers. sites: line of code that calls the module -> indices of its calls in one forward
    of the caller; one index serves all calls from there. orders: mode of the module (training or not) ->
    indices in the order of execution, for torch.compile; a mode is missing where the order varies.
    caller: name of the module whose forward makes all calls, if it is one.
    """

    count: int = 1
    sites: dict[Site, tuple[int, ...]] = field(default_factory=dict)
    orders: dict[bool, tuple[int, ...]] = field(default_factory=dict)
    caller: str | None = None


class QuantActivation:
    """Mixin of activation functions: the output is quantized.

    One module may be called at several places (the three ReLUs of a ResNet block are one module): each
    place has a quantizer of its own in `quants`, None where the map stays in float. A place is a line
    of source code and, where that line runs several times in one forward of the caller, the number of
    the call. So a call that only training makes takes nobody else's place, and one that activation
    checkpointing repeats finds its own. RuntimeError for a call from a line that is not among the places.

    In a graph of torch.compile or torch.export, where no frames are seen, places follow from the order
    of the calls, which the caller (see CallsActivations) starts from 0.

    overwrites: the places whose input is read again later by code that counts on the in-place
    activation to have changed it; there the quantized values are written over the input.
    """

    quants: nn.ModuleList

    def attach(
        self,
        quants: list[ActivationQuantizer | None],
        places: Places | None = None,
        overwrites: frozenset[int] = frozenset(),
        name: str = '',
    ) -> None:
        self.quants = nn.ModuleList(quants)
        self._places = places or Places(len(quants))
        self._overwrites, self._name = overwrites, name
        self.begin()

    def begin(self) -> None:
        """A forward of the caller starts."""
        self._position = 0
        self._calls: dict[Site, int] = {}
        self._began_in = _backward()
        self._repeated: dict[Site, tuple[FrameType, int]] = {}

    def forward(self, x: Tensor) -> Tensor:
        index = self._by_order() if torch.compiler.is_compiling() else self._by_site()
        quant = self.quants[index]
        if quant is None:
            return super().forward(x)
        if index in self._overwrites:
            return x.copy_(quant(super().forward(x.clone())))
        if isinstance(self, nn.ReLU) and quant.ready:
            return quant(x)
        return quant(super().forward(x))

    def _by_order(self) -> int:
        if len(self.quants) == 1:
            return 0
        order = self._places.orders.get(self.training)
        if order is None:
            raise RuntimeError(
                f'{self._name} is called in no fixed order, so torch.compile and torch.export cannot '
                f'tell its calls apart: give each call in {self._places.caller or "the model"} an '
                'activation module of its own'
            )
        index = order[self._position % len(order)]
        self._position += 1
        return index

    def _by_site(self) -> int:
        frame = calling_frame(1)
        site = call_site(frame)
        indices = self._places.sites.get(site)
        if indices is None:
            return self._unknown(frame)
        if len(self.quants) > 1:
            self._position += 1
        return indices[0] if len(indices) == 1 else indices[self._number(site, indices, frame)]

    def _unknown(self, frame: FrameType) -> int:
        if rewritten(frame):
            return self._by_order()
        if len(self.quants) == 1 and not (self._places.sites and inside_a_module(frame)):
            return 0
        raise RuntimeError(
            f'{self._name} is called at {describe(frame)}, where the conversion has not seen a call, '
            f'so that map has no grid. {self._way_out()}'
        )

    def _way_out(self) -> str:
        return (
            'Give each call an activation module of its own, or leave this one in float: '
            f'quant.skip=[{self._name!r}]'
        )

    def _number(self, site: Site, indices: tuple[int, ...], frame: FrameType) -> int:
        """How many calls from this line came before, in this forward of the caller."""
        if _backward() != self._began_in:
            return self._number_repeated(site, len(indices), frame)
        number = self._calls.get(site, 0)
        if number >= len(indices):
            raise RuntimeError(
                f'{self._name} is called more than {len(indices)} times at {describe(frame)}; the '
                f'conversion has seen no more, so that map has no grid. {self._way_out()}'
            )
        self._calls = {**self._calls, site: number + 1}  # replicas of the module share no dict
        return number

    def _number_repeated(self, site: Site, total: int, frame: FrameType) -> int:
        """The number of a call that activation checkpointing repeats in the backward pass.

        It is known where one checkpointed function makes all calls from the line: then they are
        repeated in their order. Functions of some of them are repeated last first.
        """
        root = checkpoint_frame(frame)
        begun, number = self._repeated.pop(site, (root, 0))
        if root is None or begun is not root:
            raise RuntimeError(
                f'{self._name} is called several times at {describe(frame)}, and activation '
                'checkpointing repeats these calls one by one in the backward pass, where they cannot be '
                f'told apart. Checkpoint the module that makes them. {self._way_out()}'
            )
        if number + 1 < total:
            self._repeated[site] = root, number + 1
        return number


class CallsActivations:
    """Mixin of a module that calls activations at several places: each forward starts their count."""

    _called: tuple[QuantActivation, ...]

    def forward(self, *args, **kwargs):
        for activation in self._called:
            activation.begin()
        return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: int) -> tuple | str:
        kind = type(self).__mro__[2]
        if _callers.get(kind) is not type(self):
            return super().__reduce_ex__(protocol)
        return _new_caller, (kind,), self.__dict__


_callers: dict[type, type] = {}


def count_calls(caller: nn.Module, activation: QuantActivation) -> None:
    """From now on each forward of the caller begins the activation's count, also one that is called
    without __call__, as mmseg calls those of its heads. The class keeps its name."""
    if not isinstance(caller, CallsActivations):
        caller.__class__ = _caller_class(type(caller))
        caller._called = ()
    caller._called = (*caller._called, activation)


def _caller_class(kind: type) -> type:
    if kind not in _callers:
        members = {'__module__': kind.__module__, '__doc__': kind.__doc__}
        _callers[kind] = type(kind.__name__, (CallsActivations, kind, *kind.__bases__), members)
    return _callers[kind]


def _new_caller(kind: type) -> nn.Module:
    made = _caller_class(kind)
    return made.__new__(made)


def _backward() -> int:
    """Number of the running backward pass, -1 outside of one."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()
