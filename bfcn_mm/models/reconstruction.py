"""The filters of paper Table 2, which turn a backbone feature into the input of a score layer."""

import torch.nn as nn
from mmcv.cnn import ConvModule, build_activation_layer
from torch import Tensor

BLOCKS = ('conv', 'wide', 'residual')


def build_filter(
    block: str, in_channels: int, channels: int, num_blocks: int, **layer_cfg: dict | None
) -> tuple[nn.Module, int]:
    """Return a filter of Table 2 and the number of channels that it puts out.

    layer_cfg is conv_cfg, norm_cfg and act_cfg as in ConvModule; num_blocks counts in 'residual'
    only. Height and width stay. Raises ValueError if block is none of BLOCKS.
    """
    if block == 'conv':
        return _conv(in_channels, channels, 3, **layer_cfg), channels
    if block == 'wide':
        return _conv(in_channels, 2 * channels, 3, **layer_cfg), 2 * channels
    if block == 'residual':
        project = _conv(in_channels, channels, 1, **layer_cfg)
        blocks = [ResidualBlock(channels, **layer_cfg) for _ in range(num_blocks)]
        return nn.Sequential(project, *blocks), channels
    raise ValueError(f'block must be one of {BLOCKS}, got {block!r}')


class ResidualBlock(nn.Module):
    """relu(x + bn(conv3x3(relu(bn(conv3x3(x)))))), the basic block of He et al. (2015).

    Each activation is a module of its own: the converter puts a quantizer in its place.
    """

    def __init__(
        self, channels: int, conv_cfg: dict | None, norm_cfg: dict | None, act_cfg: dict
    ) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3, conv_cfg, norm_cfg, act_cfg)
        self.conv2 = _conv(channels, channels, 3, conv_cfg, norm_cfg, None)
        self.activate = build_activation_layer(dict(act_cfg))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in: (N, channels, H, W)."""
        return self.activate(self.conv2(self.conv1(x)) + x)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    conv_cfg: dict | None,
    norm_cfg: dict | None,
    act_cfg: dict | None,
) -> ConvModule:
    return ConvModule(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        conv_cfg=conv_cfg,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    )
