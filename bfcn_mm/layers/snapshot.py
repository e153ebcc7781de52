"""The attributes of a model's modules at one moment, to return to after a trial run."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

_CONTAINERS = (dict, list, set, deque)


class Snapshot:
    """What every module of a model holds: attributes, and the items of containers among them.

    Containers are dicts, lists, sets and deques, also inside each other and inside tuples: parameters,
    buffers, children, hooks and caches are among them. Other objects are not looked into.

    tensors: those found, each once. Their numbers are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors: list[Tensor] = []
        self._found: set[int] = set()  # ids of tensors
        self._items: dict[int, tuple[Collection, list]] = {}  # by id of the container
        for module in model.modules():
            self._keep(vars(module))

    def restore(self) -> None:
        """Give every container the items that it had, in their order. Those that never changed are not
        written to."""
        for container, items in self._items.values():
            if not _same(_listed(container), items):
                container.clear()
                if isinstance(container, dict | set):
                    container.update(items)
                else:
                    container.extend(items)

    def _keep(self, value: Any) -> None:
        if isinstance(value, Tensor) and id(value) not in self._found:
            self._found.add(id(value))
            self.tensors.append(value)
        if isinstance(value, tuple):
            inside = value
        elif isinstance(value, _CONTAINERS) and id(value) not in self._items:
            self._items[id(value)] = value, _listed(value)
            inside = value.values() if isinstance(value, dict) else value
        else:
            return
        for item in inside:
            self._keep(item)


def _listed(container: Collection) -> list:
    return list(container.items() if isinstance(container, dict) else container)


def _same(a: list, b: list) -> bool:
    """Whether two lists hold the same objects; (key, value) pairs by their parts."""
    return len(a) == len(b) and all(map(_is, a, b))


def _is(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) == 2:
        return all(x is y for x, y in zip(a, b, strict=True))
    return a is b
