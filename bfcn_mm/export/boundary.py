"""Laplacian boundary masking, recognised by what it computes: label extremes that differ."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from bfcn_kernels import ops

from .signals import Labels, Scores, Sum

aten = torch.ops.aten
_NOT_A_MASK = 'is packed only as part of boundary_mask (see ResidualLaplacianHead)'
_OPPOSITE = {'label': 'minus', 'minus_low': 'low'}


def register(handles) -> None:
    """Add the handlers of this file to the table of `lower`."""
    handles(aten.argmax.default)(_argmax)
    handles(aten.neg.default)(_neg)
    handles(aten.ne.Tensor)(_ne)
    handles(aten.gt.Scalar)(_gt)
    handles(aten.where.self)(_where)


def max_pool(net, node: fx.Node, x: Labels, window: tuple) -> Labels:
    """The extremes of labels in 3x3 windows, or the dilation of an edge."""
    kernel, stride, padding, dilation = window
    reach = padding[0]
    same = kernel == (2 * reach + 1,) * 2 and padding == (reach, reach)
    stage = {'label': 'high', 'minus': 'minus_low', 'edge': 'edge'}.get(x.stage)
    fits = same and stride == dilation == (1, 1) and (x.stage == 'edge' or reach == 1)
    if stage is None or not fits:
        raise net.error(node, _NOT_A_MASK)
    return replace(x, stage=stage, reach=x.reach + (reach if x.stage == 'edge' else 0))


def _argmax(net, node: fx.Node) -> Labels:
    if list(node.args[1:]) != [1, True]:
        raise net.error(node, _NOT_A_MASK)
    return Labels(net.scores(node.args[0], 'boundary_mask'))


def _neg(net, node: fx.Node) -> Labels:
    x = net.arg(node, 0)
    if not isinstance(x, Labels) or x.stage not in _OPPOSITE:
        raise net.error(node, _NOT_A_MASK)
    return replace(x, stage=_OPPOSITE[x.stage])


def _ne(net, node: fx.Node) -> Labels:
    a, b = net.arg(node, 0), net.arg(node, 1)
    both = isinstance(a, Labels) and isinstance(b, Labels) and a.scores == b.scores
    if not both or (a.stage, b.stage) != ('high', 'low'):
        raise net.error(node, _NOT_A_MASK)
    return replace(a, stage='edge')


def _gt(net, node: fx.Node) -> Labels:
    x = net.arg(node, 0)
    if not isinstance(x, Labels) or x.stage != 'edge' or node.args[1] != 0:
        raise net.error(node, _NOT_A_MASK)
    return x


def _where(net, node: fx.Node) -> Scores:
    edge, total, up = (net.arg(node, i) for i in range(3))
    masked = isinstance(edge, Labels) and edge.stage == 'edge' and isinstance(total, Sum)
    if not masked or not total.up == up == edge.scores:
        raise net.error(node, _NOT_A_MASK)
    op = ops.Mask(f'{total.fine.name}.mask', up.name, total.fine.name, edge.reach)
    return Scores(net.emit.add(op, node))
