"""Runs of the tiny segmentor inside the test process."""

import itertools
import logging
import signal

import pytest
import torch
from helpers import tiny_config
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.registry import TRANSFORMS

import bfcn_mm  # noqa: F401

_names = itertools.count()


@TRANSFORMS.register_module()
class InterruptAt(BaseTransform):
    """Interrupts the process when the image of the given count passes."""

    def __init__(self, count):
        self.count = count

    def transform(self, results):
        self.count -= 1
        if self.count == 0:
            signal.raise_signal(signal.SIGINT)
        return results


@pytest.fixture(scope='session')
def streets(tmp_path_factory):
    """A folder whose `streets` hold the images that all runs of this process share."""
    return tmp_path_factory.mktemp('shared')


@pytest.fixture(autouse=True)
def quiet():
    """Log files keep what is said below warnings; the terminal of a failed test need not."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def make_runner(streets, tmp_path):
    """A function (iters=6, **changes of the config) -> Runner; model classes mean mmseg's."""

    def make(iters=6, **changes):
        config = tiny_config(streets, iters, work_dir=str(tmp_path / 'work'))
        config['experiment_name'] = f'run{next(_names)}'
        hooks = config['default_hooks'] | changes.pop('default_hooks', {})
        return Runner.from_cfg(Config(config | changes | dict(default_hooks=hooks)))

    with DefaultScope.overwrite_default_scope('mmseg'):
        yield make


@pytest.fixture
def trained(make_runner):
    """A function like make_runner that trains to the end: (runner, its state dict)."""

    def train(*args, **changes):
        runner = make_runner(*args, **changes)
        runner.train()
        return runner, {k: v.clone() for k, v in runner.model.state_dict().items()}

    return train


@pytest.fixture
def assert_same_state():
    """A function (expected, got) that asks for equal names and equal bits of every tensor."""

    def check(expected, got):
        assert expected.keys() == got.keys()
        differ = [k for k in expected if not torch.equal(expected[k], got[k])]
        assert not differ, f'{len(differ)} of {len(expected)} differ, first {differ[:3]}'

    return check
