import pytest
import torch
from mmseg.models.backbones import ResNetV1c
from torch import nn

from bfcn_mm import quantize_
from bfcn_mm.layers import QuantActivation


class TwoReLUs(nn.Module):
    """One ReLU module at two places, as in a ResNet block."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x, fail=False):
        x = self.relu(self.conv1(x))
        if fail:
            raise InterruptedError
        return self.relu(100 * self.conv2(x))


def converted():
    torch.manual_seed(0)
    model = quantize_(TwoReLUs(), w=32, a=2, first=None, example=torch.randn(1, 4, 8, 8))
    model(torch.randn(2, 4, 8, 8))
    return model


def test_each_place_has_a_grid_of_its_own():
    model = converted()
    first, second = model.relu.quants
    assert second.step > 3 * first.step
    assert type(model.relu).__name__ == 'QuantReLU'


def test_an_interrupted_forward_does_no_harm():
    model = converted().eval()
    x = torch.randn(2, 4, 8, 8)
    expected = model(x)
    with pytest.raises(InterruptedError):
        model(x, fail=True)
    assert torch.equal(model(x), expected)


class Shared(nn.Module):
    """One block at three places: its ReLU runs once a call of the block."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        for _ in range(3):
            x = self.block(x)
        return self.last(x)


def test_a_block_that_is_called_three_times_has_one_place():
    model = quantize_(Shared(), w=2, a=2, example=torch.randn(1, 4, 8, 8))
    model(torch.randn(2, 4, 8, 8))
    assert all(q.initialized for q in model.block[1].quants)
    assert len(model.block[1].quants) == 1


@pytest.mark.parametrize('act', [nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.ReLU6])
def test_signed_activations_have_a_zero_point(act):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), act(), nn.Conv2d(4, 2, 1))
    quantize_(model, w=2, a=3, example=torch.randn(1, 3, 8, 8))
    model(x := torch.randn(2, 3, 8, 8))
    (quant,) = model[1].quants
    assert isinstance(model[1], QuantActivation)
    assert quant.signed == (act is not nn.ReLU6)
    values = model[1](model[0](x)).unique()
    assert len(values) <= 8
    torch.testing.assert_close(values / quant.step, (values / quant.step).round())


def test_checkpointed_blocks_have_the_same_gradients():
    """with_cp runs the inner forward of each block a second time, in the backward pass."""
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = ResNetV1c(depth=18, stem_channels=8, base_channels=8, with_cp=with_cp)
        quantize_(model, w=1, a=2)
        x = torch.randn(2, 3, 32, 32, requires_grad=True)
        for _ in range(2):
            model.zero_grad()
            model(x)[-1].square().sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = results
    assert plain.keys() == checkpointed.keys()
    assert [n for n in plain if 'relu.quants.1' in n]
    for name, grad in plain.items():
        torch.testing.assert_close(grad, checkpointed[name], msg=name)
