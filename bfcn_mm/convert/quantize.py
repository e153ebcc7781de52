"""The walk that swaps modules, and what can be done with a quantized model afterwards."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import QuantActivation, QuantizedLayer, count_calls, forbid_fused_encoders
from ..quantizers import ActivationQuantizer, Quantizer, Run, give_up_stale
from .handlers import layer_handler, swap_class
from .plan import ActivationPlan, LayerPlan, make_plan
from .spec import FLOAT, QuantSpec


def quantize_(model: nn.Module, *, example: Tensor | None = None, **quant: Any) -> nn.Module:
    """Convert the model in place to low-bit layers, and return it.

    quant: the keys of a config's `quant`: quantize_(model, w=1, a=2). example: an input to probe the
    model with, for models that do not take an image of the channels of their first convolution.
    Names of parameters and buffers stay; quantizers add some. Raises ValueError on a bad key.

    The quantizers start at the target bits; a schedule such as BitWidthDecayHook (a config's
    `quant.decay`) moves them by set_cap(). Activations are calibrated by calibrate() or by the first
    training batch.
    """
    return convert_(model, QuantSpec.parse(quant), example)


def convert_(
    model: nn.Module,
    spec: QuantSpec,
    example: Tensor | None = None,
    config: Mapping | None = None,
) -> nn.Module:
    """quantize_ with a checked spec. The model gets two attributes: quant_spec and quant_plan.

    config: the model dict of the mmseg config that the model was built from.
    """
    plan = make_plan(model, spec, example, config)
    if _unshare_activations(model, plan.shared):
        plan = make_plan(model, spec, example, config)
    modules = dict(model.named_modules())
    for name, layer in plan.layers.items():
        _convert_layer(modules[name], layer, spec)
    for name, activation in plan.activations.items():
        _convert_activation(name, modules, activation, spec)
    forbid_fused_encoders(model)
    model.quant_spec, model.quant_plan = spec, plan
    _join(model, spec)
    return model


def _join(model: nn.Module, spec: QuantSpec) -> None:
    """Make the quantizers parts of this model: names, allowed bits, what they share, mode and freedom."""
    model.quant_run = Run()
    for name, quantizer in quantizers(model):
        quantizer.name, quantizer.run = name, model.quant_run
        quantizer.allowed = _allowed_bits(quantizer.target, spec)
    for module in model.modules():
        if not isinstance(module, Quantizer | torch.jit.ScriptModule):
            module._register_load_state_dict_pre_hook(give_up_stale, with_module=True)
        if isinstance(module, QuantizedLayer | QuantActivation):
            for _, quantizer in quantizers(module):
                quantizer.train(module.training)
        if isinstance(module, QuantizedLayer) and not _learns(module):
            for _, quantizer in quantizers(module):
                quantizer.requires_grad_(False)
    model.register_forward_pre_hook(_forward_begins)
    model.register_forward_hook(_forward_ended, always_call=True)


def _learns(layer: nn.Module) -> bool:
    """Whether any weight of the layer is trained; steps of a frozen layer are frozen with it."""
    steps = {id(p) for _, quantizer in quantizers(layer) for p in quantizer.parameters()}
    return any(p.requires_grad for p in layer.parameters() if id(p) not in steps)


def _forward_begins(model: nn.Module, args: tuple) -> None:
    model.quant_run.training = model.training
    if model.quant_run.notes:
        _report(model.quant_run)


def _forward_ended(model: nn.Module, args: tuple, out: Any) -> None:
    model.quant_run.training = False


def _report(run: Run) -> None:
    """Log which grids were not believed, and why."""
    for why in dict.fromkeys(why for why, _ in run.notes):
        names = [name for reason, name in run.notes if reason == why]
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        print_log(
            f'{why}: the grids of {", ".join(names[:3])}{more} are placed again',
            logger='current',
            level=logging.WARNING,
        )
    run.notes.clear()


def _convert_layer(module: nn.Module, layer: LayerPlan, spec: QuantSpec) -> None:
    handler = layer_handler(module)
    swap_class(module, handler.mixin)
    own = None
    if layer.own_input:
        own = ActivationQuantizer(layer.bits.a, layer.signed, spec.method, spec.calibrate)
        own.to(next(module.parameters()).device)
    module.attach(layer.bits.w, own, spec.method, spec.per_channel)


def _convert_activation(
    name: str, modules: dict[str, nn.Module], plan: ActivationPlan, spec: QuantSpec
) -> None:
    if all(b == FLOAT for b in plan.bits):
        return
    module = modules[name]
    swap_class(module, QuantActivation)
    rest = plan.signed, spec.method, spec.calibrate
    quants = [None if b == FLOAT else ActivationQuantizer(b, *rest) for b in plan.bits]
    for index in plan.fixed:
        if quants[index] is not None:
            quants[index].requires_grad_(False)
    module.attach(quants, plan.places, plan.overwrites, name)
    if len(quants) > 1 and plan.places.caller is not None:
        count_calls(modules[plan.places.caller], module)


def _unshare_activations(model: nn.Module, names: list[str]) -> bool:
    """Give each holder of these activation modules a copy of its own; whether there were several.

    Copies compute the same. Those of a PReLU hold the same parameter, so state dicts stay as they were.
    """
    shared = {id(model.get_submodule(name)) for name in names}
    seen: set[int] = set()
    copied = False
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if id(child) in seen:
                parent._modules[key] = _copied(child)
                copied = True
            elif id(child) in shared:
                seen.add(id(child))
    return copied


def _copied(module: nn.Module) -> nn.Module:
    """A module of the same class and settings with the same parameters and buffers."""
    made = module.__class__.__new__(module.__class__)
    made.__dict__ = {k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(module).items()}
    return made


def _allowed_bits(target: int, spec: QuantSpec) -> tuple[int, ...]:
    return tuple(dict.fromkeys(max(target, cap) for cap in spec.caps()))


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """(name, quantizer) of every quantizer of the model."""
    return ((n, m) for n, m in model.named_modules() if isinstance(m, Quantizer))


def set_cap(model: nn.Module, cap: int) -> list[Quantizer]:
    """Give each quantizer max(its target, cap) bits; returns those that changed.

    Those place their grids anew: weights at once by least squares, activations by the next batch.
    """
    changed = []
    for _, quantizer in quantizers(model):
        bits = max(quantizer.target, cap)
        if bits != quantizer.bits:
            quantizer.set_bits(bits)
            changed.append(quantizer)
    return changed


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], forward: Any = None) -> None:
    """Place the grids of all activations that have none by running batches through the float values.

    forward(batch) runs the model (default: model(batch)), in the mode that the model is in; running
    statistics of batch norm are left as they were. Raises RuntimeError naming a quantizer that no value
    passed through.
    """
    waiting = [
        (name, q)
        for name, q in quantizers(model)
        if isinstance(q, ActivationQuantizer) and not q.initialized
    ]
    if not waiting:
        return
    statistics = [b for m in model.modules() if isinstance(m, _BatchNorm) for b in m.buffers()]
    before = [buffer.clone() for buffer in statistics]
    for _, quantizer in waiting:
        quantizer.calibrate()
    try:
        for batch in batches:
            model(batch) if forward is None else forward(batch)
    finally:
        placed = [(name, quantizer.finish_calibration()) for name, quantizer in waiting]
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
    idle = [name for name, done in placed if not done]
    if idle:
        raise RuntimeError(
            f'no value reached {idle[0]} ({len(idle)} in all) during calibration: feed at least one '
            'batch through every branch, or add its module to quant.skip'
        )
