"""CamVid in the small: six images of noise in blocks, with every class in each."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope='session')
def camvid_like(tmp_path_factory):
    folder = tmp_path_factory.mktemp('camvid')
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for kind in ('images', 'annotations'):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            blocks = rng.permutation(np.arange(12)).reshape(3, 4).astype(np.uint8)
            labels = np.where(blocks == 11, 255, blocks).repeat(120, 0).repeat(120, 1)
            colours = rng.integers(0, 256, (12, 3))[blocks].repeat(120, 0).repeat(120, 1)
            noisy = np.clip(colours + rng.normal(0, 20, colours.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f'images/{split}/{i}.jpg')
            Image.fromarray(labels).save(folder / f'annotations/{split}/{i}.png')
    return folder
