import pytest
import torch
from torch import nn

from bfcn_mm import quantize_

LENGTH, WIDTH, HEADS = 5, 8, 2


def pair(**settings):
    """A float attention and its conversion at the given bits, with the same weights."""
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(WIDTH, HEADS, **settings)
    nn.init.normal_(plain.in_proj_bias)
    return plain


def converted(plain, w, a):
    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = plain

        def forward(self, x):
            return self.attn(x, x, x)[0]

    return quantize_(Self(), w=w, a=a, first=None, example=torch.randn(LENGTH, 2, WIDTH)).attn


MASKS = {
    'none': {},
    'bool': dict(attn_mask=torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)),
    'float': dict(attn_mask=torch.linspace(-1, 1, LENGTH * LENGTH).view(LENGTH, LENGTH)),
    'a head each': dict(attn_mask=torch.randn(2 * HEADS, LENGTH, LENGTH)),
    'padding': dict(key_padding_mask=torch.tensor([[False] * 5, [False] * 3 + [True] * 2])),
    'both': dict(
        attn_mask=torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1),
        key_padding_mask=torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
    ),
    'causal': dict(attn_mask=torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1), is_causal=True),
}


@pytest.mark.parametrize('batch_first', [False, True])
@pytest.mark.parametrize('mask', MASKS)
def test_at_32_bits_it_is_that_of_torch(mask, batch_first):
    plain = pair(batch_first=batch_first)
    inputs = [torch.randn(2, LENGTH, WIDTH) for _ in range(3)]
    if not batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    expected = plain(*inputs, **MASKS[mask])[0]
    got, maps = converted(plain, 32, 32)(*inputs, **MASKS[mask])
    torch.testing.assert_close(got, expected)
    assert maps is None


def test_projections_are_low_bit():
    plain = pair()
    names = set(plain.state_dict())
    layer = converted(plain, 1, 2)
    assert names < set(layer.state_dict())
    x = torch.randn(LENGTH, 2, WIDTH)
    y, _ = layer(x, x, x)
    y.sum().backward()
    signs = layer.weight_quant(layer.in_proj_weight) / layer.weight_quant.step
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    quants = [layer.input_quant, layer.key_quant, layer.value_quant, layer.out_quant]
    assert all(q.initialized and q.signed and q(x).unique().numel() <= 4 for q in quants)
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_unbatched_input_is_like_a_batch_of_one():
    plain = pair()
    x = torch.randn(LENGTH, WIDTH)
    expected = plain(x, x, x)[0]
    torch.testing.assert_close(converted(plain, 32, 32)(x, x, x)[0], expected)
