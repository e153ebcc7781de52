import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import bfcn_mm.models
from bfcn_mm.models.boundary import boundary_mask

SIZES = [(33, 65), (17, 33), (9, 17), (5, 9)]
CHANNELS = [8, 12, 16, 20]
LEVELS = ['32x', '16x', '8x', '4x']


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')
    torch.manual_seed(0)


def make_head(**options) -> nn.Module:
    cfg = dict(
        type='ResidualLaplacianHead',
        in_channels=CHANNELS,
        channels=[4, 5, 6, 7],
        num_classes=3,
        num_blocks=1,
    )
    return MODELS.build({**cfg, **options})


def make_features(batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]


def make_samples(batch: int = 2, ignored_rows: int = 5) -> list[SegDataSample]:
    labels = torch.randint(0, 3, (batch, 1, 129, 257))
    labels[:, :, :ignored_rows] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def total(losses: dict) -> torch.Tensor:
    return sum(value for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('block', ['conv', 'wide', 'residual'])
@pytest.mark.parametrize('num_levels', [1, 2, 3, 4])
@pytest.mark.parametrize('mask', [False, True])
def test_logits_have_the_size_of_the_finest_feature(block, num_levels, mask):
    head = make_head(block=block, num_levels=num_levels, mask=mask)
    assert head(make_features()).shape == (2, 3, *SIZES[4 - num_levels])
    assert list(head.scores) == LEVELS[:num_levels]


def test_each_level_adds_its_scores_to_the_upsampled_coarser_ones():
    head = make_head(channels=4, dropout_ratio=0).eval()
    features = make_features()
    expected = None
    for level, feature in zip(LEVELS, features[::-1], strict=True):
        score = head.scores[level](head.filters[level](feature))
        if expected is not None:
            score = score + nn.functional.interpolate(expected, score.shape[2:], mode='bilinear')
        expected = score
    torch.testing.assert_close(head(features), expected, rtol=0, atol=0)


def test_wide_doubles_the_filter_and_residual_stacks_blocks():
    conv, wide = (make_head(block=block).filters['4x'] for block in ('conv', 'wide'))
    assert wide.conv.weight.shape == (8, 8, 3, 3)
    assert conv.conv.weight.shape == (4, 8, 3, 3)
    residual = make_head(num_blocks=3).filters['4x']
    assert len([m for m in residual.modules() if isinstance(m, nn.Conv2d)]) == 1 + 2 * 3


@pytest.mark.parametrize('block', ['conv', 'wide', 'residual'])
def test_every_activation_is_a_module_used_once(block):
    head = make_head(block=block).eval()
    calls = []
    relus = [m for m in head.modules() if isinstance(m, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(id(module)))
    head(make_features())
    assert sorted(calls) == sorted(map(id, relus))
    assert len(relus) == 4 * (3 if block == 'residual' else 1)
    convs = [m for name, m in head.filters.named_modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is None for conv in convs)
    assert all(score.bias is not None for score in head.scores.values())


def test_autocast_keeps_scores_in_float32():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert make_head()(make_features()).dtype == torch.float32


@pytest.mark.parametrize('active', [1, 2, 3, 4])
def test_inactive_levels_lose_nothing_and_get_zero_gradients(active):
    head = make_head()
    head.active_levels = active
    losses = head.loss(make_features(), make_samples(), None)
    assert set(losses) == {f'loss_ce_{level}' for level in LEVELS} | {'acc_seg'}
    total(losses).backward()
    for i, level in enumerate(LEVELS):
        assert (losses[f'loss_ce_{level}'] > 0) == (i < active)
        grads = [p.grad for m in (head.filters, head.scores) for p in m[level].parameters()]
        assert all(grad is not None for grad in grads)
        assert any(grad.any() for grad in grads) == (i < active)
    assert head.eval()(make_features()).shape[2:] == SIZES[4 - active]


def test_inactive_levels_still_gather_batch_statistics():
    head = make_head()
    head.active_levels = 1
    head.loss(make_features(), make_samples(), None)
    assert head.filters['4x'][0].bn.running_mean.any()


def test_overflow_in_an_inactive_level_reaches_neither_loss_nor_gradients():
    head = make_head()
    head.active_levels = 2
    head.scores['4x'].bias.data.fill_(float('inf'))
    loss = total(head.loss(make_features(), make_samples(), None))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    head.active_levels = 4
    assert not total(head.loss(make_features(), make_samples(), None)).isfinite()


def test_level_weights_scale_each_level():
    features, samples = make_features(), make_samples()
    head = make_head(dropout_ratio=0)
    plain = head.loss(features, samples, None)
    head.level_weights = dict(zip(LEVELS, [0.5, 1.0, 2.0, 4.0], strict=True))
    scaled = head.loss(features, samples, None)
    for level, factor in head.level_weights.items():
        name = f'loss_ce_{level}'
        torch.testing.assert_close(scaled[name], factor * plain[name])


def test_class_weights_set_later_reach_the_loss_of_each_level():
    head = make_head(dropout_ratio=0)
    for score in head.scores.values():  # class 2 wins everywhere, by the same margin
        score.weight.data.zero_()
        score.bias.data = torch.tensor([0.0, 0.0, 1.0])
    head.loss_decode.class_weight = [0.0, 0.0, 1.0]
    losses = head.loss(make_features(), make_samples(ignored_rows=0), None)
    for i, level in enumerate(LEVELS):
        scores = torch.tensor([0.0, 0.0, 1.0 + i])
        torch.testing.assert_close(losses[f'loss_ce_{level}'], -scores.log_softmax(0)[2])


def test_level_weights_run_from_fine_to_coarse():
    weights = make_head(level_weights=[4, 3, 2, 1], num_levels=2).level_weights
    assert weights == {'32x': 1, '16x': 2}


def test_losses_of_one_name_add_up_and_others_stand_beside():
    features, samples = make_features(), make_samples()
    single = make_head(dropout_ratio=0)
    several = make_head(
        dropout_ratio=0,
        loss_decode=[
            dict(type='CrossEntropyLoss'),
            dict(type='CrossEntropyLoss', loss_weight=2.0),
            dict(type='DiceLoss'),
        ],
    )
    several.load_state_dict(single.state_dict())
    plain, losses = (head.loss(features, samples, None) for head in (single, several))
    names = {f'loss_{kind}_{level}' for kind in ('ce', 'dice') for level in LEVELS}
    assert set(losses) == names | {'acc_seg'}
    for level in LEVELS:
        name = f'loss_ce_{level}'
        torch.testing.assert_close(losses[name], 3 * plain[name])


def test_sampler_chooses_the_pixels_of_each_active_level():
    head = make_head(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10))
    head.active_levels = 3
    head.sampler.sample = lambda logits, labels: torch.zeros(labels.shape)[:, 0]
    losses = head.loss(make_features(), make_samples(), None)
    assert not any(losses[f'loss_ce_{level}'] for level in LEVELS)
    del head.sampler.sample
    losses = head.loss(make_features(), make_samples(), None)
    assert [bool(losses[f'loss_ce_{level}'] > 0) for level in LEVELS] == [True, True, True, False]


def test_predict_has_the_size_of_the_image():
    metas = [dict(img_shape=(129, 257)), dict(img_shape=(129, 257))]
    assert make_head().predict(make_features(), metas, None).shape == (2, 3, 129, 257)


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, load_state_dict])
def test_active_levels_travel_in_the_checkpoint(load):
    trained = nn.Sequential(make_head())
    trained[0].active_levels = 2
    fresh = nn.Sequential(make_head())
    load(fresh, trained.state_dict(), strict=True)
    assert fresh[0].active_levels == 2
    assert int(fresh[0].num_active) == 2


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, load_state_dict])
def test_checkpoint_without_active_levels_loads(load):
    head = make_head()
    head.active_levels = 3
    weights = {k: v for k, v in make_head().state_dict().items() if k != 'num_active'}
    load(head, weights, strict=True)
    assert head.active_levels == 3
    assert 'num_active' not in weights


def test_checkpoint_of_more_levels_is_refused_by_name():
    head = make_head(num_levels=2)
    with pytest.raises(RuntimeError, match=r'num_active must be in 1\.\.2 \(num_levels\), got 4'):
        head.load_state_dict(make_head().state_dict())
    assert head.active_levels == 2


@pytest.mark.parametrize('dilation', [0, 1, 3])
@pytest.mark.parametrize('size', [(1, 1), (1, 7), (13, 9)])
def test_boundary_mask_equals_the_oracle(dilation, size):
    scores = torch.randint(0, 2, (2, 4, *size)).float()  # many ties
    got = boundary_mask(scores, dilation).numpy()
    np.testing.assert_array_equal(got[:, 0], slow_boundary_mask(scores.numpy(), dilation))


def slow_boundary_mask(scores: np.ndarray, dilation: int) -> np.ndarray:
    """The definition in `boundary_mask`, pixel by pixel."""
    label = scores.argmax(1)
    height, width = label.shape[1:]

    def window(image, y, x, radius):
        rows = slice(max(y - radius, 0), y + radius + 1)
        return image[rows, max(x - radius, 0) : x + radius + 1]

    def everywhere(test):
        return np.array([[test(y, x) for x in range(width)] for y in range(height)])

    masks = []
    for image in label:
        edge = everywhere(lambda y, x, m=image: len(np.unique(window(m, y, x, 1))) > 1)
        masks.append(everywhere(lambda y, x, e=edge: window(e, y, x, dilation).any()))
    return np.array(masks)


def test_masked_scores_count_at_boundaries_only():
    head = make_head(mask=True)
    up = torch.zeros(1, 3, 8, 8)
    up[:, 1, :, 4:] = 1
    score = torch.full_like(up, float('inf'))
    changed = head._refine(up, score).isinf().all(1)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:, 3:5] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize('active', [2, 4])
@pytest.mark.parametrize('mask', [False, True])
def test_torch_export_reads_backbone_and_head(active, mask):
    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = MODELS.build(
                dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
            )
            self.head = make_head(in_channels=[8, 16, 32, 64], mask=mask)
            self.head.active_levels = active

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

    model = Exported().eval()
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        program = torch.export.export(model, (image,))
        torch.testing.assert_close(program.module()(image), model(image), rtol=0, atol=0)
    names = {str(node.target) for node in program.graph.nodes if node.op == 'call_function'}
    assert 'aten.upsample_bilinear2d.vec' in names
    assert ('aten.argmax.default' in names) == mask


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(block='x'), "block must be one of .* got 'x'"),
        (dict(num_levels=5), r'num_levels must be in 1\.\.4 .* got 5'),
        (dict(num_levels=0), r'num_levels must be in 1\.\.4 .* got 0'),
        (dict(num_blocks=0), 'num_blocks must be 1 or more, got 0'),
        (dict(channels=[4, 5]), r'channels must have one value for each .* got \[4, 5\]'),
        (dict(in_channels=[4, 5]), r'in_channels must have one value for each .* got \[4, 5\]'),
        (dict(level_weights=[1, 2]), r'level_weights must have one value .* got \[1, 2\]'),
        (dict(level_weights=-1), 'level_weights must be 0 or more'),
        (dict(mask_dilation=-1), 'mask_dilation must be 0 or more pixels, got -1'),
        (dict(mask=True, out_channels=1, num_classes=2), 'mask=True needs out_channels >= 2'),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_head(**options)


@pytest.mark.parametrize('value', [0, 5, 1.5, True])
def test_bad_active_levels_are_named(value):
    with pytest.raises(ValueError, match=r'active_levels must be in 1\.\.4, got'):
        make_head().active_levels = value


def test_import_registers_the_head():
    assert MODELS.get('ResidualLaplacianHead') is bfcn_mm.models.ResidualLaplacianHead
