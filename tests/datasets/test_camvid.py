from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS

from bfcn_mm.datasets.check import check_range, dataset_counts, empty_classes

ROOT = Path(__file__).parents[2]
BASE = ROOT / 'configs/_base_/datasets'


@pytest.fixture
def camvid(monkeypatch):
    if not (ROOT / 'data/camvid').exists():
        pytest.skip('data/camvid is not here; docs/data.md says how to get it')
    monkeypatch.chdir(ROOT)
    return Config.fromfile(BASE / 'camvid.py')


def test_sizes_and_classes(camvid):
    train = DATASETS.build(camvid.train_dataloader.dataset)
    val = DATASETS.build(camvid.val_dataloader.dataset)
    assert (len(train), len(val)) == (367, 101)
    counts, files = dataset_counts(train)
    check_range(counts, files, 11, 255)
    assert empty_classes(counts, train.metainfo['classes']) == []


def test_class_order(camvid):
    """Sky is above, road below, and road, building and sky are the largest."""
    val = DATASETS.build(camvid.val_dataloader.dataset)
    names = val.metainfo['classes']
    rows = {name: [] for name in names}
    for index in range(0, 100, 10):
        label = val[index]['data_samples'].gt_sem_seg.data[0].numpy()
        for value, name in enumerate(names):
            rows[name].extend(np.nonzero(label == value)[0].tolist())
    mean = {name: np.mean(found) for name, found in rows.items() if found}
    assert mean['sky'] == min(mean.values())
    assert mean['road'] == max(mean.values())
    assert mean['building'] < mean['car'] < mean['road']
    assert sorted(names, key=lambda name: -len(rows[name]))[:2] == ['road', 'building']


def test_every_training_sample_has_the_crop_size(camvid):
    train = DATASETS.build(camvid.train_dataloader.dataset)
    assert {tuple(train[index]['inputs'].shape) for index in range(8)} == {(3, 360, 480)}


def test_cityscapes_config_reads_the_one_frame_set(monkeypatch):
    if not (ROOT / 'data/cityscapes_mini').exists():
        pytest.skip('data/cityscapes_mini is not here')
    monkeypatch.chdir(ROOT)
    cfg = Config.fromfile(BASE / 'cityscapes.py')
    cfg.merge_from_dict({'val_dataloader.dataset.data_root': 'data/cityscapes_mini'})
    val = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(val) == 1
    assert val[0]['inputs'].shape == (3, 128, 256)
    counts, files = dataset_counts(val)
    check_range(counts, files, 19, 255)
