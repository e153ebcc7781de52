"""Grids in training: those of a loaded checkpoint, calibration of the others, averages of steps."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from itertools import islice

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from ..convert import bits_now, calibrate, forget_other_bits, quantizers
from ..quantizers import ActivationQuantizer
from .averaged_steps import AveragedSteps, refuse_averages_of_buffers
from .optim_wrapper_constructor import decayed_steps


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and its like."""
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Calibrates activations on `quant.calibrate` training batches before the first quantized step.

    Values pass in float while it lasts; a resumed run, whose grids are in the checkpoint, skips it. A
    checkpoint given as load_from may have other bits than the run starts with (the paper's route over
    an 8-bit BFCN): quantizers whose bits differ start again from its weights. Averages of learned
    steps (EMAHook) follow grids that are placed again. Testing a checkpoint that has no quantizers raises
    RuntimeError; averages of buffers and an empty training set, ValueError.
    """

    priority = 'HIGH'

    def before_run(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, BaseLoop):
            refuse_averages_of_buffers(runner)

    def before_train(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        spec = getattr(model, 'quant_spec', None)
        if spec is None:
            raise RuntimeError(
                'CalibrationHook: the model is not quantized: add quant=dict(w=..., a=...) to the config'
            )
        self._averages = AveragedSteps(runner, model)
        _warn_of_weight_decay(runner, model)
        waiting = sum(not q.initialized for q in _activations(model))
        if not waiting:
            return
        start = time.perf_counter()
        model.train()
        batches = islice(_batches(runner.train_dataloader, runner.seed), spec.calibrate.batches)
        with _optim_context(runner):
            calibrate(model, batches, lambda batch: _losses(model, batch))
        runner.logger.info(
            f'calibrated {waiting} activations on {spec.calibrate.batches} batches in '
            f'{time.perf_counter() - start:.1f} s'
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self._averages.follow()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        training = isinstance(runner._train_loop, BaseLoop)
        if not training or runner._resume:
            return
        state = checkpoint.get('state_dict', checkpoint)
        model = bare_model(runner.model)
        other = forget_other_bits(state, quantizers(model), model.quant_spec.caps()[0])
        if other:
            runner.logger.info(f'load_from has other bits at {other} quantizers: they start again')

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


def _warn_of_weight_decay(runner: Runner, model: nn.Module) -> None:
    decayed = decayed_steps(runner.optim_wrapper, model)
    if decayed:
        runner.logger.warning(
            f'weight decay acts on {decayed} learned steps, which it would only shrink: let the config '
            'build the optimizer (quant sets optim_wrapper.constructor), or give the parameters of '
            'quantizers a group with weight_decay=0'
        )


def _optim_context(runner: Runner) -> AbstractContextManager:
    """Automatic mixed precision, where the run has it; of the first optimizer if there are several."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        wrapper = next(iter(wrapper.values()))
    return wrapper.optim_context(runner.model)


def _batches(loader: DataLoader, seed: int | None):
    """Batches of the training set in an order of their own; the training loader is left untouched."""
    if not len(loader.dataset):
        raise ValueError(
            f'{type(loader.dataset).__name__}: the training set is empty, nothing can be calibrated: '
            'correct train_dataloader.dataset'
        )
    generator = torch.Generator().manual_seed((seed or 0) * 1000 + get_rank())
    size = _batch_size(loader)
    own = DataLoader(
        loader.dataset,
        size,
        shuffle=True,
        collate_fn=loader.collate_fn,
        generator=generator,
        drop_last=len(loader.dataset) >= size,
    )
    while True:
        yield from own


def _batch_size(loader: DataLoader) -> int:
    """Images a batch. A loader with a batch_sampler has no size: the sampler's, or the mean."""
    sampler = loader.batch_sampler
    size = loader.batch_size or getattr(sampler, 'batch_size', None)
    return size or max(1, len(loader.dataset) // len(sampler))


def _losses(model: nn.Module, batch: dict) -> dict:
    data = model.data_preprocessor(batch, True)
    return model(**data, mode='loss')
