"""What of a segmentor is packed, and the marks that quantizers and quantized weights leave in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from ..layers import QuantAttention, QuantizedLayer, Snapshot
from ..quantizers import ActivationQuantizer
from .signals import ExportError

_MARKS = torch.library.Library('bfcn_mm', 'DEF')
_MARKS.define('quantize(Tensor x, str name) -> Tensor')
_MARKS.define('weight(Tensor w, str layer) -> Tensor')
for _mark in ('quantize', 'weight'):
    _MARKS.impl(_mark, lambda x, name: x.clone(), 'CompositeExplicitAutograd')

QUANTIZE = torch.ops.bfcn_mm.quantize.default
WEIGHT = torch.ops.bfcn_mm.weight.default


class Network(nn.Module):
    """What a segmentor computes between its preprocessor and the last resize."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, image: Tensor) -> Tensor:
        return self.segmentor.decode_head.forward(self.segmentor.extract_feat(image))


@contextmanager
def marked(segmentor: nn.Module) -> Iterator[None]:
    """Quantizers and quantized weights become one op each, which carries the module's name.

    Afterwards every module has the attributes that it had before, those that its forward sets too, and
    caches hold what they held.
    """
    before = Snapshot(segmentor)
    for name, module in segmentor.named_modules():
        if isinstance(module, ActivationQuantizer):
            module.forward = lambda x, name=name: QUANTIZE(x, name)
        elif _has_codes(module):
            module.quantized_weight = lambda m=module, name=name: WEIGHT(m.weight, name)
    try:
        yield
    finally:
        before.restore()


def layer_of(node: fx.Node) -> str:
    """Name of the innermost module that ran the node, '' at the top."""
    stack = list((node.meta.get('nn_module_stack') or {}).values())
    return stack[-1][0].removeprefix('segmentor').lstrip('.') if stack else ''


def check_packable(segmentor: nn.Module) -> None:
    """Raise ExportError for a segmentor that is untrained, in training mode or of another form."""
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 5):
        raise ExportError(f'export needs torch 2.5 or later, this is {torch.__version__}')
    if segmentor.training:
        raise ExportError('the model is in training mode: call model.eval() first')
    if isinstance(segmentor.decode_head, nn.ModuleList):
        raise ExportError(
            'decode_head is a cascade of heads: pack a segmentor with one decode head'
        )
    _check_types(segmentor)
    quants = {n: m for n, m in segmentor.named_modules() if isinstance(m, ActivationQuantizer)}
    if not quants:
        raise ExportError('the model has no quantizers: train it with quant=dict(w=..., a=...)')
    unready = [n for n, q in quants.items() if not q.ready and not n.startswith('auxiliary_head')]
    if unready:
        raise ExportError(
            f'{unready[0]} has no grid ({len(unready)} in all): load a trained checkpoint, or call '
            'bfcn_mm.calibrate(model, batches)'
        )


def _check_types(segmentor: nn.Module) -> None:
    for name, parameter in segmentor.named_parameters():
        if parameter.dtype != torch.float32:
            raise ExportError(
                f'{name} is {parameter.dtype}: codes follow float32 arithmetic, call model.float() first'
            )


def _has_codes(module: nn.Module) -> bool:
    one_weight = isinstance(module, QuantizedLayer) and not isinstance(module, QuantAttention)
    return one_weight and module.weight_quant is not None
