"""Who quantizes what, and to how many bits.

Rules: a layer's bits (w, a) are those of its weights and of what it reads. A stored map has as many
bits as its most demanding reader wants; a reader that wants fewer narrows it itself. An operand of a
residual addition wants `residual` bits. What comes from no quantized activation (the image, a resized
or averaged map, a sum) is quantized by the layer that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..layers import Places
from .handlers import activation_sign, is_converted, layer_handler
from .origins import Place
from .probe import Observation, probe
from .spec import FLOAT, Bits, QuantSpec, within
from .watch import LayerReads


@dataclass(frozen=True)
class LayerPlan:
    """bits of the layer; whether it quantizes its own input, signed or not; its MACs in the probe."""

    bits: Bits
    own_input: bool
    signed: bool
    macs: int


@dataclass(frozen=True)
class ActivationPlan:
    """bits of each place; whether values are signed; the places; those that write over their input; those
    whose values only frozen layers make."""

    bits: tuple[int, ...]
    signed: bool
    places: Places
    overwrites: frozenset[int]
    fixed: frozenset[int]


@dataclass
class Plan:
    """What becomes of each module.

    layers, activations: by module name. kept: name -> why in float. first: layers that see the input
    through no other weights. last: layers that make the output. shared: activations that one line calls
    in several modules. notes: what the probe could not see. shape: of the probe's input.
    """

    layers: dict[str, LayerPlan] = field(default_factory=dict)
    activations: dict[str, ActivationPlan] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()


def make_plan(
    model: nn.Module,
    spec: QuantSpec,
    example: Tensor | None = None,
    config: Mapping | None = None,
) -> Plan:
    """Walk the model once, probe it, settle every bit-width. Changes nothing.

    config: the model dict of an mmseg config, which says what images the model takes. Raises ValueError
    if there is nothing to convert, if a name in overrides or skip matches no module, or if the model has
    been converted before.
    """
    _check_names(model, spec)
    plan = Plan()
    layers, activations = _candidates(model, spec, plan)
    if not layers:
        raise ValueError(
            'quant: the model has no Conv2d, ConvTranspose2d, Linear or attention left'
        )
    seen = probe(model, layers, activations, example, config)
    plan.shape, plan.notes, plan.shared = seen.shape, seen.notes, seen.shared
    kept = plan.kept | seen.kept
    plan.kept = {name: kept[name] for name, _ in model.named_modules() if name in kept}
    layers = {name: module for name, module in layers.items() if name not in seen.kept}
    plan.first = [
        n for n in layers if any(o.image and not o.weighted for o in seen.layers[n].inputs)
    ]
    plan.last = [n for n in layers if n in seen.last]
    bits = {name: _bits_of(name, spec, plan) for name in layers}
    stored = _stored_bits(spec, seen, bits)
    for name in layers:
        reads = seen.layers[name]
        own, signed = _own_input(layers[name], bits[name].a, reads, stored)
        plan.layers[name] = LayerPlan(bits[name], own, signed, reads.macs)
    for name, places in seen.places.items():
        indices = range(places.count)
        plan.activations[name] = ActivationPlan(
            tuple(stored[name, i] for i in indices),
            not activations[name],
            places,
            frozenset(i for i in indices if (name, i) in seen.reread),
            frozenset(i for i in indices if (name, i) in seen.fixed),
        )
    return plan


def _candidates(
    model: nn.Module, spec: QuantSpec, plan: Plan
) -> tuple[dict[str, nn.Module], dict[str, bool]]:
    layers: dict[str, nn.Module] = {}
    activations: dict[str, bool] = {}
    inside: list[str] = []  # modules whose children they handle themselves
    for name, module in model.named_modules():
        if is_converted(module):
            raise ValueError(f'quant: {name!r} is quantized already; build the model anew')
        if any(within(name, parent) for parent in inside):
            continue
        handler = layer_handler(module)
        sign = activation_sign(module)
        if spec.skips(name):
            if handler is not None:
                plan.kept[name] = 'quant.skip'
        elif handler is not None and (reason := handler.refuses(module)):
            plan.kept[name] = reason
        elif handler is not None:
            layers[name] = module
        elif sign is not None:
            activations[name] = sign
        elif _has_own_matrix(module):
            plan.kept[name] = f'{type(module).__name__} has no handler'
        if isinstance(module, nn.MultiheadAttention):
            inside.append(name)
    return layers, activations


def _has_own_matrix(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _check_names(model: nn.Module, spec: QuantSpec) -> None:
    names = [name for name, _ in model.named_modules()]
    for key, where in [(k, 'overrides') for k, _ in spec.overrides] + [
        (k, 'skip') for k in spec.skip
    ]:
        if not any(within(name, key) for name in names):
            some = ', '.join(repr(n) for n in names if n and '.' not in n)
            raise ValueError(
                f'quant.{where}: {key!r} matches no module; names start with {some} '
                '(see model.named_modules())'
            )


def _bits_of(name: str, spec: QuantSpec, plan: Plan) -> Bits:
    override = spec.override_of(name)
    if override is not None:
        return override
    if spec.first is not None and name in plan.first:
        return spec.first
    if spec.last is not None and name in plan.last:
        return spec.last
    return Bits(spec.w, spec.a)


def _stored_bits(spec: QuantSpec, seen: Observation, bits: dict[str, Bits]) -> dict[Place, int]:
    """Of each place of an activation; one that is kept in float has one place of 32 bits.

    So has a place that only evaluation passes: nothing would set or train its grid.
    """
    wanted: dict[Place, list[int]] = {}
    for name, reads in seen.layers.items():
        for origin in reads.inputs:
            for place in origin.places if origin.on_grid else ():
                wanted.setdefault(place, []).append(bits[name].a)
    if spec.residual is not None:
        for place in seen.added:
            wanted.setdefault(place, []).append(spec.residual)
    stored = {(name, 0): FLOAT for name in seen.kept}
    for name, places in seen.places.items():
        override = spec.override_of(name)
        default = spec.a if override is None else override.a
        for index in range(places.count):
            stored[name, index] = max(wanted.get((name, index), [default]))
    stored.update(dict.fromkeys(seen.untrained, FLOAT))
    return stored


def _own_input(
    module: nn.Module, bits: int, reads: LayerReads, stored: dict[Place, int]
) -> tuple[bool, bool]:
    """(whether the layer quantizes its input itself, whether that input has negative values)."""
    signed = not all(origin.nonneg for origin in reads.inputs)
    if bits == FLOAT:
        return False, signed
    if isinstance(module, nn.MultiheadAttention):
        return True, True
    for origin in reads.inputs:
        maps = {stored[place] for place in origin.places}
        if not origin.on_grid or maps != {bits}:
            return True, signed
        if len(origin.places) > 1 and getattr(module, 'groups', 1) > 1:
            return True, signed
    return False, signed
