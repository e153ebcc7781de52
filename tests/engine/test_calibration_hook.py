"""Calibration draws its batches from any loader that float training takes."""

import copy

import pytest
from helpers import tiny_config
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader

from bfcn_mm.convert import quantizers
from bfcn_mm.engine.calibration_hook import _batches

QUANT = dict(w=2, a=2, calibrate=3)


@DATA_SAMPLERS.register_module(force=True)
class InPairs(BatchSampler):
    """torch's batch sampler, registered as others are."""


@DATA_SAMPLERS.register_module(force=True)
class OfMixedSizes:
    """A batch sampler without a batch_size: two images, three images, ..."""

    def __init__(self, sampler, batch_size):
        self.sampler = sampler

    def __iter__(self):
        indices = iter(self.sampler)
        while True:
            yield [next(indices) for _ in range(2)]
            yield [next(indices) for _ in range(3)]

    def __len__(self):
        return 3


def pairs(loader, dataset):
    loader['batch_sampler'] = dict(type='InPairs', drop_last=True)


def mixed(loader, dataset):
    loader['batch_sampler'] = dict(type='OfMixedSizes')


def repeated(loader, dataset):
    loader['dataset'] = dict(type='RepeatDataset', times=3, dataset=dataset)


def joined(loader, dataset):
    loader['dataset'] = dict(type='ConcatDataset', datasets=[dataset, dataset])


def large(loader, dataset):
    loader['batch_size'] = 8  # of 6 images


def in_epochs(loader, dataset):
    loader['sampler'] = dict(type='DefaultSampler', shuffle=True)


@pytest.mark.parametrize('form', [pairs, mixed, repeated, joined, large, in_epochs])
def test_a_loader_of_any_form_calibrates_and_trains(make_runner, streets, form):
    loader = copy.deepcopy(tiny_config(streets)['train_dataloader'])
    form(loader, loader['dataset'])
    runner = make_runner(2, train_dataloader=loader, quant=QUANT)
    lines = []
    runner.logger.info = lines.append
    runner.train()
    assert [line for line in lines if line.startswith('calibrated ')]
    assert all(q.initialized for _, q in quantizers(runner.model))


def test_an_empty_training_set_is_an_error_and_no_endless_loop():
    with pytest.raises(ValueError, match=r'list: the training set is empty'):
        next(_batches(DataLoader([], batch_size=2), seed=0))
