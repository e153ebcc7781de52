"""The model type that a config with `quant` is lowered to."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import nn

from .quantize import convert_
from .spec import QuantSpec
from .summary import summarize


@MODELS.register_module()
def QuantSegmentor(segmentor: Any, quant: dict, **model: Any) -> nn.Module:
    """Build the segmentor of an mmseg config, then convert it.

    segmentor: the `type` that the config had (EncoderDecoder, ...); quant: the `quant` key; the rest are
    that segmentor's own keys. Returns the segmentor itself, converted in place.
    """
    spec = QuantSpec.parse(quant)
    built = convert_(MODELS.build(dict(type=segmentor, **model)), spec, config=model)
    print_log(summarize(built), logger='current')
    return built
