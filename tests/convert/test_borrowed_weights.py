"""A layer whose weights others read without calling it: what is evaluated is what was trained."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from bfcn_mm import calibrate, quantize_
from bfcn_mm.convert import summarize


def image(seed=1):
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self, read, layer=None):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.cls, self.read = layer or nn.Conv2d(8, 8, 1, bias=False), read

    def forward(self, x):
        return self.read(self.cls, self.relu(self.stem(x)))


def kernels(layer, y):
    """As K-Net: the classifier is called, and its weights are the first kernels."""
    masks = layer(y)
    kernel = layer.weight.clone().flatten(1)
    return torch.einsum('kc,nchw->nkhw', kernel, y) + masks


BORROWED = {
    'cosine classifier': lambda layer, y: F.conv2d(F.normalize(y), F.normalize(layer.weight)),
    'direct convolution': lambda layer, y: F.conv2d(y, layer.weight),
    'through .data': lambda layer, y: F.conv2d(y, layer.weight.data),
    'part of the weight': lambda layer, y: F.conv2d(y[:, :4], layer.weight[:, :4]),
    'called and read': kernels,
    'its private forward': lambda layer, y: layer._conv_forward(y, layer.weight, None),
    'a factor': lambda layer, y: layer(y) * layer.weight.mean((1, 2, 3)).view(1, -1, 1, 1),
    'returned': lambda layer, y: (layer(y), layer.weight * 2),
}


@pytest.mark.parametrize('how', BORROWED)
def test_a_layer_that_lends_its_weights_stays_in_float(how):
    torch.manual_seed(0)
    model = quantize_(Net(BORROWED[how]), w=1, a=2)
    assert list(model.quant_plan.layers) == ['stem']
    assert 'its weights are read by' in model.quant_plan.kept['cls']
    line = next(s for s in summarize(model).splitlines() if 'not through its own forward' in s)
    assert line.startswith('left in float: cls (')
    calibrate(model.train(), [image()])


def test_the_reason_names_the_function_and_the_class():
    model = quantize_(Net(BORROWED['direct convolution']), w=1, a=2)
    reason = 'its weights are read by conv2d in Net, not through its own forward'
    assert model.quant_plan.kept == {'cls': reason}


LENT_NOTHING = {
    'types and shapes': lambda layer, y: layer(y.to(layer.weight.dtype).to(layer.weight)).type_as(
        layer.weight
    ),
    'zeros like it': lambda layer, y: layer(y) + torch.zeros_like(layer.weight).sum(),
    'its device': lambda layer, y: layer(y.to(layer.weight.device).expand(*y.shape)),
    'a penalty': lambda layer, y: (layer(y), y.mean() + layer.weight.square().sum()),
}


@pytest.mark.parametrize('how', LENT_NOTHING)
def test_a_layer_that_lends_no_values_is_quantized(how):
    model = quantize_(Net(LENT_NOTHING[how]), w=1, a=2)
    assert list(model.quant_plan.layers) == ['stem', 'cls']


@pytest.mark.parametrize('wrap', [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_weight_that_the_layer_computes_itself_is_quantized(wrap):
    layer = wrap(nn.Conv2d(8, 8, 1))
    model = quantize_(Net(lambda layer, y: layer(y), copy.deepcopy(layer)), w=1, a=2)
    assert list(model.quant_plan.layers) == ['stem', 'cls']
    model = quantize_(Net(lambda layer, y: F.conv2d(y, layer.weight), layer), w=1, a=2)
    assert 'cls' in model.quant_plan.kept


def test_a_weight_that_a_hook_of_the_layer_computes_is_quantized():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        layer = weight_norm(nn.Conv2d(8, 8, 1))
    model = quantize_(Net(lambda layer, y: layer(y), layer), w=1, a=2)
    assert list(model.quant_plan.layers) == ['stem', 'cls']


def test_tied_weights_are_read_by_either_layer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(c, 8, 1) for c in (3, 8, 8))
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(self.stem(x))))

    assert list(quantize_(Tied(), w=1, a=2).quant_plan.layers) == ['stem', 'a', 'b']


class Encoder(nn.Module):
    """torch's own encoder, which has fused kernels for evaluation."""

    def __init__(self, **settings):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self.encoder = nn.TransformerEncoder(layer, 2)
        self.embed, self.last = nn.Linear(3, 16), nn.Linear(16, 4)

    def forward(self, x, mask=None):
        return self.last(self.encoder(self.embed(x), src_key_padding_mask=mask))


TOKENS = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(5))
PADDED = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])


@pytest.mark.parametrize('settings', [{}, dict(norm_first=True, activation='gelu')])
@pytest.mark.parametrize('mask', [None, PADDED])
def test_encoder_layers_compute_in_evaluation_what_they_compute_in_training(settings, mask):
    torch.manual_seed(0)
    plain = Encoder(**settings)
    model = quantize_(copy.deepcopy(plain), w=2, a=2, example=TOKENS)
    assert not model.quant_plan.kept
    calibrate(model.train(), [TOKENS])
    trained = model(TOKENS, mask)
    model.eval()
    expected = model(TOKENS, mask)
    with torch.no_grad():
        got = model(TOKENS, mask)
        assert got.shape == trained.shape
        assert torch.equal(got, expected)
        assert torch.equal(got, trained)
        assert not torch.allclose(got, plain.eval()(TOKENS, mask), atol=1e-3)
        with torch.inference_mode():
            assert torch.equal(model(TOKENS, mask), expected)


def test_an_encoder_of_float_attention_is_quantized_in_evaluation_too():
    torch.manual_seed(0)
    skip = [f'encoder.layers.{i}.self_attn' for i in range(2)]
    model = quantize_(Encoder(), w=1, a=2, skip=skip, example=TOKENS)
    calibrate(model.train(), [TOKENS])
    trained = model(TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(TOKENS), trained)
