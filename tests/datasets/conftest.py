import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

import bfcn_mm  # noqa: F401


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """The user's cache folder, so that no test reads or leaves anything outside."""
    folder = tmp_path / 'user_cache'
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder


@pytest.fixture(autouse=True)
def mmseg_scope():
    """Names in configs mean mmseg's, as they do under a runner."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def make_dataset(tmp_path):
    """A function (labels, **arguments) -> BaseSegDataset whose files hold those label arrays."""
    from mmseg.datasets import BaseSegDataset

    def make(labels, classes=('a', 'b', 'c'), root=None, **arguments):
        root = root or tmp_path / 'own'
        for kind in ('img', 'ann'):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for index, label in enumerate(labels):
            label = np.asarray(label, dtype=np.uint8)
            Image.fromarray(label).save(root / f'ann/{index}.png')
            Image.fromarray(np.stack([label] * 3, -1)).save(root / f'img/{index}.png')
        return BaseSegDataset(
            data_root=str(root),
            data_prefix=dict(img_path='img', seg_map_path='ann'),
            img_suffix='.png',
            metainfo=dict(classes=classes),
            **arguments,
        )

    return make
