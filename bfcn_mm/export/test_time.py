"""What mmseg does at test time beside the network: what a packed file does not do is refused by key."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.models import BaseSegmentor, EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample
from torch import nn

from .emit import ImageInput
from .signals import ExportError

_PREDICTION = ('encode_decode', 'whole_inference', 'inference', 'predict', 'postprocess_result')
_OF_HEAD = ('predict', 'predict_by_feat')


def check_config(model: Mapping) -> None:
    """Raise ExportError for a `model` of a config that does at test time what a packed file does not."""
    preprocessor = model.get('data_preprocessor') or {}
    check_settings(model.get('test_cfg'), preprocessor)
    if preprocessor.get('rgb_to_bgr'):
        raise ExportError(
            'model.data_preprocessor.rgb_to_bgr=True: images are expected as BGR, as mmseg loads them; '
            'use bgr_to_rgb=True, or neither for a network that reads BGR'
        )
    head = model.get('decode_head')
    if isinstance(head, Mapping):
        _check_channels(head.get('out_channels') or head.get('num_classes'), head.get('threshold'))


def check_settings(test_cfg: Mapping | None, preprocessor: Mapping) -> None:
    """The same for model.test_cfg and model.data_preprocessor alone."""
    mode = (test_cfg or {}).get('mode', 'whole')
    if mode != 'whole':
        raise ExportError(
            f'model.test_cfg.mode={mode!r}: a packed model takes images whole; to pack and test it that '
            'way, give --cfg-options model.test_cfg.mode=whole'
        )
    if padding := preprocessor.get('test_cfg'):
        raise ExportError(
            f'model.data_preprocessor.test_cfg={dict(padding)}: a packed model takes images without '
            'padding; to pack and test it that way, give '
            '--cfg-options model.data_preprocessor.test_cfg=None'
        )


def check_segmentor(segmentor: nn.Module) -> None:
    """The same for a segmentor, and for code of its own between image, scores and labels."""
    preprocessor = segmentor.data_preprocessor
    padding = dict(test_cfg=getattr(preprocessor, 'test_cfg', None))
    check_settings(getattr(segmentor, 'test_cfg', None), padding)
    head = segmentor.decode_head
    if not isinstance(head, nn.ModuleList):
        _check_channels(head.out_channels, getattr(head, 'threshold', None))
    for module, base, names in (
        (segmentor, EncoderDecoder, _PREDICTION),
        (head, BaseDecodeHead, _OF_HEAD),
    ):
        if isinstance(module, BaseSegmentor | BaseDecodeHead):
            _check_methods(module, base, names)
    if isinstance(preprocessor, BaseDataPreprocessor):
        _check_preprocessor(preprocessor)


def _check_channels(channels: int | None, threshold: float | None) -> None:
    if channels == 1:
        raise ExportError(
            f'model.decode_head.out_channels=1 (threshold={threshold}): a packed model takes the largest '
            'of its classes; train with out_channels=2'
        )


def _check_methods(module: nn.Module, base: type, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(type(module), name, None) is not getattr(base, name):
            raise ExportError(
                f'{type(module).__name__}.{name} is not that of {base.__name__}: a packed model resizes '
                'the scores of decode_head.forward and takes the largest; pack a segmentor that does so'
            )


def _check_preprocessor(preprocessor: BaseDataPreprocessor) -> None:
    """It must be the arithmetic that is packed: channel order, mean and std."""
    image, x = ImageInput(preprocessor), torch.arange(256)
    rgb = torch.stack([x, x + 85, 3 * x]).remainder(256).to(torch.uint8)[:, None].expand(3, 5, 256)
    sample = SegDataSample(metainfo=dict(img_shape=(5, 256), ori_shape=(5, 256)))
    batch = preprocessor(dict(inputs=[rgb.flip(0)], data_samples=[sample]), False)
    got, expected = batch['inputs'][0].cpu(), image.floats(rgb.float()[list(image.order)])
    if not torch.equal(*(torch.nan_to_num(values) for values in (got, expected))):
        raise ExportError(
            f'{type(preprocessor).__name__} does more to images than order their channels, subtract mean '
            'and divide by std: use SegDataPreProcessor without padding at test time'
        )
