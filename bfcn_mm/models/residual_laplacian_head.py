"""The reconstruction half of BFCN: class scores at 1/32, refined up to 1/4 of the image."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn as nn
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from .boundary import boundary_mask
from .reconstruction import BLOCKS, build_filter

LEVELS = ('32x', '16x', '8x', '4x')


@MODELS.register_module()
class ResidualLaplacianHead(BaseDecodeHead):
    """Laplacian reconstruction (Ghiasi and Fowlkes 2016) with the filters of BFCN, Table 2.

    s_l = score(filter(feature_l)),  y_32 = s_32,  y_l = up2(y_2l) + s_l for l = 16, 8, 4.
    filter is a 3x3 convolution ('conv'), one with twice the channels ('wide'), or a 1x1 projection
    and `num_blocks` basic residual blocks ('residual'); score is a 3x3 convolution with bias; up2
    is bilinear to the size of s_l. Scores are kept in float32 also where autocast is on.

    Levels are named '32x', '16x', '8x', '4x' from the coarsest feature on, whatever the true
    strides of the backbone. All sequences run as `in_index` does, from fine to coarse.

    With `mask`, finer scores count near class boundaries of the coarser prediction only:
    y_l = up2(y_2l) + s_l where `boundary_mask(up2(y_2l), mask_dilation)`, else exactly up2(y_2l).

    `active_levels` is how many levels, the coarsest first, are in the loss; the finest of them is
    the prediction. It travels in the checkpoint; `StageLossHook` moves it during training.

    Args:
        in_channels: of each backbone feature.
        channels: of the filter at each level, or one number for all.
        num_levels: how many of the coarsest features are used; 1 is the 32x prediction alone.
        level_weights: factor of each level's loss.
        kwargs: as in BaseDecodeHead; norm_cfg is BN by default.

    Raises ValueError if a sequence does not fit in_index or a value is out of its range.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int | Sequence[int],
        *,
        in_index: Sequence[int] = (0, 1, 2, 3),
        num_levels: int = 4,
        block: str = 'residual',
        num_blocks: int = 2,
        mask: bool = False,
        mask_dilation: int = 0,
        level_weights: float | Sequence[float] = 1.0,
        **kwargs,
    ) -> None:
        in_channels = _per_level('in_channels', in_channels, in_index)
        channels = _per_level('channels', channels, in_index)
        level_weights = _per_level('level_weights', level_weights, in_index)
        _check(in_index, num_levels, block, num_blocks, mask_dilation, level_weights)
        kwargs.setdefault('norm_cfg', dict(type='BN', requires_grad=True))
        kwargs.setdefault('init_cfg', dict(type='Normal', std=0.01, override=dict(name='scores')))
        super().__init__(
            in_channels,
            channels[0],
            in_index=list(in_index),
            input_transform='multiple_select',
            **kwargs,
        )
        if mask and self.out_channels == 1:
            raise ValueError('mask=True needs out_channels >= 2 to find class boundaries, got 1')
        del self.conv_seg  # `scores` has one per level
        self.channels = channels
        self.num_levels = num_levels
        self.block = block
        self.num_blocks = num_blocks
        self.mask = mask
        self.mask_dilation = mask_dilation
        self.levels = LEVELS[:num_levels]
        self.level_weights = dict(zip(self.levels, reversed(level_weights), strict=False))
        self._build_levels()
        self.register_buffer('num_active', torch.tensor(num_levels))
        self._active_levels = num_levels

    def _build_levels(self) -> None:
        layer_cfg = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.filters = nn.ModuleDict()
        self.scores = nn.ModuleDict()
        sizes = zip(reversed(self.in_channels), reversed(self.channels), strict=True)
        for level, (in_channels, channels) in zip(self.levels, sizes, strict=False):
            filter_, width = build_filter(
                self.block, in_channels, channels, self.num_blocks, **layer_cfg
            )
            self.filters[level] = filter_
            self.scores[level] = nn.Conv2d(width, self.out_channels, 3, padding=1)

    @property
    def active_levels(self) -> int:
        """How many levels are in the loss, 1..num_levels; a Python int, so reading never syncs."""
        return self._active_levels

    @active_levels.setter
    def active_levels(self, value: int) -> None:
        if not _is_int(value, 1, self.num_levels):
            raise ValueError(f'active_levels must be in 1..{self.num_levels}, got {value!r}')
        self.num_active.fill_(value)
        self._active_levels = value

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Scores of the finest active level: (N, out_channels, H, W), the size of its feature."""
        return self._reconstruct(inputs, self.levels[: self.active_levels])[-1]

    def _reconstruct(self, inputs: Sequence[Tensor], levels: Sequence[str]) -> list[Tensor]:
        """y_l of these levels, the coarsest first.

        Inactive levels run without gradient: for the batch statistics and the quantizers alone.
        """
        features = self._transform_inputs(inputs)[::-1]
        outputs = []
        for i, level in enumerate(levels):
            with nullcontext() if i < self.active_levels else torch.no_grad():
                score = self.cls_seg(self.filters[level](features[i]), level)
                outputs.append(self._refine(outputs[-1], score) if outputs else score)
        return outputs

    def cls_seg(self, feat: Tensor, level: str) -> Tensor:
        """Scores (N, out_channels, H, W), float32, of a level's filtered feature (N, C, H, W)."""
        if self.dropout is not None:
            feat = self.dropout(feat)
        score = self.scores[level](feat)
        return score.float() if score.dtype in (torch.float16, torch.bfloat16) else score

    def _refine(self, coarse: Tensor, score: Tensor) -> Tensor:
        up = resize(
            coarse,
            size=score.shape[2:],
            mode='bilinear',
            align_corners=self.align_corners,
            warning=False,
        )
        if not self.mask:
            return up + score
        return torch.where(boundary_mask(up, self.mask_dilation), up + score, up)

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict) -> dict:
        """A loss for each level and each loss_decode, as 'loss_ce_32x'; acc_seg of the finest.

        Levels that are not active count 0, with zero gradients.
        """
        return self.loss_by_feat(self._reconstruct(inputs, self.levels), batch_data_samples)

    def loss_by_feat(self, seg_logits: list[Tensor], batch_data_samples: list) -> dict:
        """See `loss`; seg_logits holds the scores of every level, the coarsest first."""
        labels = self._stack_batch_gt(batch_data_samples)
        losses = {}
        for i, (level, logits) in enumerate(zip(self.levels, seg_logits, strict=True)):
            if i >= self.active_levels:
                zero = self._zero_loss(level)
                losses.update({self._loss_name(loss, level): zero for loss in self._losses()})
                continue
            logits = resize(
                logits,
                size=labels.shape[2:],
                mode='bilinear',
                align_corners=self.align_corners,
                warning=False,
            )
            self._add_level_losses(losses, level, logits, labels)
            finest = logits
        losses['acc_seg'] = accuracy(finest, labels.squeeze(1), ignore_index=self.ignore_index)
        return losses

    def _add_level_losses(self, losses: dict, level: str, logits: Tensor, labels: Tensor) -> None:
        pixel_weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        for loss in self._losses():
            value = loss(
                logits, labels.squeeze(1), weight=pixel_weight, ignore_index=self.ignore_index
            )
            name = self._loss_name(loss, level)
            losses[name] = losses.get(name, 0) + self.level_weights[level] * value

    def _losses(self) -> Sequence[nn.Module]:
        many = isinstance(self.loss_decode, nn.ModuleList)
        return self.loss_decode if many else [self.loss_decode]

    @staticmethod
    def _loss_name(loss: nn.Module, level: str) -> str:
        return f'{loss.loss_name}_{level}'

    def _zero_loss(self, level: str) -> Tensor:
        """A 0 that every parameter of the level is part of, so that DDP waits for none of them.

        It sums empty slices. 0 * (a sum) would be nan as soon as one number overflows.
        """
        modules = (self.filters[level], self.scores[level])
        empty = [p.reshape(-1)[:0].sum() for module in modules for p in module.parameters()]
        return torch.stack(empty).sum()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Take active_levels over; a checkpoint without it leaves it as it is."""
        key = prefix + 'num_active'
        saved = int(state_dict.setdefault(key, self.num_active))
        if not 1 <= saved <= self.num_levels:
            error_msgs = args[-1]
            error_msgs.append(f'{key} must be in 1..{self.num_levels} (num_levels), got {saved}')
            state_dict[key] = self.num_active
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._active_levels = int(self.num_active)


def _is_int(value: object, low: int, high: float = float('inf')) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _per_level(name: str, value: float | Sequence, in_index: Sequence[int]) -> list:
    values = list(value) if isinstance(value, Sequence) else [value] * len(in_index)
    if len(values) != len(in_index):
        raise ValueError(
            f'{name} must have one value for each of in_index={tuple(in_index)}, got {value}'
        )
    return values


def _check(
    in_index: Sequence[int],
    num_levels: int,
    block: str,
    num_blocks: int,
    mask_dilation: int,
    level_weights: Sequence[float],
) -> None:
    if not 1 <= len(in_index) <= len(LEVELS):
        raise ValueError(f'in_index must name 1..{len(LEVELS)} features, got {tuple(in_index)}')
    if not _is_int(num_levels, 1, len(in_index)):
        raise ValueError(
            f'num_levels must be in 1..{len(in_index)} (features in in_index), got {num_levels!r}'
        )
    if block not in BLOCKS:
        raise ValueError(f'block must be one of {BLOCKS}, got {block!r}')
    if not _is_int(num_blocks, 1):
        raise ValueError(f'num_blocks must be 1 or more, got {num_blocks!r}')
    if not _is_int(mask_dilation, 0):
        raise ValueError(f'mask_dilation must be 0 or more pixels, got {mask_dilation!r}')
    if min(level_weights) < 0:
        raise ValueError(f'level_weights must be 0 or more, got {level_weights}')
