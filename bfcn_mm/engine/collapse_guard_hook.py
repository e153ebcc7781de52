"""Low-bit training can die quietly: notice it, name the layer, say what to try."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ..convert import quantizers
from ..quantizers import ActivationQuantizer
from ..quantizers.fake_quant import learned_step
from .calibration_hook import bare_model


@HOOKS.register_module()
class CollapseGuardHook(Hook):
    """Looks at one iteration in `interval`.

    A loss or a parameter that is NaN or infinite raises RuntimeError with the first bad parameter's
    name. A map whose codes are all the zero code, or of which more than `saturated` are the top
    code, and a step that grew or shrank more than `growth` times since its grid was placed, are warned
    of, once a quantizer and bit-width.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50, saturated: float = 0.99, growth: float = 100.0) -> None:
        if interval < 1:
            raise ValueError(f'CollapseGuardHook: interval must be at least 1, got {interval}')
        self.interval, self.saturated, self.growth = interval, saturated, growth
        self._warned: set[tuple[str, int, str]] = set()
        self._handles: list = []
        self._seen: list[tuple[str, ActivationQuantizer, Tensor]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            for name, quantizer in quantizers(bare_model(runner.model)):
                if isinstance(quantizer, ActivationQuantizer):
                    self._handles.append(quantizer.register_forward_hook(self._watch(name)))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = bare_model(runner.model)
        self._check_finite(model, outputs or {})
        for name, quantizer, shares in self._seen:
            zero, top = shares.tolist()
            if zero == 1.0:
                self._warn(runner, name, quantizer.bits, 'zero', 'all its codes are zero')
            elif top > self.saturated:
                what = f'{top:.1%} of its codes are saturated'
                self._warn(runner, name, quantizer.bits, 'saturated', what)
        self._seen = []
        self._check_steps(runner, model)

    def _watch(self, name: str):
        @torch.no_grad()
        def hook(quantizer: ActivationQuantizer, _: tuple, out: Tensor) -> None:
            top = (2**quantizer.bits - 1 - quantizer._zero_point) * quantizer.step
            zero = (out == 0).float().mean()
            saturated = (out >= (top * 0.999).to(out.dtype)).float().mean()
            self._seen.append((name, quantizer, torch.stack([zero, saturated])))

        return hook

    def _check_finite(self, model: nn.Module, losses: dict) -> None:
        bad = [
            k for k, v in losses.items() if isinstance(v, Tensor) and not torch.isfinite(v).all()
        ]
        names = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
        if bad or names:
            what = f'{names[0]} is not finite' if names else f'{bad[0]} is not finite'
            raise RuntimeError(
                f'training collapsed: {what} ({len(names)} parameters in all). Resume from an earlier '
                'checkpoint with a lower learning rate or clip_grad, or with a slower quant.decay'
            )

    def _check_steps(self, runner: Runner, model: nn.Module) -> None:
        """The share of `placed` that each learned step has now: of a layer, or of each channel."""
        for name, quantizer in quantizers(model):
            if not quantizer.initialized or getattr(quantizer, 'drift', None) is None:
                continue
            share = learned_step(torch.ones_like(quantizer.drift), quantizer.drift).detach()
            low, high = torch.stack(torch.aminmax(share)).tolist()
            of = f' in {int((share < 1 / self.growth).sum())} of {share.numel()} channels'
            if not high <= self.growth:
                what = f'its step grew {high:.3g} times since it was placed'
                self._warn(runner, name, quantizer.bits, 'grew', what)
            if not low >= 1 / self.growth:
                what = f'its step shrank to {low:.2g} of where it was placed'
                what += of if share.numel() > 1 else ''
                self._warn(runner, name, quantizer.bits, 'shrank', what)

    def _warn(self, runner: Runner, name: str, bits: int, kind: str, what: str) -> None:
        key = (name, bits, kind)
        if key in self._warned:
            return
        self._warned.add(key)
        layer = name.rsplit('.', 1)[0]
        runner.logger.warning(
            f'{name} ({bits} bits): {what}. Try a lower learning rate, a slower quant.decay, or more '
            f'bits there: quant.overrides={{{layer!r}: dict(w=..., a=...)}}'
        )
