"""What is known of a tensor's values, and what each torch function makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..layers.call_site import Site

Call = tuple[str, Site, int]  # name of an activation module, line that calls it, number of the call
Place = tuple[str, int]  # name of an activation module, index of its quantizer


@dataclass(frozen=True)
class Origin:
    """Where a tensor's values come from.

    places: the quantized activations that the values were copied from. on_grid: there are no other
    values, except 0. nonneg: no value is below 0. image: the values depend on the network's input.
    weighted: they have passed weights. layers: the last layers with weights on the ways here. borrowed:
    layers whose parameters the values depend on, other than through these layers' own forward. learned:
    the values depend on parameters alone. fixed: known to depend on no parameter that is trained.
    """

    places: frozenset[Any] = frozenset()
    on_grid: bool = False
    nonneg: bool = False
    image: bool = False
    weighted: bool = False
    layers: frozenset[str] = frozenset()
    borrowed: frozenset[str] = frozenset()
    learned: bool = False
    fixed: bool = False

    @property
    def feature(self) -> bool:
        """Whether the values are more than parameters and constants."""
        return self.image or self.weighted or bool(self.places)


ZERO = Origin(on_grid=True, nonneg=True)


def joined(origins: list[Origin]) -> Origin:
    """Of values picked from tensors of these origins."""
    return Origin(
        frozenset().union(*(o.places for o in origins)),
        bool(origins) and all(o.on_grid for o in origins),
        bool(origins) and all(o.nonneg for o in origins),
        any(o.image for o in origins),
        any(o.weighted for o in origins),
        frozenset().union(*(o.layers for o in origins)),
        frozenset().union(*(o.borrowed for o in origins)),
        bool(origins) and all(o.learned for o in origins),
        all(o.fixed for o in origins),
    )


def result_origin(name: str, args: tuple, kwargs: dict, origins: list[Origin], out: Any) -> Origin:
    """Of what the torch function of this name returns or writes, given the origins of its tensors."""
    name = base_name(name)
    origin = joined(origins)
    if name in _WEIGHTED and any(o.learned for o in origins):
        origin = replace(origin, weighted=origin.feature, layers=frozenset())
    picked = _picked(name, args, kwargs, origin)
    if picked is not None:
        return picked if _exact(name, args, kwargs, out) else replace(picked, on_grid=False)
    nonneg = name in _NONNEG or (
        origin.nonneg and name in _KEEPS_SIGN and not _changes_sign(name, args, kwargs)
    )
    return replace(origin, places=frozenset(), on_grid=False, nonneg=nonneg)


def base_name(name: str) -> str:
    """'add' of 'add_', '__add__', '__radd__' and '__iadd__'."""
    if name.startswith('__') and name.endswith('__'):
        return _DUNDER.get(name, name)
    return name.rstrip('_') if not name.startswith('_') else name


def is_addition(name: str) -> bool:
    return base_name(name) == 'add'


def takes_no_values(name: str) -> bool:
    """Whether the function reads shapes and types of tensors alone, as zeros_like does."""
    return name.startswith('new_') or name.endswith('_like') or name in _NO_VALUES


def tensors_in(x: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


def read_by(name: str, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors whose values count: x in x.type_as(y), y in x.copy_(y), x and y in x[mask] = y."""
    if name in _FIRST_ALONE:
        return tensors_in(args[:1])
    if name in _OVERWRITES:
        return tensors_in((args[1:], kwargs))
    found = tensors_in((args, kwargs))
    return [x for x in found if x.is_floating_point()] if base_name(name) in _WRITE else found


_DUNDER = {
    f'__{prefix}{name}__': base
    for name, base in dict(add='add', mul='mul', sub='sub', matmul='matmul').items()
    for prefix in ('', 'r', 'i')
}
_NO_VALUES = {'empty_strided', 'size', 'stride', 'dim', 'numel'}
_FIRST_ALONE = {'to', 'type_as', 'view_as', 'reshape_as', 'expand_as'}
_OVERWRITES = {
    'copy_', 'zero_', 'fill_', 'uniform_', 'normal_', 'random_', 'bernoulli_', 'exponential_',
    'trunc_normal_',
}  # fmt: skip
# Move or pick values of their tensors.
_KEEP = {
    'max_pool1d', 'max_pool2d', 'max_pool3d', 'adaptive_max_pool2d', 'dropout', 'dropout2d',
    'feature_dropout', 'alpha_dropout', 'reshape', 'view', 'flatten', 'unflatten',
    'transpose', 'permute', 'contiguous', 'squeeze', 'unsqueeze', '__getitem__', '__get__', 'chunk',
    'split', 'clone', 'detach', 'cat', 'concat', 'stack', 'expand', 'repeat', 'to', 'float', 'identity',
    'pixel_shuffle', 'roll', 'movedim', 'unfold', 'narrow', 'index_select', 'flip', 'swapaxes', 'copy',
}  # fmt: skip
# Write the values of their last tensor, or a number, over some of their first tensor's.
_WRITE = {'__setitem__', 'masked_fill', 'masked_scatter', 'index_put', 'index_fill', 'index_copy',
          'scatter'}  # fmt: skip
_NONNEG = {'relu', 'relu6', 'sigmoid', 'hardsigmoid', 'softmax', 'abs', 'square', 'softplus'}
_ARITHMETIC = {'mul', 'add'}
_KEEPS_SIGN = {
    'avg_pool2d', 'adaptive_avg_pool2d', 'interpolate', 'mean', 'sum', 'upsample', *_ARITHMETIC,
}  # fmt: skip
# With parameters among their tensors these are layers with weights.
_WEIGHTED = {
    'conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d',
    'linear', 'bilinear', 'matmul', 'mm', 'bmm', 'addmm', 'baddbmm', 'einsum', 'tensordot',
    'multi_head_attention_forward',
}  # fmt: skip


def _picked(name: str, args: tuple, kwargs: dict, origin: Origin) -> Origin | None:
    """The origin of what only moves, picks or overwrites values; None of any other result."""
    if name in _KEEP:
        return origin
    if name == 'interpolate':
        return origin if _mode(args, kwargs) in ('nearest', 'nearest-exact') else None
    if name == 'pad':
        mode, value = (
            argument(args, kwargs, 2, 'mode', 'constant'),
            argument(args, kwargs, 3, 'value'),
        )
        return origin if mode != 'constant' else _with_number(origin, value or 0)
    if name in ('fill', 'zero'):
        return _with_number(ZERO, argument(args, kwargs, 1, 'value', 0))
    if name in _WRITE:
        value = argument(args, kwargs, len(args) - 1, 'value')
        return _with_number(origin, value) if _is_number(value) else origin
    return None


def _with_number(origin: Origin, value: Any) -> Origin:
    """Of a tensor some of whose values become this number: only 0 lies on every grid."""
    if isinstance(value, Tensor):  # fill_ takes one
        return replace(origin, on_grid=False, nonneg=False)
    return replace(
        origin, on_grid=origin.on_grid and value == 0, nonneg=origin.nonneg and value >= 0
    )


def argument(args: tuple, kwargs: dict, index: int, name: str, default: Any = None) -> Any:
    return kwargs.get(name, args[index] if index < len(args) else default)


def _mode(args: tuple, kwargs: dict) -> str:
    return argument(args, kwargs, 3, 'mode', 'nearest')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _changes_sign(name: str, args: tuple, kwargs: dict) -> bool:
    """A number below 0 in a sum or product; a cubic resize, which overshoots."""
    if name in ('interpolate', 'upsample'):
        return _mode(args, kwargs) == 'bicubic'
    if name not in _ARITHMETIC:
        return False
    return any(_is_number(x) and x < 0 for x in (*args, kwargs.get('alpha')))


def _exact(name: str, args: tuple, kwargs: dict, out: Any) -> bool:
    """Whether no value is rounded on its way into the result's type."""
    if name in _WRITE or name == 'copy':
        given, made = _types((args[1:], tuple(kwargs.values()))), _types(args[:1])
    else:
        given, made = _types(args[0] if args else tuple(kwargs.values())), _types(out)
    return all(torch.promote_types(a, b) == b for a in given for b in made)


def _types(x: Any) -> list[torch.dtype]:
    """Of the tensors in x."""
    if isinstance(x, Tensor):
        return [x.dtype]
    return [d for item in x for d in _types(item)] if isinstance(x, list | tuple) else []
