"""mmseg's own tools on a packed file, from a checkpoint to the evaluator's numbers."""

import copy
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from bfcn_kernels import WorkError, write
from bfcn_kernels.builder import random_image
from bfcn_mm.export import TorchEngine, pack
from bfcn_mm.export.torch_engine import interpolate

ROOT = Path(__file__).parents[2]
NAME = 'bfcn_wide_2_levels'


@pytest.fixture(scope='module')
def file(network, tmp_path_factory):
    """A packed file with classes."""
    segmentor, _ = network(NAME)
    path = tmp_path_factory.mktemp('packed') / 'net.gguf'
    write(path, pack(segmentor, 'abcde', [[i] * 3 for i in range(5)]).model)
    return path


def built(file, **more):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(dict(type='PackedSegmentor', file=str(file), **more)).eval()


def data(image, ori_shape=None):
    size = dict(img_shape=image.shape[:2], ori_shape=ori_shape or image.shape[:2])
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    return dict(inputs=[bgr], data_samples=[SegDataSample(metainfo=size)])


@pytest.mark.parametrize('engine', ['numpy', 'torch'])
def test_labels_are_those_of_the_graph(file, engine):
    image = random_image(45, 70)
    result = built(file, engine=engine).test_step(data(image))[0]
    expected = TorchEngine(file)(image)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(result.pred_sem_seg.data[0].cpu().numpy(), expected)


@pytest.mark.parametrize('engine', ['numpy', 'cpu', 'torch'])
def test_threads_share_a_segmentor(file, engine):
    """As a server does: each request gets the labels of its own image."""
    images = [random_image(*size, 1) for size in ((24, 36), (33, 17), (20, 40), (16, 16), (30, 30))]
    segmentor, alone = built(file, engine=engine), TorchEngine(file)
    expected = [alone(image) for image in images]

    def work(first: int) -> bool:
        right = True
        for i in range(len(images)):
            index = (first + i) % len(images)
            result = segmentor.test_step(data(images[index]))[0]
            right &= np.array_equal(result.pred_sem_seg.data[0].cpu().numpy(), expected[index])
        return right

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(work, range(5)))


def test_test_time_augmentation_averages_probabilities(file):
    single = built(file, engine='torch')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(type='SegTTAModel', module=dict(type='PackedSegmentor', file=str(file)))
        )
    image = random_image(45, 70)
    mirrored = data(image[:, ::-1])
    mirrored['data_samples'][0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    both = data(image), mirrored
    for sample in both:
        sample['data_samples'][0].set_metainfo(dict(img_path='x'))
    merged = model.test_step(
        {k: [sample[k] for sample in both] for k in ('inputs', 'data_samples')}
    )
    scores = [single.test_step(copy.deepcopy(sample))[0].seg_logits.data for sample in both]
    expected = sum(s.softmax(0) for s in scores).argmax(0)
    assert torch.equal(merged[0].pred_sem_seg.data.squeeze(), expected)


def test_predictions_have_the_original_size(file):
    result = built(file, engine='torch').test_step(data(random_image(45, 70), (90, 141)))[0]
    assert result.pred_sem_seg.data.shape == (1, 90, 141)


def test_flipped_copies_are_averaged(file):
    """mmseg's test-time augmentation, as tools/test.py --tta runs it."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        packed = dict(type='PackedSegmentor', file=str(file), engine='torch')
        model = MODELS.build(dict(type='SegTTAModel', module=packed)).eval()
    once, image = TorchEngine(file), random_image(45, 70)
    mirrored = data(np.ascontiguousarray(image[:, ::-1]))
    mirrored['data_samples'][0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    batches = [data(image), mirrored]
    for batch in batches:
        batch['data_samples'][0].set_metainfo(dict(img_path='x.png'))
    got = model.test_step({key: [batch[key] for batch in batches] for key in batches[0]})[0]

    scores = []
    for flip in (1, -1):
        once(np.ascontiguousarray(image[:, ::flip]))
        logits = torch.from_numpy(once.logits).permute(2, 0, 1)[None]
        full = interpolate(logits, (45, 70), 'bilinear')[0]
        scores.append(full if flip == 1 else full.flip(2))
    expected = sum(s.softmax(0) for s in scores).argmax(0)
    assert (got.pred_sem_seg.data == expected).float().mean() > 0.999


@pytest.mark.parametrize('engine', ['numpy', 'torch', 'cpu'])
def test_what_the_file_may_take_is_passed_on(file, engine):
    image = random_image(45, 70)
    with pytest.raises(MemoryError, match='max_bytes is 5000000'):
        built(file, engine=engine, max_bytes=5_000_000).test_step(data(random_image(900, 900)))
    with pytest.raises(WorkError, match='max_ops is 1000:'):
        built(file, engine=engine, max_ops=1000).test_step(data(image))
    with pytest.raises(ValueError, match='max_ops must be None or an int'):
        built(file, engine=engine, max_ops=0)


def test_it_has_nothing_to_load(file):
    assert built(file, engine='torch').state_dict() == {}


def test_normalization_of_the_float_model_is_not_applied_twice(file):
    given = dict(type='SegDataPreProcessor', mean=[1.0] * 3, std=[2.0] * 3, bgr_to_rgb=False)
    image = random_image(45, 70)
    result = built(file, engine='torch', data_preprocessor=given).test_step(data(image))[0]
    np.testing.assert_array_equal(result.pred_sem_seg.data[0].cpu(), TorchEngine(file)(image))


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        (dict(engine='gpu'), "engine must be one of .* got 'gpu'"),
        (
            dict(engine='torch', one_bit=True),
            "one_bit=True is for engine='triton', got engine='torch'",
        ),
        (
            dict(engine='numpy', one_bit=True),
            "one_bit=True is for engine='triton', got engine='numpy'",
        ),
        (dict(test_cfg=dict(mode='slide')), r"model\.test_cfg\.mode='slide': .* images whole"),
        (
            dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32))),
            r"model\.data_preprocessor\.test_cfg=\{'size_divisor': 32\}: .* without padding",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(file, more, words):
    with pytest.raises(ValueError, match=words):
        built(file, **more)


def test_one_bit_reaches_the_engine(file, monkeypatch):
    given = []
    monkeypatch.setattr('bfcn_kernels.load', lambda *args, **_: given.append(args))
    built(file, engine='triton', one_bit=True)
    assert given == [(str(file), 'triton', 1, True)]


def test_half_pixels_and_training_are_refused(file):
    model = built(file, engine='torch')
    with pytest.raises(ValueError, match='whole pixels'):
        model.predict(torch.full((1, 3, 32, 32), 0.5))
    with pytest.raises(RuntimeError, match='cannot be trained'):
        model.loss(None, None)


def test_inference_api(file):
    pipeline = [dict(type='LoadImageFromNDArray'), dict(type='PackSegInputs')]
    config = Config(
        dict(
            default_scope='mmseg',
            model=dict(type='PackedSegmentor', file=str(file), engine='torch'),
            test_pipeline=pipeline,
            test_dataloader=dict(dataset=dict(pipeline=pipeline)),
        )
    )
    model = init_model(config, str(file), device='cpu')
    assert tuple(model.dataset_meta['classes']) == tuple('abcde')
    image = random_image(45, 70)
    result = inference_model(model, image[..., ::-1].copy())
    np.testing.assert_array_equal(result.pred_sem_seg.data[0], TorchEngine(file)(image))


CONFIG = """
_base_ = ['{configs}/_base_/models/bfcn_tiny.py', '{configs}/_base_/datasets/streets.py',
          '{configs}/_base_/schedules/streets.py', '{configs}/_base_/default_runtime.py']
model = dict(
    data_preprocessor=dict(size=(128, 192)),
    backbone=dict(stem_channels=8, base_channels=8),
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=8, num_levels=2, num_classes=9),
)
data = dict(data_root='streets', num_images=4, size=(64, 96))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=3, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=3))
quant = dict(w=1, a=2, calibrate=2)
"""


@pytest.mark.slow
def test_from_training_to_the_miou_of_the_packed_file(tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG.format(configs=ROOT / 'configs'))

    def tool(name, *arguments, status=0):
        command = [sys.executable, '-W', 'ignore', ROOT / 'tools' / f'{name}.py', *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    tool('train', 'config.py', '--work-dir', 'run')
    checkpoint = 'run/iter_3.pth'
    assert '1-bit weights, 2-bit activations, 9 classes' in tool(
        'export', 'config.py', checkpoint, 'net.gguf'
    )
    told = tool('verify', 'config.py', checkpoint, 'net.gguf', '--engine', 'torch')
    assert 'torch: equal on' in told
    assert 'checkpoint: packs to' in told
    assert float(re.search(r'all codes: (\S+) end to end', told)[1]) < 1e-2
    told = tool('test', 'config.py', 'net.gguf', '--cfg-options', 'model.engine=torch')
    packed = re.search(r'mIoU: (\S+)', told)[1]
    trained = re.search(r'mIoU: (\S+)', tool('test', 'config.py', checkpoint))[1]
    assert float(packed) == pytest.approx(float(trained), abs=0.5)
    slide = 'model.test_cfg.mode=slide'
    for name, *arguments in (
        ('export', checkpoint, 'slid.gguf'),
        ('verify', checkpoint, 'net.gguf'),
        ('test', 'net.gguf'),
    ):
        told = tool(name, 'config.py', *arguments, '--cfg-options', slide, status=1)
        assert "model.test_cfg.mode='slide': a packed model takes images whole" in told
    padded = 'model.data_preprocessor.test_cfg.size_divisor=80'
    told = tool('test', 'config.py', 'net.gguf', '--cfg-options', padded, status=1)
    assert "model.data_preprocessor.test_cfg={'size_divisor': 80}" in told
    (tmp_path / 'padded.py').write_text(
        "_base_ = 'config.py'\n"
        "model = dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(20, 20)),\n"
        '             data_preprocessor=dict(test_cfg=dict(size_divisor=80)))\n'
    )
    ways_out = 'model.test_cfg.mode=whole', 'model.data_preprocessor.test_cfg=None'
    told = tool('test', 'padded.py', 'net.gguf', '--cfg-options', 'model.engine=torch', *ways_out)
    assert re.search(r'mIoU: (\S+)', told)[1] == packed
    tool('export', 'padded.py', checkpoint, 'again.gguf', '--cfg-options', *ways_out)
    told = tool('verify', 'config.py', checkpoint, 'missing.gguf', status=1)
    assert 'missing.gguf' in told
