"""A converted model is copied, pickled and sent to another process like any module."""

import copy
import io
import multiprocessing
import operator
import pickle
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from helpers import tiny_model
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmseg.registry import MODELS
from torch import nn

import bfcn_mm
from bfcn_mm.layers import QuantAdaptiveConv, QuantConv, derive

Case = namedtuple('Case', 'model input')


class Layers(nn.Module):
    """One of each: attention, linear, transposed and adaptive convolution, a ReLU at two places."""

    def __init__(self):
        super().__init__()
        self.conv = Conv2dAdaptivePadding(3, 8, 3, stride=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu(self.up(self.relu(self.conv(x))))
        x = x.flatten(2).transpose(1, 2)
        return self.linear(self.attend(x, x, x)[0])


def segmentor():
    model = MODELS.build(
        tiny_model(type='QuantSegmentor', segmentor='EncoderDecoder', quant=dict(w=1, a=2))
    )
    return Case(model, torch.randn(2, 3, 64, 64))


def layers():
    example = torch.randn(1, 3, 9, 9)
    return Case(bfcn_mm.quantize_(Layers(), w=2, a=2, example=example), torch.randn(2, 3, 9, 9))


@pytest.fixture(scope='module', params=[segmentor, layers])
def case(request):
    from mmengine.registry import DefaultScope

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        case = request.param()
    with torch.no_grad():
        case.model.train()(case.input)  # places every grid
    return Case(case.model.eval(), case.input)


def saved(new_format):
    def copied(model):
        file = io.BytesIO()
        torch.save(model, file, _use_new_zipfile_serialization=new_format)
        return torch.load(io.BytesIO(file.getvalue()), weights_only=False)

    return copied


def pickled(protocol):
    return lambda model: pickle.loads(pickle.dumps(model, protocol))


COPIES = {
    'deepcopy': copy.deepcopy,
    'torch.save': saved(True),
    'torch.save, old format': saved(False),
    **{f'pickle {n}': pickled(n) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize('how', COPIES)
def test_a_copy_computes_the_same_and_learns_on(case, how):
    copied = COPIES[how](case.model)
    assert [type(m) for m in copied.modules()] == [type(m) for m in case.model.modules()]
    assert copied.state_dict().keys() == case.model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(copied(case.input), case.model(case.input))
    own = {id(p) for p in case.model.parameters()}
    assert not own & {id(p) for p in copied.parameters()}
    copied.train()(case.input).sum().backward()
    assert all(p.grad is not None for n, p in copied.named_parameters() if 'auxiliary' not in n)


@pytest.mark.parametrize('case', [segmentor], indirect=True)
def test_a_spawned_process_computes_the_same(case):
    frozen = copy.deepcopy(case.model).requires_grad_(False)
    task = operator.methodcaller('forward', case.input)
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        there = pool.submit(task, frozen).result(timeout=300)
    assert torch.equal(there, frozen(case.input))


def test_a_derived_class_names_the_bases_of_the_layer():
    """As mmengine's init_cfg looks for them."""
    kind = derive(QuantAdaptiveConv, Conv2dAdaptivePadding)
    assert {'Conv2d', 'Conv2dAdaptivePadding'} <= {base.__name__ for base in kind.__bases__}
    assert '_ConvNd' in {base.__name__ for base in derive(QuantConv, nn.Conv2d).__bases__}
