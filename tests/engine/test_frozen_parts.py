"""Parts in evaluation mode while the model trains: frozen stages, frozen heads, norm_eval."""

import pytest
import torch
from mmengine.hooks import Hook
from mmseg.models.backbones import ResNet

from bfcn_mm import quantize_
from bfcn_mm.convert import quantizers

DECAY = dict(stages=[4, 3, 2], every=2)


class FreezeHead(Hook):
    """Keeps the head in evaluation mode, as hooks of users do for batch norm."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.decode_head.eval()


def without_grid(model):
    return [name for name, quantizer in quantizers(model) if not quantizer.initialized]


@pytest.mark.parametrize('frozen', [-1, 1, 4])
def test_frozen_stages_get_their_grids_again_when_bits_fall(make_runner, frozen):
    """Seven activations of a frozen stage passed in float after the first fall of bits."""
    runner = make_runner(iters=6, quant=dict(w=2, a=2, calibrate=2, decay=DECAY))
    runner.model.backbone.frozen_stages = frozen
    runner.train()
    assert without_grid(runner.model) == []
    assert {q.bits for n, q in quantizers(runner.model) if 'layer1' in n} == {2}
    fixed = [q for n, q in quantizers(runner.model) if n.startswith('backbone.layer1')]
    assert all(p.requires_grad == (frozen < 1) for q in fixed for p in q.parameters())


def test_a_head_that_a_hook_keeps_in_evaluation_mode(make_runner):
    runner = make_runner(iters=6, quant=dict(w=2, a=2, calibrate=2, decay=DECAY))
    runner.register_hook(FreezeHead())
    runner.train()
    assert without_grid(runner.model) == []


def test_the_first_training_batch_places_grids_of_frozen_parts_too():
    net = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()),
        torch.nn.Conv2d(8, 2, 1),
    )
    net[0].requires_grad_(False)
    quantize_(net, w=2, a=2).train()
    net[0].eval()
    net(torch.randn(2, 3, 16, 16))
    assert without_grid(net) == []


@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
def test_evaluation_places_no_grid(method):
    """Quantizers of a network in evaluation mode were in training mode."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    quantize_(net.eval(), w=2, a=2, method=method)
    x = torch.randn(2, 3, 16, 16)
    with pytest.warns(UserWarning, match='not calibrated'):
        net(x)
    assert len(without_grid(net)) == len(list(quantizers(net)))
    net.train()
    with pytest.raises(RuntimeError, match='size'):
        net(x[:, :, :1, :1])
    left = without_grid(net)
    net.eval()
    net(x)
    assert without_grid(net) == left != [], 'the failed forward in training mode is over'


def test_steps_of_frozen_layers_are_frozen():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    net[0].requires_grad_(False)
    quantize_(net, w=2, a=2)
    assert not any(p.requires_grad for p in net[0].parameters())
    assert all(p.requires_grad for p in net[2].parameters())


class Stem(torch.nn.Module):
    """A frozen convolution and batch norm before an activation that belongs to neither."""

    def __init__(self, act):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)
        self.act, self.scale = act, torch.nn.Parameter(torch.ones(8, 1, 1))
        self.body, self.last = torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)) * self.scale)
        return self.last(self.act(self.body(x)))


@pytest.mark.parametrize(
    ('act', 'frozen', 'learns'),
    [
        ('ReLU', ['conv', 'norm', 'scale'], False),
        ('Hardswish', ['conv', 'norm', 'scale'], False),
        ('ReLU', ['conv', 'norm'], True),
        ('ReLU', ['conv', 'scale'], True),
        ('ReLU', ['norm', 'scale'], True),
        ('PReLU', ['conv', 'norm', 'scale'], True),
        ('PReLU', ['conv', 'norm', 'scale', 'act'], False),
    ],
)
def test_a_step_behind_frozen_layers_alone_is_frozen(act, frozen, learns):
    """What frozen stages give would change with it."""
    net = Stem(getattr(torch.nn, act)())
    for name in frozen:
        getattr(net, name).requires_grad_(False)
    quantize_(net, w=2, a=2)
    first, second = net.act.quants
    assert [p.requires_grad for p in first.parameters()] == [learns]
    assert [p.requires_grad for p in second.parameters()] == [True]


@pytest.mark.parametrize('frozen_stages', [-1, 0])
def test_the_stem_of_a_frozen_resnet_has_no_step_that_learns(frozen_stages):
    """mmseg freezes conv1 and norm1; their ReLU is a module beside them."""
    net = ResNet(18, base_channels=8, stem_channels=8, frozen_stages=frozen_stages)
    quantize_(net, w=2, a=2).train()
    assert all(p.requires_grad == (frozen_stages < 0) for p in net.relu.parameters())
    assert all(p.requires_grad for p in net.layer1[0].relu.parameters())
