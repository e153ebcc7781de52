"""Watches every torch function of a forward, and keeps for each tensor where its values come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .origins import (
    Call,
    Origin,
    is_addition,
    joined,
    read_by,
    result_origin,
    takes_no_values,
    tensors_in,
)

# Hand the memory to code that writes unseen.
_LETS_OUT = {'numpy', '__array__', '__dlpack__', 'data_ptr'}


class Recorder(TorchFunctionMode):
    """Origins of all tensors while the mode is on.

    Tensors that share memory are known to each other: a write to one of them (seen by torch's version
    counters) changes the origin of all that it reaches. A tensor that was written unseen has lost its
    grid and sign.

    added: activations that are an operand of an addition. reread: calls of in-place activations whose
    input is used afterwards, by code that counts on the activation to have changed it. borrowed: layer
    with weights -> who uses its parameters without calling it. running: layers whose forward is
    running; where: name of the class whose forward is the innermost.
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.added: set[Call] = set()
        self.reread: set[Call] = set()
        self.borrowed: dict[str, str] = {}
        self.running: Counter[str] = Counter()
        self.where = ''
        self._owners: dict[int, set[str]] = {}
        for name, layer in layers.items():
            for parameter in layer.parameters():
                self._owners.setdefault(id(parameter), set()).add(name)
        self._origins: dict[int, tuple[Origin, int]] = {}
        self._alive: list[Tensor] = []  # so that no id is used twice
        self._sharing: dict[int, list[Tensor]] = {}
        self._replaced: dict[int, set[Call]] = {}  # tensors that in-place activations have changed

    def origin(self, x: Any) -> Origin:
        if isinstance(x, nn.Parameter):
            owners = self._owners.get(id(x), set())
            own = any(self.running[name] for name in owners)
            borrowed = frozenset(() if own else owners)
            return Origin(borrowed=borrowed, learned=True, fixed=not x.requires_grad)
        origin, version = self._origins.get(id(x), (Origin(), None))
        if version is None or version == version_of(x):
            return origin
        return replace(origin, places=frozenset(), on_grid=False, nonneg=False)

    def note(self, x: Any, origin: Origin) -> None:
        if not isinstance(x, Tensor) or isinstance(x, nn.Parameter):
            return
        if not (x.is_floating_point() or x.is_complex()):
            origin = Origin(  # a mask: no map
                weighted=origin.weighted, layers=origin.layers, fixed=origin.fixed
            )
        self._see(x)
        self._origins[id(x)] = origin, version_of(x)

    def note_in_place(self, x: Tensor, origin: Origin, call: Call) -> Tensor:
        """An activation has changed x, and returns it: note x and return another tensor of the same
        memory, which is the result. Uses of x itself are seen by that."""
        with torch._C.DisableTorchFunction():
            result = x.view_as(x)
            for other in self._overwrite(x, origin):
                self._replaced.setdefault(id(other), set()).add(call)
            self.note(result, origin)
        return result

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        if takes_no_values(name):
            return func(*args, **kwargs)
        given = tensors_in((args, kwargs))
        read = read_by(name, args, kwargs)
        for x in given:
            self._see(x)
        origins = [self.origin(x) for x in read]
        versions = [version_of(x) for x in given]
        out = func(*args, **kwargs)
        changed = [
            x for x, version in zip(given, versions, strict=True) if version_of(x) != version
        ]
        results = tensors_in(out)
        if name in _LETS_OUT:
            for x in given:
                self._overwrite(x, replace(self.origin(x), on_grid=False, nonneg=False))
        if not changed and not results:
            return out
        self._note_uses(name, read, origins, [*results, *changed])
        origin = result_origin(name, args, kwargs, origins, out)
        written = _written(name, changed, args, kwargs)
        for x in written:
            self._overwrite(x, origin)
        unchanged = {id(x) for x in (*given, *written)}
        for x in results:
            if id(x) not in unchanged:  # not one that the function only hands on
                self.note(x, origin)
        if name == '__set__' and len(given) == 2:  # x.data = y
            self.note(given[0], origins[1])
        return out

    def release(self) -> None:
        """Let go of all tensors when the forward is over; what was found out about modules stays."""
        for held in (self._origins, self._alive, self._sharing, self._replaced):
            held.clear()

    def use(self, tensors: Iterable[Any]) -> None:
        """A module that is no torch function reads these."""
        tensors = tensors_in(list(tensors))
        self._note_uses('', tensors, [self.origin(x) for x in tensors], tensors, joins=True)

    def _note_uses(
        self, name: str, read: list[Tensor], origins: list[Origin], made: list[Tensor], joins=False
    ) -> None:
        for x in read:
            self.reread |= self._replaced.get(id(x), set())
        if is_addition(name):
            self.added.update(*(o.places for o in origins if o.on_grid))
        borrowed = joined(origins).borrowed
        number = all(x.numel() == 1 for x in made)  # a term of the loss
        if borrowed and (joins or (any(o.feature for o in origins) and not number)):
            for layer in borrowed:
                self.borrowed.setdefault(
                    layer, f'{name or "a layer"} in {self.where or "the model"}'
                )

    def _see(self, x: Tensor) -> None:
        """Register the memory of a tensor."""
        if id(x) not in self._origins and not isinstance(x, nn.Parameter):
            self._origins[id(x)] = Origin(), version_of(x)
            self._alive.append(x)
            self._sharing.setdefault(_memory(x), []).append(x)

    def _overwrite(self, x: Tensor, origin: Origin) -> list[Tensor]:
        """x now holds values of this origin: note it and all tensors that share them; returns these."""
        reached: list[Tensor] = []
        if isinstance(x, nn.Parameter):
            return reached
        self._see(x)
        for other in self._sharing.get(_memory(x), [x]):
            old = self._origins[id(other)][0]
            if other is x or _same_values(x, other):
                self._replaced.pop(id(other), None)
                self.note(other, origin)
            elif _overlap(x, other):
                self.note(other, joined([old, origin]))
            else:
                self.note(other, old)
                continue
            reached.append(other)
        return reached


def _written(name: str, changed: list[Tensor], args: tuple, kwargs: dict) -> list[Tensor]:
    """Of tensors whose version has changed: what the function wrote. Views of that change with it."""
    targets = {id(x) for x in tensors_in((args[:1], kwargs.get('out'), kwargs.get('input')))}
    own = [x for x in changed if id(x) in targets]
    return own or changed


def version_of(x: Tensor) -> int:
    """Number of writes so far; tensors of inference mode count none."""
    return 0 if x.is_inference() else x._version


def _memory(x: Tensor) -> int:
    """What identifies the memory that a tensor lies in."""
    try:
        return x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return -id(x)


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether a write to a, in the memory of both, changes all of b."""
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    if a.untyped_storage().nbytes() == a.numel() * a.element_size() and a.dtype == b.dtype:
        return True
    return (a.storage_offset(), a.shape, a.stride()) == (b.storage_offset(), b.shape, b.stride())


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors in the same memory have elements in common."""
    if a.dtype != b.dtype or a.layout != torch.strided or b.layout != torch.strided:
        return True
    marks = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    marks.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(marks.as_strided(b.shape, b.stride(), b.storage_offset()).any())
