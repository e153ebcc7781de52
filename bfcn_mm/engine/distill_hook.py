"""Knowledge distillation: the low-bit network also learns what its float teacher says of each pixel."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, load_checkpoint
from mmseg.models.utils import resize
from mmseg.registry import HOOKS, MODELS
from torch import Tensor, nn

from ..convert import QuantSpec
from .calibration_hook import bare_model


@HOOKS.register_module()
class DistillHook(Hook):
    """Adds a frozen float teacher while training lasts; what to learn is the model's `quant.distill`.

    Losses beside those of the labels, T the temperature (Hinton et al., 2015; ReActNet, 2020):
    loss_distill_<level> = weight * T^2 * KL(softmax(teacher / T) | softmax(student / T)), a mean over all
    pixels at the level's own size, ignored ones too, for each level that is in the loss, with
    the head's level_weights; loss_distill_features = features * mean(1 - cos) over the pixels of the
    backbone's features. A head without levels, or with other levels than the teacher's, learns its
    finest scores: `loss_distill`.

    The teacher is in evaluation mode, is no part of the model (nor of its state dict, nor of DDP), and
    draws no random number: a run resumes as exactly as without it. Raises FileNotFoundError or ValueError
    before the first iteration if it cannot be built, is low-bit itself, or sees other pixels.
    """

    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        spec: QuantSpec | None = getattr(model, 'quant_spec', None)
        if spec is None or spec.distill is None:
            raise RuntimeError('DistillHook: the config has no quant.distill')
        teacher = build_teacher(spec.distill, runner.cfg)
        device = next(model.parameters()).device
        self.lesson = Lesson(teacher.to(device), spec.distill)
        self.lesson.check(model)
        _subclass(model, Distilled).lesson = self.lesson
        _subclass(model.decode_head, DistilledHead).lesson = self.lesson
        runner.logger.info(f'distilling from {spec.distill.teacher}')

    def after_train(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        for module in (model, model.decode_head):
            if hasattr(module, 'lesson'):
                module.__class__ = type(module).__mro__[2]
                del module.lesson


class Lesson:
    """The teacher and, for one batch, what it says. No Module: nothing registers it."""

    def __init__(self, teacher: nn.Module, spec) -> None:
        self.teacher, self.spec = teacher, spec
        self.features: Sequence[Tensor] = ()
        self.scores: list[Tensor] = []

    def check(self, student: nn.Module) -> None:
        if isinstance(student.decode_head, nn.ModuleList):
            raise ValueError('quant.distill does not know cascades of heads: leave it out')
        for name in ('mean', 'std', 'channel_conversion'):
            ours, theirs = (
                getattr(m.data_preprocessor, name, None) for m in (student, self.teacher)
            )
            same = (
                torch.equal(ours.cpu(), theirs.cpu()) if torch.is_tensor(ours) else ours == theirs
            )
            if not same:
                raise ValueError(
                    f'quant.distill: data_preprocessor.{name} is {_plain(theirs)} in the teacher, '
                    f'{_plain(ours)} here: both must see the same pixels'
                )
        classes = [m.decode_head.out_channels for m in (self.teacher, student)]
        if classes[0] != classes[1]:
            raise ValueError(
                f'quant.distill: the teacher knows {classes[0]} classes, this network {classes[1]}'
            )

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Ask the teacher about a batch, normalized as the student's."""
        head = self.teacher.decode_head
        self.features = self.teacher.extract_feat(images)
        if hasattr(head, 'active_levels'):
            self.scores = head._reconstruct(self.features, head.levels)
        else:
            self.scores = [head(self.features)]

    def feature_loss(self, features: Sequence[Tensor]) -> Tensor:
        shapes = [tuple(f.shape[1:]) for f in features], [tuple(f.shape[1:]) for f in self.features]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f'quant.distill.features: the features are {shapes[0]}, the teacher has {shapes[1]}: '
                'set it to 0'
            )
        pairs = zip(features, self.features, strict=True)
        losses = [1 - F.cosine_similarity(s.float(), t.float()).mean() for s, t in pairs]
        return self.spec.features * torch.stack(losses).mean()

    def score_losses(self, head: nn.Module, scores: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        levels = getattr(head, 'levels', ())
        if len(levels) == len(self.scores) == len(scores):
            return {
                f'loss_distill_{level}': head.level_weights[level] * self._divergence(s, t)
                for level, s, t in list(zip(levels, scores, self.scores, strict=True))[
                    : head.active_levels
                ]
            }
        finest = (
            scores if torch.is_tensor(scores) else scores[getattr(head, 'active_levels', 0) - 1]
        )
        return dict(loss_distill=self._divergence(finest, self.scores[-1]))

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """weight * T^2 * KL of (N, C, H, W) scores, a mean over pixels; the teacher's are resized."""
        if teacher.shape != student.shape:
            teacher = resize(teacher, student.shape[2:], mode='bilinear', warning=False)
        t = self.spec.temperature
        ours, theirs = (F.log_softmax(x.float() / t, 1) for x in (student, teacher))
        by_pixel = F.kl_div(ours, theirs, reduction='none', log_target=True).sum(1)
        return self.spec.weight * t**2 * by_pixel.mean()


class Distilled:
    """Mixin of segmentors in training: asks the teacher first, adds the features' loss."""

    lesson: Lesson

    def loss(self, inputs: Tensor, data_samples: list) -> dict:
        self.lesson.begin(inputs)
        return super().loss(inputs, data_samples)

    def _decode_head_forward_train(self, inputs: Sequence[Tensor], data_samples: list) -> dict:
        losses = super()._decode_head_forward_train(inputs, data_samples)
        if self.lesson.spec.features:
            losses['loss_distill_features'] = self.lesson.feature_loss(inputs)
        return losses


class DistilledHead:
    """Mixin of decode heads in training: adds the scores' losses."""

    lesson: Lesson

    def loss_by_feat(self, seg_logits: Any, batch_data_samples: list) -> dict:
        losses = super().loss_by_feat(seg_logits, batch_data_samples)
        if self.lesson.spec.weight:
            losses.update(self.lesson.score_losses(self, seg_logits))
        return losses


def build_teacher(spec, cfg: Config) -> nn.Module:
    """The frozen float network of `quant.distill`, in evaluation mode, its weights loaded."""
    if '://' not in spec.teacher and not Path(spec.teacher).is_file():
        raise FileNotFoundError(
            f'{spec.teacher}: no such file (quant.distill.teacher): train the float network first'
        )
    if spec.config is None:
        own = Config(dict(model=copy.deepcopy(cfg.model)))
        own.quant = None
    else:
        if not Path(spec.config).is_file():
            raise FileNotFoundError(f'{spec.config}: no such file (quant.distill.config)')
        own = Config.fromfile(spec.config)
    if 'quant' in own.model:
        raise ValueError(
            f'quant.distill.config: {spec.config} is low-bit, the teacher must be float'
        )
    own.merge_from_dict({'model.backbone.init_cfg': None, 'model.pretrained': None})
    with torch.random.fork_rng(devices=[]):
        teacher = MODELS.build(own.model)
    try:
        load_checkpoint(teacher, spec.teacher, map_location='cpu', strict=True)
    except RuntimeError as error:
        raise ValueError(
            f'{spec.teacher} does not hold the weights of the teacher (quant.distill): {error}'
        ) from error
    return teacher.eval().requires_grad_(False)


def _subclass(module: nn.Module, mixin: type) -> nn.Module:
    """Give the module a class with the mixin in front; names of parameters stay.

    A copy or a pickle of the module is of its own class again and without the teacher.
    """
    kind = type(module)

    def reduce(self, protocol: int) -> tuple:
        _, _, state, *rest = super(made, self).__reduce_ex__(max(protocol, 2))
        state = {name: value for name, value in state.items() if name != 'lesson'}
        return object.__new__, (kind,), state, *rest

    members = {'__module__': kind.__module__, '__reduce_ex__': reduce}
    made = type(kind.__name__, (mixin, kind), members)
    module.__class__ = made
    return module


def _plain(value: Any) -> Any:
    return value.flatten().tolist() if torch.is_tensor(value) else value
