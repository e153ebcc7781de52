"""Network shapes: BFCN on ResNet-18 and ResNet-50, and a toy with every op."""

import numpy as np

from bfcn_kernels import ops
from bfcn_kernels.builder import Builder
from bfcn_kernels.graph import Graph

HEAD_CHANNELS = (128, 192, 256, 384)  # at 1/4, 1/8, 1/16, 1/32


def resnet_bfcn(
    depth: int = 50, w: int = 1, a: int = 2, classes: int = 19, seed: int = 0, width: int = 64
) -> Graph:
    """ResNet-18 or -50 with a residual Laplacian head; w-bit weights, a-bit activations.

    The first convolution has 8-bit weights on the 8-bit image. width: channels after the stem.
    """
    if depth not in (18, 50):
        raise ValueError(f'depth must be 18 or 50, got {depth!r}')
    net = Builder(seed)
    net.image_codes('pixels', zero_point=128)
    stem = net.conv('stem', [net.term('pixels', width, 7, bits=8, form=1, stride=2)], a)
    x = net.add(ops.MaxPool('stem.pool', stem, (3, 3), (2, 2), (1, 1)))
    levels = []
    for stage, blocks in enumerate((2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)):
        for block in range(blocks):
            make = _basic if depth == 18 else _bottleneck
            stride = 2 if stage and not block else 1
            name = f'layer{stage + 1}.{block}'
            x = make(net, name, x, width << stage, stride, w, a)
        levels.append(x)
    scores = None
    for level in (3, 2, 1, 0):
        scores = _head_level(net, level, levels[level], scores, classes, w, a)
    net.add(ops.ArgMax('labels', scores))
    return net.graph()


def _basic(net: Builder, name: str, x: str, channels: int, stride: int, w: int, a: int) -> str:
    """Two 3x3 convolutions; the shortcut joins as a residual or as a projection's accumulator."""
    y = net.conv(f'{name}.conv1', [net.term(x, channels, 3, w, stride=stride)], a)
    return _join(net, f'{name}.conv2', net.term(y, channels, 3, w), x, stride, w, a)


def _bottleneck(net: Builder, name: str, x: str, channels: int, stride: int, w: int, a: int) -> str:
    """1x1, 3x3, 1x1 to four times the channels."""
    y = net.conv(f'{name}.conv1', [net.term(x, channels, 1, w)], a)
    y = net.conv(f'{name}.conv2', [net.term(y, channels, 3, w, stride=stride)], a)
    return _join(net, f'{name}.conv3', net.term(y, 4 * channels, 1, w), x, stride, w, a)


def _join(net: Builder, name: str, term, x: str, stride: int, w: int, a: int) -> str:
    channels = len(term.weight)
    if stride == 1 and net.value(x).channels == channels:
        return net.conv(name, [term], a, residuals=(x,))
    return net.conv(name, [term, net.term(x, channels, 1, w, stride=stride)], a)


def _head_level(
    net: Builder, level: int, x: str, coarse: str | None, classes: int, w: int, a: int
) -> str:
    """Projection, two residual blocks, scores; the coarser level's scores upsampled and added."""
    name, channels = f'head.{level}', HEAD_CHANNELS[level]
    x = net.conv(f'{name}.project', [net.term(x, channels, 1, w)], a)
    for block in range(2):
        x = _basic(net, f'{name}.block{block}', x, channels, 1, w, a)
    scores = net.conv(f'{name}.scores', [net.term(x, classes, 3, w)], None)
    if coarse is None:
        return scores
    up = net.add(ops.Resize(f'{name}.up', coarse, like=scores))
    return net.add(ops.Add(f'{name}.sum', (up, scores)))


def toy(seed: int = 0, channels: int = 65, classes: int = 5) -> Graph:
    """A small network with every op, odd channel counts, all weight forms and signed codes."""
    net = Builder(seed, (24, 36))
    add, conv, term = net.add, net.conv, net.term
    net.image_codes('pixels', zero_point=120)
    conv('stem', [term('pixels', 63, 3, bits=8, form=1, stride=2)], 4)
    add(ops.MaxPool('pool', 'stem', (3, 3), (2, 2), (1, 1), ceil=True))
    conv('stream', [term('pool', channels, 3, bits=2)], 8)
    to_bits = (np.arange(256) >> 6).astype(np.uint8)
    add(ops.Table('narrow', 'stream', to_bits, 2))
    conv('depthwise', [term('narrow', channels, 3, bits=3, form=1, groups=channels)], 2)
    conv('dilated', [term('depthwise', channels, 3, dilation=4)], 3, zero_point=3)
    conv('block', [term('dilated', channels)], 8, residuals=('stream', 'dilated'))
    conv('side', [term('block', 64, 3, bits=2, form=1)], 2)
    add(ops.AvgPool('smooth', 'narrow', (3, 3), (1, 1), 1.0, 0.0, 2, padding=(1, 1)))
    add(ops.AdaptiveAvgPool('context', 'side', (3, 2), 1.25, 0.125, 3))
    add(ops.Resize('context.up', 'context', 'align_corners', like='side', A=0.5, bits=2))
    add(ops.Concat('both', ('side', 'context.up')))
    fused = [term('both', 24, 3, groups=8), term('smooth', 24), term('stream', 24, bits=5)]
    conv('fused', fused, 2, residuals=())
    conv('coarse', [term('fused', classes, 3, bits=2)], None)
    conv('fine.features', [term('stem', 32, bits=4)], 2)
    conv('fine', [term('fine.features', classes, 3)], None)
    add(ops.Resize('coarse.up', 'coarse', like='fine'))
    add(ops.Mask('masked', 'coarse.up', 'fine', 1))
    add(ops.Resize('doubled', 'masked', 'nearest', factor=(2, 2)))
    add(ops.Resize('halved', 'doubled', like='fine'))
    add(ops.Add('sum', ('halved', 'masked')))
    add(ops.ArgMax('labels', 'sum'))
    return net.graph()
