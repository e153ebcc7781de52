"""What a probe feeds to a model: images of its own channels and size, and labels to train with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_SIZES = ((128, 128), (512, 512), (1024, 1024))


@dataclass(frozen=True)
class Way:
    """One way to run a model.

    name: for messages. run(images): an iterator over outputs; the first are the network's, what follows
    runs parts of it once more, as evaluation does. complete: whether nothing else runs in that mode.
    """

    name: str
    run: Callable[[Tensor], Iterator[Any]]
    complete: bool = True


def image_shapes(model: nn.Module, config: Mapping | None = None) -> list[tuple[int, int, int]]:
    """(channels, height, width) to try, the most likely first.

    config: the model dict of an mmseg config. Channels: the backbone's in_channels, those of the
    preprocessor's mean, of the first convolution, 3. Sizes: 128, the backbone's img_size, the
    preprocessor's size, the crop_size of test_cfg, 512 and 1024 (for networks that pool large windows):
    after 128 the smallest first.
    """
    config = config or {}
    preprocessor = config.get('data_preprocessor') or {}
    mean = preprocessor.get('mean')
    if mean is None:
        mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    channels = [
        *_values(config.get('backbone') or config.get('image_encoder'), 'in_channels'),
        None if mean is None else len(mean),
        _first_channels(model),
        3,
    ]
    test_cfg = getattr(model, 'test_cfg', None) or {}
    own = [
        *_values(config.get('backbone') or config.get('image_encoder'), 'img_size'),
        getattr(getattr(model, 'backbone', None), 'img_size', None),
        preprocessor.get('size'),
        test_cfg.get('crop_size') if isinstance(test_cfg, Mapping) else None,
    ]
    sizes = [*_SIZES[1:], *filter(None, map(_size, own))]
    sizes = [_SIZES[0], *sorted(sizes, key=lambda size: size[0] * size[1])]
    counts = [c for c in channels if isinstance(c, int) and c > 0]
    return [(c, *size) for size in dict.fromkeys(sizes) for c in dict.fromkeys(counts)]


def noise(model: nn.Module, batch: int, shape: tuple[int, ...]) -> Tensor:
    """(batch, *shape) of normal noise, the same at every call, as the model's parameters are stored."""
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *shape, generator=generator).to(parameter.device, parameter.dtype)


def ways_to_evaluate(model: nn.Module) -> list[Way]:
    """All heads of a segmentor from its features; where heads need more, as evaluation runs it."""
    if not _has_heads(model):
        ways = [Way('model(images)', lambda x: iter([model(x)]))]
    else:
        ways = [Way('decode_head.forward(features)', lambda x: _heads(model, x))]
    if hasattr(model, 'encode_decode'):
        ways.append(Way('model.encode_decode', lambda x: _encode_decode(model, x)))
    if hasattr(model, 'predict') and _has_heads(model):
        ways.append(Way('model.predict', lambda x: iter([model.predict(x, _samples(model, x))])))
    return ways


def ways_to_train(model: nn.Module) -> list[Way]:
    """The losses of a segmentor, or at least all its heads."""
    if not _has_heads(model):
        return [Way('model(images)', lambda x: iter([model(x)]))]
    forward = Way(
        'decode_head.forward(features)', lambda x: itertools.islice(_heads(model, x), 1), False
    )
    if not hasattr(model, 'loss'):
        return [forward]
    return [Way('model.loss', lambda x: iter([model.loss(x, _samples(model, x))])), forward]


def outputs_of(outputs: Any) -> list[Tensor]:
    """The tensors in what a model returns, those of data samples too."""
    found = []
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, BaseDataElement):
            found.extend(outputs_of(list(leaf.values())))
    return found


def _has_heads(model: nn.Module) -> bool:
    return hasattr(model, 'extract_feat') and hasattr(model, 'decode_head')


def _heads(model: nn.Module, x: Tensor) -> Iterator[Any]:
    """Outputs of the main and auxiliary heads, then what evaluation makes of the features."""
    features = model.extract_feat(x)
    cascade = isinstance(model.decode_head, nn.ModuleList)
    heads = list(model.decode_head) if cascade else [model.decode_head]
    outputs = [heads[0].forward(features)]
    for head in heads[1:]:  # each refines the one before
        outputs.append(head.forward(features, outputs[-1]))
    yield outputs + _auxiliary(model, features)
    given = (features, outputs[-2]) if cascade else (features,)
    if hasattr(heads[-1], 'predict'):
        yield heads[-1].predict(*given, _metainfo(x), getattr(model, 'test_cfg', None))


def _encode_decode(model: nn.Module, x: Tensor) -> Iterator[Any]:
    yield model.encode_decode(x, _metainfo(x))
    if getattr(model, 'auxiliary_head', None) is not None:
        yield _auxiliary(model, model.extract_feat(x))


def _auxiliary(model: nn.Module, features: Any) -> list[Any]:
    heads = getattr(model, 'auxiliary_head', None)
    heads = heads if isinstance(heads, nn.ModuleList) else filter(None, [heads])
    return [head.forward(features) for head in heads]


def _metainfo(x: Tensor) -> list[dict]:
    size = tuple(x.shape[2:])
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    one = dict(shapes, padding_size=[0] * 4, scale_factor=(1.0, 1.0), flip=False, img_path='')
    return [dict(one) for _ in range(len(x))]


def _samples(model: nn.Module, x: Tensor) -> list[SegDataSample]:
    """Random labels, with the edge and depth maps that some losses want."""
    head = model.decode_head
    classes = max(1, (head[-1] if isinstance(head, nn.ModuleList) else head).num_classes)
    generator, size = torch.Generator().manual_seed(0), (1, *x.shape[2:])
    samples = []
    for metainfo in _metainfo(x):
        sample = SegDataSample(metainfo=metainfo)
        sample.gt_sem_seg = PixelData(data=torch.randint(classes, size, generator=generator))
        sample.gt_edge_map = PixelData(data=torch.randint(2, size, generator=generator))
        sample.gt_depth_map = PixelData(data=torch.rand(size, generator=generator) + 0.1)
        samples.append(sample.to(x.device))
    return samples


def _values(node: Any, key: str) -> Iterator[Any]:
    """All values of this key in nested dicts, the outermost first."""
    if isinstance(node, Mapping):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from _values(value, key)


def _first_channels(model: nn.Module) -> int | None:
    """Of the first convolution's input, in the order in which modules were made."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


def _size(given: Any) -> tuple[int, int] | None:
    """(height, width) from a number or a pair, None from anything else."""
    pair = (given, given) if isinstance(given, int) else given
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        return None
    return tuple(pair) if all(isinstance(n, int) and n > 0 for n in pair) else None
