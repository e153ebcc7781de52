"""The Triton engine behind mmseg's segmentor and behind tools/verify.py, in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('gguf')

import bfcn_mm  # noqa: F401, I001 - mends mmseg before it is imported
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from bfcn_kernels import Metadata, Model, write
from bfcn_kernels.builder import random_image
from bfcn_kernels.nets import toy
from bfcn_mm.export import TorchEngine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    write(path, Model(toy(), Metadata('toy', tuple('abcde'), tuple((i, i, i) for i in range(5)))))
    return path


def verify(path, interpret: str):
    environment = {'TRITON_INTERPRET': interpret, 'CUDA_VISIBLE_DEVICES': ''}
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT), str(ROOT / 'kernels'), *sys.path])
    arguments = ['--engine', 'triton', '--images', '1', '--size', '9', '14']
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'verify.py'), str(path), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_segmentor_runs_batches(toy_file):
    images = [random_image(10, 13, seed) for seed in range(2)]
    bgr = [torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) for image in images]
    size = dict(img_shape=(10, 13), ori_shape=(10, 13))
    data = dict(inputs=bgr, data_samples=[SegDataSample(metainfo=size) for _ in images])
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(dict(type='PackedSegmentor', file=str(toy_file), engine='triton'))
    results = model.eval().test_step(data)
    for image, result in zip(images, results, strict=True):
        labels = result.pred_sem_seg.data[0].cpu().numpy()
        np.testing.assert_array_equal(labels, TorchEngine(toy_file)(image))


def test_verify_says_that_every_map_is_equal(toy_file):
    done = verify(toy_file, '1')
    assert done.returncode == 0, done.stderr
    assert f'triton: equal on {len(toy().ops)} maps of 1 images' in done.stdout


def test_verify_without_a_gpu_is_one_line(tmp_path):
    path = tmp_path / 'r18.gguf'
    write(path, Model(toy()))
    done = verify(path, '0')
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "engine 'triton' is not available: engine 'triton' needs an NVIDIA GPU" in last
