"""Config and checkpoint to a segmentor ready to pack, and to the images that it is tested on."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

import mmseg.datasets
import mmseg.models  # noqa: F401 - registers
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import DATASETS, MODELS
from torch import nn

from . import train_config
from .pack import Packed, pack
from .test_time import check_config


def load_segmentor(config: Config, checkpoint: str | Path) -> tuple[nn.Module, dict]:
    """(segmentor in evaluation mode, meta of its data set). Every weight must be in the checkpoint:
    RuntimeError names those that are not."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    segmentor = MODELS.build(model_of(config))
    loaded = load_checkpoint(segmentor, str(checkpoint), map_location='cpu', strict=True)
    meta = loaded.get('meta', {}).get('dataset_meta')
    return segmentor.eval(), meta or _declared_meta(config)


def pack_checkpoint(config: Config, checkpoint: str | Path) -> tuple[Packed, nn.Module]:
    """The packed model of a checkpoint, with classes, palette and training config; and the segmentor.

    Raises ExportError for what is not packed, what the config does at test time included.
    """
    check_config(model_of(config))
    segmentor, meta = load_segmentor(config, checkpoint)
    name = Path(config.filename or checkpoint).stem
    classes, palette = meta.get('classes') or (), meta.get('palette') or ()
    return pack(segmentor, classes, palette, _as_json(config), name), segmentor


def model_of(config: Config) -> ConfigDict:
    """The config's model with its data_preprocessor, as mmengine's Runner completes it."""
    model = copy.copy(config.model)
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    return model


def test_samples(config: Config, count: int) -> Iterator[dict]:
    """The first `count` samples of the config's test set, as its pipeline makes them."""
    dataset = DATASETS.build(config.test_dataloader.dataset)
    for index in range(min(count, len(dataset))):
        yield dataset[index]


def _as_json(config: Config) -> str:
    try:
        return train_config.to_json(config)
    except TypeError as error:
        print_log(f'The packed file will not hold its config: {error}', 'current', logging.WARNING)
        return ''


def _declared_meta(config: Config) -> dict:
    loader = config.get('test_dataloader')
    kind = None if loader is None else DATASETS.get(loader.dataset.type)
    return {} if kind is None else dict(kind.METAINFO)
