"""What a conversion did, as a table for the log."""

from __future__ import annotations

from torch import nn

from .plan import Plan
from .quantize import quantizers
from .spec import FLOAT


def summarize(model: nn.Module) -> str:
    """Layers by bits with weights, bytes, MACs and bit-operations, the first and last ones, and what
    stayed float and why."""
    plan: Plan = model.quant_plan
    modules = dict(model.named_modules())
    groups: dict[tuple[int, int], list[int]] = {}
    for name, layer in plan.layers.items():
        row = groups.setdefault((layer.bits.w, layer.bits.a), [0, 0, 0])
        row[0] += 1
        row[1] += sum(p.numel() for p in _matrices(modules[name]))
        row[2] += layer.macs
    size = 'x'.join(map(str, plan.shape[2:]))
    lines = [
        f'quantized {len(plan.layers)} layers and {_places(plan)} activations, '
        f'method {model.quant_spec.method}; operations at {size}',
        f'{"w":>4} {"a":>4} {"layers":>7} {"weights":>12} {"bytes":>12} {"GMAC":>8} {"Gbitop":>9}',
    ]
    for (w, a), (count, weights, macs) in sorted(groups.items()):
        bitops = f'{macs * w * a / 1e9:9.2f}' if FLOAT not in (w, a) else f'{"float":>9}'
        lines.append(
            f'{_width(w):>4} {_width(a):>4} {count:7d} {weights:12,d} {-(-weights * w // 8):12,d} '
            f'{macs / 1e9:8.2f} {bitops}'
        )
    for what, names in (
        ('first layers, which see the input', plan.first),
        ('last layers, which make the output', plan.last),
    ):
        for bits in dict.fromkeys(plan.layers[name].bits for name in names):
            some = _some([name for name in names if plan.layers[name].bits == bits])
            lines.append(f'{what}: {some} (w {_width(bits.w)}, a {_width(bits.a)})')
    for reason in dict.fromkeys(plan.kept.values()):
        names = [name for name, why in plan.kept.items() if why == reason]
        lines.append(f'left in float: {_some(names)} ({reason})')
    lines.extend(f'note: {note}' for note in plan.notes)
    return '\n'.join(lines)


def bits_now(model: nn.Module) -> dict[str, int]:
    """The narrowest weights and activations in force, as logged: {'w_bits': ..., 'a_bits': ...}."""
    kinds: dict[str, list[int]] = {'w_bits': [], 'a_bits': []}
    for name, quantizer in quantizers(model):
        kinds['w_bits' if 'weight_quant' in name else 'a_bits'].append(quantizer.bits)
    return {kind: min(bits, default=FLOAT) for kind, bits in kinds.items()}


def _some(names: list[str]) -> str:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + more


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, nn.MultiheadAttention):
        return [module.in_proj_weight, module.out_proj.weight]
    return [module.weight]


def _places(plan: Plan) -> int:
    return sum(b != FLOAT for activation in plan.activations.values() for b in activation.bits)


def _width(bits: int) -> str:
    return 'fp32' if bits == FLOAT else str(bits)
