"""One architecture twice: in float32 for the peers, packed at some bits for the C runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import bfcn_mm
from bfcn_kernels import read, write
from bfcn_kernels.builder import random_image
from bfcn_kernels.graph import Graph
from bfcn_mm.export import pack, train_config
from bfcn_mm.export.checkpoint import pack_checkpoint

_CALIBRATION_SIZE = (160, 256)
_AUXILIARY = 2**24  # parameters of heads for training, which a file does not have


@dataclass(frozen=True)
class Network:
    """segmentor: in float32, evaluation mode. packed: bits ('1-2') -> file. weights: their origin."""

    name: str
    weights: str
    segmentor: nn.Module
    packed: dict[str, Path]

    def graph(self) -> Graph:
        """The integer graph; its shapes do not depend on the bits."""
        return read(next(iter(self.packed.values()))).graph


class Scores(nn.Module):
    """From the normalized image to class scores at the head's resolution: what a peer computes."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, image: Tensor) -> Tensor:
        return self.segmentor.decode_head.forward(self.segmentor.extract_feat(image))


def from_config(
    config: Config, bits: list[tuple[int, int]], folder: Path, seed: int = 0
) -> Network:
    """Random weights, statistics and grids from random images: enough for time, size and exactness."""
    bits = bits or [_bits_of(config)]
    segmentor = _float_twin(config)
    torch.manual_seed(seed)
    _randomize(segmentor)
    state, packed = segmentor.state_dict(), {}
    for w, a in bits:
        path = folder / f'{w}-{a}.gguf'
        write(path, pack(_quantized(config, w, a, state), name=_name(config)).model)
        packed[f'{w}-{a}'] = path
    return Network(_name(config), 'random', segmentor, packed)


def from_checkpoint(config: Config, checkpoint: str, folder: Path) -> Network:
    """Trained weights at the bits that the config says."""
    packed, segmentor = pack_checkpoint(config, checkpoint)
    meta, path = packed.model.metadata, folder / 'checkpoint.gguf'
    write(path, packed.model)
    twin = _float_twin(config)
    twin.load_state_dict({key: segmentor.state_dict()[key] for key in twin.state_dict()})
    bits = f'{meta.weight_bits}-{meta.activation_bits}'
    return Network(_name(config), Path(checkpoint).stem, twin, {bits: path})


def from_files(paths: list[Path]) -> tuple[dict[str, Path], Config | None]:
    """Packed files by their bits, and the config that the first was trained with, if it says."""
    packed, texts = {}, []
    for path in paths:
        meta = read(path).metadata
        label = f'{meta.weight_bits}-{meta.activation_bits}'
        if label in packed:
            raise ValueError(f'{packed[label]} and {path} are both {label}-bit models: give one')
        packed[label] = path
        texts.append(meta.train_config)
    return packed, train_config.from_json(texts[0]) if texts[0] else None


def twin_of_files(packed: dict[str, Path], config: Config, seed: int = 0) -> Network:
    """The float network that the files' config describes, with random weights.

    Raises ValueError where that is no data, or describes another network.
    """
    graph = read(next(iter(packed.values()))).graph
    weights = sum(term.weight.size for op in graph.ops for term in getattr(op, 'terms', ()))
    with _quiet():
        segmentor = train_config.build_float(config, 4 * weights + _AUXILIARY)
    torch.manual_seed(seed)
    _randomize(segmentor)
    return Network(name_of_files(packed), 'files', segmentor, packed)


def name_of_files(packed: dict[str, Path]) -> str:
    """What the first file calls itself, or is called."""
    first = next(iter(packed.values()))
    return read(first).metadata.name or first.stem


def preprocessed(segmentor: nn.Module, image: np.ndarray) -> Tensor:
    """A uint8 RGB image (h, w, 3) as the network sees it: float32 (1, 3, h, w), normalized."""
    bgr = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1])).permute(2, 0, 1)
    return segmentor.data_preprocessor(dict(inputs=[bgr]), False)['inputs'].contiguous()


def _bits_of(config: Config) -> tuple[int, int]:
    quant = config.model.get('quant')
    if quant is None:
        raise ValueError(f'{_name(config)} has no quant: name the bits, as in --bits 1-2')
    return quant.get('w', 32), quant.get('a', 32)


def _name(config: Config) -> str:
    return Path(config.filename or 'config').stem


def _build(config: Config, quant: dict | None) -> nn.Module:
    config = config.copy()
    config.quant = quant
    train_config.without_init(config.model)
    with _quiet(), DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmseg')):
        return MODELS.build(config.model).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without mmseg's notes on its own ways, and ours on what was quantized."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='mmseg')
            yield
    finally:
        logging.disable(level)


def _float_twin(config: Config) -> nn.Module:
    return _build(config, None)


def _quantized(config: Config, w: int, a: int, state: dict[str, Tensor]) -> nn.Module:
    """At its final bits, with the float network's weights and grids from random images."""
    segmentor = _build(config, dict(w=w, a=a, decay=None))
    segmentor.load_state_dict(state, strict=False)  # grids are missing, and placed next
    forward = Scores(segmentor).eval()
    bfcn_mm.calibrate(segmentor, _images(segmentor, 2), forward)
    return segmentor


def _randomize(segmentor: nn.Module) -> None:
    """He's initialization, and batch statistics that fit it, so that no map overflows or dies."""
    norms = [m for m in segmentor.modules() if isinstance(m, _BatchNorm)]
    for module in segmentor.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain average over the batches
    with torch.no_grad():
        for image in _images(segmentor, 3):
            Scores(segmentor).train()(image)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    segmentor.eval()


def _images(segmentor: nn.Module, count: int) -> Iterator[Tensor]:
    for seed in range(count):
        pair = [random_image(*_CALIBRATION_SIZE, seed=2 * seed + i) for i in range(2)]
        yield torch.cat([preprocessed(segmentor, image) for image in pair])
