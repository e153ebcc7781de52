"""A trained segmentor to a packed model, and where each of its maps comes from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.logging import print_log
from torch import nn

from bfcn_kernels import Graph, Metadata, Model

from ..quantizers import ActivationQuantizer, Quantizer, WeightQuantizer
from .agreement import check_sizes
from .capture import capture
from .emit import ImageInput, Origin
from .finite import check_finite
from .lower import lower
from .test_time import check_segmentor


@dataclass(frozen=True)
class Packed:
    """model: what a file holds. origins: op -> the quantizer (or score layer) whose output it is."""

    model: Model
    origins: dict[str, Origin]


def pack(
    segmentor: nn.Module,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    train_config: str = '',
    name: str = '',
) -> Packed:
    """The integer graph of a quantized segmentor in evaluation mode, with its metadata.

    Write it with `bfcn_kernels.write(path, packed.model)`. weight_bits and activation_bits are the
    narrowest in force; a model in the middle of bit-width decay is packed as it is, with a warning.
    Raises ExportError for what cannot be packed, GraphError where the result breaks a rule of
    docs/format.md.
    """
    check_segmentor(segmentor)
    captured = capture(segmentor)
    check_finite(captured, segmentor)
    emitted = lower(captured, segmentor)
    graph = Graph(tuple(emitted.ops))
    graph.validate()
    check_sizes(captured, graph, emitted.origins)
    image = ImageInput(segmentor.data_preprocessor)
    weight_bits, activation_bits = _bits_in_force(segmentor)
    metadata = Metadata(
        name=name,
        classes=tuple(classes),
        palette=tuple(tuple(int(v) for v in colour) for colour in palette),
        mean=image.rgb('mean'),
        std=image.rgb('std'),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        train_config=train_config,
    )
    return Packed(Model(graph, metadata), emitted.origins)


def _bits_in_force(segmentor: nn.Module) -> tuple[int, int]:
    """The narrowest weights and activations of the prediction; says so if they are not the targets."""
    used = [
        module
        for name, module in segmentor.named_modules()
        if isinstance(module, Quantizer) and not name.startswith('auxiliary_head.')
    ]
    kinds = [
        [q for q in used if isinstance(q, kind)] for kind in (WeightQuantizer, ActivationQuantizer)
    ]
    weights, activations = (min((q.bits for q in kind), default=0) for kind in kinds)
    if any(q.bits != q.target for q in used):
        targets = [min((q.target for q in kind), default=0) for kind in kinds]
        print_log(
            f'this model is in the middle of bit-width decay: packed at {weights}-bit weights and '
            f'{activations}-bit activations, training ends at {targets[0]} and {targets[1]}',
            logger='current',
            level=logging.WARNING,
        )
    return weights, activations
