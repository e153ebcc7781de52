"""Conversions of whole models: which grids their values lie on, and what stays as it was."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny_model
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS
from torch import nn

from bfcn_mm import QuantSpec, calibrate, quantize_
from bfcn_mm.convert import quantizers, set_cap, summarize
from bfcn_mm.layers import QuantActivation, QuantizedLayer

IMAGE = (2, 3, 64, 64)


def build(**changes):
    torch.manual_seed(0)
    return MODELS.build(tiny_model(**changes))


def run(model, x):
    """Every head on one batch."""
    features = model.extract_feat(x)
    return model.decode_head(features), model.auxiliary_head(features)


def quantized(model=None, **quant):
    model = quantize_(model or build(), **(dict(w=1, a=2) | quant))
    torch.manual_seed(1)
    calibrate(model, [torch.randn(IMAGE)], partial(run, model))
    return model.eval()


def observe(model):
    """name -> what the kernel of each converted convolution reads, over one forward."""
    seen = {}
    convs = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    for name, module in convs.items():
        read = module.quantized_input
        module.quantized_input = lambda x, read=read, name=name: seen.setdefault(name, read(x))
    run(model.train(), torch.randn(IMAGE))  # batch statistics keep every layer alive
    for module in convs.values():
        del module.quantized_input
    return seen


def levels(x):
    return x.unique().numel()


@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
def test_every_convolution_reads_few_levels_and_has_few_weights(method):
    model = quantized(method=method)
    seen = observe(model)
    convs = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert set(seen) == set(convs)
    modules = dict(model.named_modules())
    for name, x in seen.items():
        first = name == 'backbone.stem.0'
        assert levels(x) <= (256 if first else 4), name
        weight = modules[name].quantized_weight()
        for channel in weight:
            assert levels(channel) <= (256 if first else 2), name


def identities(model):
    """name -> what each residual block adds to its own branch; filled by a forward."""
    seen = {}
    for name, module in model.named_modules():
        if type(module).__name__ == 'BasicBlock':
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: args[0].detach().clone()})
            )
    return seen


@pytest.mark.parametrize(('residual', 'least', 'most'), [(None, 2, 4), (4, 5, 16), (8, 17, 256)])
def test_the_shortcut_stream_is_low_bit(residual, least, most):
    model = quantized(residual=residual)
    added = identities(model)
    seen = observe(model)
    plain = [n for n in added if n.endswith('.1')]  # blocks whose shortcut is the identity
    assert len(plain) == 4
    for name in plain:
        assert least <= levels(added[name]) <= most, name
        assert levels(seen[f'{name}.conv1']) <= 4, name
    assert all(levels(x) <= 4 for n, x in seen.items() if n != 'backbone.stem.0')


def test_names_are_those_of_the_float_model_and_some_more():
    plain = build().state_dict()
    state = quantized().state_dict()
    assert [k for k in state if k in plain] == list(plain)
    extra = [k for k in state if k not in plain]
    assert all('quant' in k for k in extra)
    assert all(torch.equal(state[k], v) for k, v in plain.items()), 'conversion moved a weight'


def test_a_float_checkpoint_loads_without_a_missing_key():
    model = quantize_(build(), w=1, a=2)
    missing, unexpected = model.load_state_dict(build().state_dict(), strict=False)
    assert (missing, unexpected) == ([], [])
    model.load_state_dict(build().state_dict(), strict=True)


def test_mode_and_random_state_are_left_alone():
    model = build()
    model.backbone.layer1.eval()
    state, modes = torch.random.get_rng_state(), [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    quantize_(model, w=1, a=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    mine = [m.training for m in model.modules() if 'quantizers' not in type(m).__module__]
    assert sorted(mine) == sorted(modes + [True] * (len(mine) - len(modes)))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def bits(model, name):
    layer = model.quant_plan.layers[name].bits
    return layer.w, layer.a


def test_first_last_overrides_and_skip():
    overrides = {'backbone.layer4': dict(w=4, a=4), 'backbone.layer4.1.conv2': dict(w=32, a=3)}
    model = quantized(last=dict(w=8, a=6), overrides=overrides, skip=['auxiliary_head'])
    assert bits(model, 'backbone.stem.0') == (8, 8)
    assert bits(model, 'decode_head.conv_seg') == (8, 6)
    assert bits(model, 'backbone.layer1.0.conv1') == (1, 2)
    assert bits(model, 'backbone.layer4.0.conv1') == (4, 4)
    assert bits(model, 'backbone.layer4.1.conv2') == (32, 3)
    assert model.backbone.layer4[1].conv2.weight_quant is None
    assert not any(
        isinstance(m, QuantizedLayer | QuantActivation) for m in model.auxiliary_head.modules()
    )
    assert 'quant.skip' in summarize(model)
    seen = observe(model)
    assert 4 < levels(seen['decode_head.conv_seg']) <= 64
    assert 4 < levels(seen['backbone.layer4.1.conv1']) <= 16
    assert levels(seen['backbone.layer4.1.conv2']) <= 8
    assert bits(quantized(first=None), 'backbone.stem.0') == (1, 2)


@pytest.mark.parametrize(('w', 'a'), [(32, 2), (1, 32)])
def test_one_side_in_float(w, a):
    model = quantized(w=w, a=a, first=None)
    kinds = {name.rpartition('.')[2] for name, _ in quantizers(model)}
    assert ('weight_quant' in kinds) == (w != 32)
    assert (kinds - {'weight_quant'} == set()) == (a == 32)


def test_32_32_computes_what_the_float_model_computes():
    model = quantize_(build(), w=32, a=32, first=None).eval()
    x = torch.randn(IMAGE)
    for got, expected in zip(run(model, x), run(build().eval(), x), strict=True):
        assert torch.equal(got, expected)


def test_at_8_bits_the_scores_are_close_to_those_of_the_float_model():
    x = torch.randn(IMAGE)
    expected = run(build().eval(), x)[0]
    got = run(quantized(w=8, a=8), x)[0]
    assert torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize(
    ('quant', 'message'),
    [
        (dict(skip=['aux_head']), r"quant\.skip: 'aux_head' matches no module; names start with"),
        (
            dict(overrides={'backbone.layer5': dict(w=4, a=4)}),
            r"'backbone\.layer5' matches no module",
        ),
    ],
)
def test_names_that_match_nothing(quant, message):
    with pytest.raises(ValueError, match=message):
        quantize_(build(), w=1, a=2, **quant)


def test_a_second_conversion_is_refused():
    with pytest.raises(ValueError, match='is quantized already; build the model anew'):
        quantize_(quantize_(build(), w=1, a=2), w=1, a=2)


def test_models_with_nothing_to_convert():
    with pytest.raises(ValueError, match='no Conv2d, ConvTranspose2d, Linear or attention'):
        quantize_(nn.Sequential(nn.ReLU()), w=1, a=2, example=torch.randn(1, 3))


def test_a_plain_module_with_an_example_of_its_own_shape():
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match=r'example='):
        quantize_(copy.deepcopy(model), w=2, a=2)
    quantize_(model, w=2, a=2, example=torch.randn(4, 10))
    assert bits(model, '0') == (8, 8)
    assert model[3].input_quant is None, 'it reads the codes of the ReLU, through dropout'
    model(torch.randn(4, 10)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


class Signs(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.first, self.relu, self.last = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
        self.change = change

    def forward(self, x):
        return self.last(self.change(self.relu(self.first(x))))


@pytest.mark.parametrize(
    ('change', 'own', 'signed'),
    [
        (lambda x: x, False, None),
        (lambda x: nn.functional.max_pool2d(x, 2), False, None),
        (lambda x: nn.functional.interpolate(x, scale_factor=2), False, None),
        (lambda x: nn.functional.interpolate(x, scale_factor=2, mode='bilinear'), True, False),
        (lambda x: nn.functional.avg_pool2d(x, 2), True, False),
        (lambda x: x * 2, True, False),
        (lambda x: x + 1, True, False),
        (lambda x: x - 1, True, True),
        (lambda x: x * -1, True, True),
        (lambda x: -x, True, True),
        (lambda x: x + -1, True, True),
        (lambda x: torch.add(x, x, alpha=-2), True, True),
        (lambda x: torch.sigmoid(x) * x, True, False),
    ],
)
def test_what_a_layer_reads_decides_whether_it_rounds_and_with_which_sign(change, own, signed):
    model = quantize_(Signs(change), w=2, a=2, example=torch.randn(1, 3, 8, 8))
    quant = model.last.input_quant
    assert (quant is not None) == own
    if own:
        assert quant.signed == signed


def test_sync_batch_norm_comes_and_goes():
    model = quantize_(nn.SyncBatchNorm.convert_sync_batchnorm(build()), w=1, a=2)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    model = revert_sync_batchnorm(model)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    model = revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    torch.manual_seed(1)
    calibrate(model, [torch.randn(IMAGE)], partial(run, model))
    x = torch.randn(IMAGE)
    assert torch.equal(run(model.eval(), x)[0], run(quantized().eval(), x)[0])


def test_deepcopy_is_a_model_of_its_own():
    model = quantized()
    x = torch.randn(IMAGE)
    expected = run(model, x)[0]
    other = copy.deepcopy(model)
    set_cap(other, 8)
    assert torch.equal(run(model, x)[0], expected)
    assert all(q.bits == q.target for _, q in quantizers(model))


def test_calibration_leaves_statistics_alone_and_names_what_saw_nothing():
    model = quantize_(build(), w=1, a=2)
    before = model.backbone.stem[1].running_mean.clone()
    with pytest.raises(RuntimeError, match=r'no value reached auxiliary_head.*quant\.skip'):
        calibrate(model, [torch.randn(IMAGE)], lambda x: model.decode_head(model.extract_feat(x)))
    calibrate(model, [torch.randn(IMAGE)] * 2, partial(run, model))
    assert torch.equal(model.backbone.stem[1].running_mean, before)
    assert all(q.initialized for n, q in quantizers(model) if 'weight' not in n)


def test_set_cap_says_what_changed():
    model = quantized(decay=dict(start=4))
    changed = set_cap(model, 3)
    assert {q.bits for q in changed} == {3}
    assert set_cap(model, 3) == []
    assert QuantSpec.parse(dict(w=1, a=2)).caps() == (1,)


def test_the_summary_counts_layers_weights_bytes_and_operations():
    text = summarize(quantized(skip=['auxiliary_head']))
    model = build()
    count = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)) - sum(
        m.weight.numel() for m in model.auxiliary_head.modules() if isinstance(m, nn.Conv2d)
    )
    stem = model.backbone.stem[0].weight.numel()
    row = next(line.split() for line in text.splitlines() if line.split()[:2] == ['1', '2'])
    assert row[3:5] == [f'{count - stem:,d}', f'{-(-(count - stem) // 8):,d}']
    kept = next(line for line in text.splitlines() if 'left in float' in line)
    assert 'auxiliary_head.convs.0.conv' in kept
    assert kept.endswith('(quant.skip)')


def test_torch_export_reads_a_converted_network():
    model = quantized()

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.decode_head(self.model.extract_feat(x))

    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(Scores().eval(), (x,))
        torch.testing.assert_close(program.module()(x), Scores().eval()(x))


def test_autocast_trains_with_finite_gradients():
    model = quantize_(build(), w=1, a=2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        scores = run(model, torch.randn(IMAGE))
    assert scores[0].dtype == torch.bfloat16
    sum(s.float().square().mean() for s in scores).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('calibrated', [False, True])
@pytest.mark.parametrize('method', ['lsq', 'dorefa'])
@pytest.mark.parametrize('w', [1, 2, 4, 8])
def test_a_layer_that_starts_at_zero_learns(w, method, calibrated):
    """The layer behind it placed the grid of its input on values of 1e-7, and clipped all later ones."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
    )
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    quantize_(model, w=w, a=2, method=method).train()
    images, labels = torch.randn(4, 3, 16, 16), torch.randint(0, 4, (4, 16, 16))
    if calibrated:
        calibrate(model, [images])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        assert model[2].weight.grad.abs().sum() > 0.1
        optimizer.step()
    reach = model[3].input_quant
    assert float(reach.step) * (2**reach.bits - 1) == pytest.approx(2, rel=0.05)
    assert 0 < reach.zero_point < 2**reach.bits - 1, 'values may grow in both directions'


def test_a_scripted_part_stays_in_float():
    part = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), torch.jit.script(part), nn.Conv2d(8, 4, 1))
    quantize_(model, w=2, a=2)
    assert list(model.quant_plan.layers) == ['0', '3']
    images = torch.randn(2, 3, 16, 16)
    calibrate(model.train(), [images])
    model(images).sum().backward()
    assert model[2][0].weight.grad.abs().sum() > 0
    assert model.load_state_dict(model.state_dict())
