"""A grid is believed only with the weights it belongs to."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict as mmengine_load
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from bfcn_mm import quantize_
from bfcn_mm.convert import quantizers
from bfcn_mm.quantizers.calibration import weight_step

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network(classes=4, wrap=lambda layer: layer):
    torch.manual_seed(classes)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), wrap(nn.Conv2d(8, classes, 1)))


def trained(classes=4, wrap=lambda layer: layer, **quant):
    net = quantize_(network(classes, wrap), **(dict(w=8, a=8) | quant)).train()
    net(X)
    return net


def load(net, state, how):
    """As torch loads, strict or not, or as mmengine does, which skips what does not fit."""
    if how == 'mmengine':
        mmengine_load(net, state, strict=False)
    else:
        net.load_state_dict(state, strict=how == 'strict')


def assert_weights_fit(net):
    for module in net:
        quantizer = getattr(module, 'weight_quant', None)
        if quantizer is not None:
            best = weight_step(module.weight, quantizer.grid, quantizer.dims)
            torch.testing.assert_close(quantizer.codes(module.weight)[1], best)


@pytest.mark.parametrize('per_channel', [True, False])
@pytest.mark.parametrize('bits', [8, 2])
def test_another_number_of_classes(bits, per_channel):
    """The grid of an 8-8 head came without its weights: step 1, and all weights rounded to 0."""
    saved = trained(4, w=bits, a=bits, per_channel=per_channel)
    net = quantize_(network(6), w=bits, a=bits, per_channel=per_channel)
    load(net, saved.state_dict(), 'mmengine')
    assert not net[2].weight_quant.initialized
    assert net[0].weight_quant.initialized
    assert [name for _, name in net.quant_run.notes] == ['2.weight_quant']
    net.train()(X)
    assert_weights_fit(net[2:])
    assert net[2].quantized_weight().unique().numel() > 2


@pytest.mark.parametrize('how', ['loose', 'mmengine'])
@pytest.mark.parametrize('entry', ['2.weight', '2.weight_quant.placed', '2.weight_quant.drift'])
def test_weights_or_grid_that_are_missing(entry, how):
    state = trained().state_dict()
    state['2.weight'] = 10 * state['2.weight']
    del state[entry]
    net = quantize_(network(), w=8, a=8).train()
    load(net, state, how)
    assert not net[2].weight_quant.initialized
    net(X)
    assert_weights_fit(net[2:])


@pytest.mark.parametrize('how', ['loose', 'mmengine'])
@pytest.mark.parametrize(
    ('before', 'after'),
    [
        (dict(per_channel=True), dict(per_channel=False)),
        (dict(per_channel=False), dict(per_channel=True)),
        (dict(method='dorefa'), dict(method='lsq')),
        (dict(method='lsq'), dict(method='dorefa')),
    ],
)
def test_another_kind_of_grid(before, after, how):
    state = trained(**before).state_dict()
    net = quantize_(network(5 - 1), w=8, a=8, **after)
    load(net, state, how)
    changed = {name for _, name in net.quant_run.notes}
    assert '2.weight_quant' in changed
    if 'method' in after:
        assert {'0.input_quant', '1.quants.0'} <= changed
    net.train()(X)
    if after.get('method') != 'dorefa':
        assert_weights_fit(net)
    assert all(q.initialized for _, q in quantizers(net))


@pytest.mark.parametrize('how', ['strict', 'mmengine'])
@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
def test_float_weights_after_a_first_forward(method, how):
    net = trained(method=method)
    state = {k: 10 * v for k, v in network().state_dict().items()}
    load(net, state, how)
    assert not any(q.initialized for _, q in quantizers(net))
    net(X)
    fresh = quantize_(network(), w=8, a=8, method=method).train()
    fresh.load_state_dict(state)
    fresh(X)
    assert torch.equal(net(X), fresh(X))


def test_a_part_that_is_loaded_gives_up_its_own_grids_only():
    net = nn.Sequential(nn.Sequential(*network(8)), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 2, 1)))
    quantize_(net, w=8, a=8).train()(X)
    net[1].load_state_dict({'1.weight': torch.ones(2, 8, 1, 1), '1.bias': torch.zeros(2)})
    left = {name for name, q in quantizers(net) if q.initialized}
    assert left == {n for n, _ in quantizers(net) if n.startswith('0.')}


@pytest.mark.parametrize('wrap', [weight_norm, parametrizations.weight_norm])
def test_weights_that_are_computed_come_with_their_sources(wrap):
    saved = trained(wrap=wrap)
    state = saved.state_dict()
    net = quantize_(network(wrap=wrap), w=8, a=8)
    net.load_state_dict(copy.deepcopy(state))
    assert net[2].weight_quant.initialized
    source = next(
        k for k in state if k.startswith('2.') and 'weight_quant' not in k and 'bias' not in k
    )
    net.load_state_dict({k: v for k, v in state.items() if k != source}, strict=False)
    assert not net[2].weight_quant.initialized


def test_a_whole_checkpoint_is_believed_as_it_is():
    saved = trained().eval()
    net = quantize_(network(6 - 2), w=8, a=8).eval()
    net.load_state_dict(saved.state_dict())
    assert not net.quant_run.notes
    with torch.no_grad():
        assert torch.equal(net(X), saved(X))


def test_what_was_not_believed_reaches_the_log_at_the_next_forward(monkeypatch):
    lines = []
    monkeypatch.setattr('bfcn_mm.convert.quantize.print_log', lambda text, **_: lines.append(text))
    net = trained()
    net.load_state_dict({k: 2 * v for k, v in network().state_dict().items()})
    net(X)
    net(X)
    assert lines == [
        'weights were loaded that bring no grid: the grids of 0.weight_quant, 0.input_quant, '
        '1.quants.0 and 1 more are placed again'
    ]
