"""A segmentor as a flat list of aten nodes, quantizers and quantized weights among them by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ..layers import QuantAttention, QuantizedLayer
from ..quantizers import ActivationQuantizer
from .signals import ExportError

_SIZES = (
    (512, 640),
    (773, 901),
    (768, 896),
)  # no map is computed; the second is odd where that works
_MARKS = torch.library.Library('bfcn_mm', 'DEF')
_MARKS.define('quantize(Tensor x, str name) -> Tensor')
_MARKS.define('weight(Tensor w, str layer) -> Tensor')
for _mark in ('quantize', 'weight'):
    _MARKS.impl(_mark, lambda x, name: x.clone(), 'CompositeExplicitAutograd')

QUANTIZE = torch.ops.bfcn_mm.quantize.default
WEIGHT = torch.ops.bfcn_mm.weight.default


@dataclass(frozen=True)
class Captured:
    """nodes: live ones in execution order. parameters: placeholder -> (its name in the model, tensor).
    grids: node -> its (h, w) at each captured image size, or None where it is no map."""

    nodes: list[fx.Node]
    image: fx.Node
    output: fx.Node
    parameters: dict[fx.Node, tuple[str, Tensor]]
    grids: dict[fx.Node, tuple | None]


def capture(segmentor: nn.Module) -> Captured:
    """extract_feat and decode_head.forward by torch.export, at two image sizes.

    Two sizes, because the graph that leaves here knows none: where a map is resized to, for example,
    is known by the maps that have that grid at both. Raises ExportError.
    """
    _check(segmentor)
    network = _Network(segmentor)
    with _marked(segmentor):
        first = _export(network, _SIZES[0])
        second = _second(network)
    return _paired(first, second, dict(segmentor.state_dict(keep_vars=True)))


def layer_of(node: fx.Node) -> str:
    """Name of the innermost module that ran the node, '' at the top."""
    stack = list((node.meta.get('nn_module_stack') or {}).values())
    return stack[-1][0].removeprefix('segmentor').lstrip('.') if stack else ''


class _Network(nn.Module):
    """What a segmentor computes between its preprocessor and the last resize."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, image: Tensor) -> Tensor:
        return self.segmentor.decode_head.forward(self.segmentor.extract_feat(image))


def _check(segmentor: nn.Module) -> None:
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 5):
        raise ExportError(f'export needs torch 2.5 or later, this is {torch.__version__}')
    if segmentor.training:
        raise ExportError('the model is in training mode: call model.eval() first')
    if isinstance(segmentor.decode_head, nn.ModuleList):
        raise ExportError(
            'decode_head is a cascade of heads: pack a segmentor with one decode head'
        )
    if segmentor.decode_head.out_channels == 1:
        raise ExportError('out_channels=1 has no largest class: train with out_channels=2')
    quants = {n: m for n, m in segmentor.named_modules() if isinstance(m, ActivationQuantizer)}
    if not quants:
        raise ExportError('the model has no quantizers: train it with quant=dict(w=..., a=...)')
    unready = [n for n, q in quants.items() if not q.ready and not n.startswith('auxiliary_head')]
    if unready:
        raise ExportError(
            f'{unready[0]} has no grid ({len(unready)} in all): load a trained checkpoint, or call '
            'bfcn_mm.calibrate(model, batches)'
        )


@contextmanager
def _marked(segmentor: nn.Module) -> Iterator[None]:
    """Quantizers and quantized weights become one node each, which carries the module's name."""
    marked = []
    for name, module in segmentor.named_modules():
        if isinstance(module, ActivationQuantizer):
            module.forward = lambda x, name=name: QUANTIZE(x, name)
            marked.append((module, 'forward'))
        elif _has_codes(module):
            module.quantized_weight = lambda m=module, name=name: WEIGHT(m.weight, name)
            marked.append((module, 'quantized_weight'))
    try:
        yield
    finally:
        for module, attribute in marked:
            delattr(module, attribute)


def _has_codes(module: nn.Module) -> bool:
    one_weight = isinstance(module, QuantizedLayer) and not isinstance(module, QuantAttention)
    return one_weight and module.weight_quant is not None


def _export(network: nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    parameter = next(network.parameters())
    image = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return torch.export.export(network, (image,), strict=False)
        except Exception as err:
            text = str(err).strip().split('\n')[0]
            raise ExportError(
                f'torch.export cannot read the model at {size[0]}x{size[1]}: {type(err).__name__}: {text}'
            ) from err


def _second(network: nn.Module) -> torch.export.ExportedProgram:
    """At an odd size; networks that join maps of equal size (UNet) take only multiples of 16 or so."""
    try:
        return _export(network, _SIZES[1])
    except ExportError:
        return _export(network, _SIZES[2])


def _paired(
    first: torch.export.ExportedProgram,
    second: torch.export.ExportedProgram,
    tensors: dict[str, Tensor],
) -> Captured:
    nodes, twins = list(first.graph.nodes), list(second.graph.nodes)
    if [n.target for n in nodes if n.op == 'call_function'] != [
        n.target for n in twins if n.op == 'call_function'
    ]:
        raise ExportError('the model runs other ops at another image size: nothing fixed to pack')
    names = {spec.arg.name: spec.target for spec in first.graph_signature.input_specs}
    parameters, image = {}, None
    for node in nodes:
        if node.op == 'placeholder':
            if names[node.name] is None:
                image = node
            elif (name := names[node.name].removeprefix('segmentor.')) in tensors:
                parameters[node] = name, tensors[name].detach()
    output = nodes[-1].args[0][0]
    live = _live(output)
    grids = {a: _grids(a, b) for a, b in zip(nodes, twins, strict=True)}
    return Captured([n for n in nodes if n in live], image, output, parameters, grids)


def _live(output: fx.Node) -> set[fx.Node]:
    live, waiting = set(), [output]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting.extend(node.all_input_nodes)
    return live


def _grids(a: fx.Node, b: fx.Node) -> tuple | None:
    values = a.meta.get('val'), b.meta.get('val')
    if not all(isinstance(v, Tensor) and v.dim() == 4 for v in values):
        return None
    return tuple(tuple(v.shape[2:]) for v in values)
