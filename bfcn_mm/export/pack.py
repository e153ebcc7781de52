"""A trained segmentor to a packed model, and where each of its maps comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from bfcn_kernels import Graph, Metadata, Model

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

    Write it with `bfcn_kernels.write(path, packed.model)`. Raises ExportError for what cannot be packed,
    GraphError where the result breaks a rule of docs/format.md.
    """
    check_segmentor(segmentor)
    captured = capture(segmentor)
    check_finite(captured, segmentor)
    emitted = lower(captured, segmentor)
    graph = Graph(tuple(emitted.ops))
    graph.validate()
    check_sizes(captured, graph, emitted.origins)
    image, spec = ImageInput(segmentor.data_preprocessor), getattr(segmentor, 'quant_spec', None)
    metadata = Metadata(
        name=name,
        classes=tuple(classes),
        palette=tuple(tuple(int(v) for v in colour) for colour in palette),
        mean=image.rgb('mean'),
        std=image.rgb('std'),
        weight_bits=spec.w if spec else 0,
        activation_bits=spec.a if spec else 0,
        train_config=train_config,
    )
    return Packed(Model(graph, metadata), emitted.origins)
