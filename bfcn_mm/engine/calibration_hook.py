"""Where training starts: quantizers of a loaded checkpoint, and calibration of those without a grid."""

from __future__ import annotations

import time
from itertools import islice

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from ..convert import bits_now, calibrate, quantizers
from ..quantizers import ActivationQuantizer


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and its like."""
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Calibrates activations on `quant.calibrate` training batches before the first quantized step.

    Values pass in float while it lasts; a resumed run, whose grids are in the checkpoint, skips it. A
    checkpoint given as load_from may have other bits than the run starts with (the paper's route over
    an 8-bit BFCN): quantizers whose bits differ start anew from its weights. Testing a checkpoint
    that has no quantizers raises RuntimeError.
    """

    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        spec = getattr(model, 'quant_spec', None)
        if spec is None:
            raise RuntimeError(
                'CalibrationHook: the model is not quantized: add quant=dict(w=..., a=...) to the config'
            )
        waiting = sum(not q.initialized for q in _activations(model))
        if not waiting:
            return
        start = time.perf_counter()
        model.train()
        batches = islice(_batches(runner.train_dataloader, runner.seed), spec.calibrate.batches)
        with runner.optim_wrapper.optim_context(runner.model):
            calibrate(model, batches, lambda batch: _losses(model, batch))
        runner.logger.info(
            f'calibrated {waiting} activations on {spec.calibrate.batches} batches in '
            f'{time.perf_counter() - start:.1f} s'
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        training = isinstance(runner._train_loop, BaseLoop)
        if not training or runner._resume:
            return
        state = checkpoint.get('state_dict', checkpoint)
        model = bare_model(runner.model)
        start = model.quant_spec.caps()[0]
        anew = 0
        for name, quantizer in quantizers(model):
            bits = state.get(f'{name}._bits')
            if bits is not None and int(bits) != max(quantizer.target, start):
                anew += 1
                for key in [key for key in state if key.startswith(name + '.')]:
                    del state[key]
        if anew:
            runner.logger.info(f'load_from has other bits at {anew} quantizers: they start anew')

    def before_test(self, runner: Runner) -> None:
        self._require_grids(runner)

    def before_val(self, runner: Runner) -> None:
        self._require_grids(runner)

    def _require_grids(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        model = getattr(model, 'module', model)  # test-time augmentation wraps once more
        unset = [
            n
            for n, q in quantizers(model)
            if isinstance(q, ActivationQuantizer) and not q.initialized
        ]
        if unset:
            raise RuntimeError(
                f'the checkpoint holds no grid for {unset[0]} ({len(unset)} in all): it is of a float '
                'model; train with this config first (load_from=...)'
            )
        bits = bits_now(model)
        runner.logger.info(
            f'evaluating at {bits["w_bits"]}-bit weights, {bits["a_bits"]}-bit activations'
        )


def _activations(model: nn.Module) -> list[ActivationQuantizer]:
    return [q for _, q in quantizers(model) if isinstance(q, ActivationQuantizer)]


def _batches(loader: DataLoader, seed: int | None):
    """Batches of the training set in an order of their own; the training loader is left untouched."""
    generator = torch.Generator().manual_seed((seed or 0) * 1000 + get_rank())
    own = DataLoader(
        loader.dataset,
        loader.batch_size,
        shuffle=True,
        collate_fn=loader.collate_fn,
        generator=generator,
        drop_last=len(loader.dataset) >= loader.batch_size,
    )
    while True:
        yield from own


def _losses(model: nn.Module, batch: dict) -> dict:
    data = model.data_preprocessor(batch, True)
    return model(**data, mode='loss')
