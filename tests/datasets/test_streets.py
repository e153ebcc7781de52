import hashlib
import json
import multiprocessing

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

import bfcn_mm  # noqa: F401
from bfcn_mm.datasets.street_canvas import CLASSES
from bfcn_mm.datasets.street_scene import draw_scene
from bfcn_mm.datasets.streets import StreetsDataset, write_streets

SIZE = (64, 96)


def files_of(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob('*.png'))}


def test_the_pixels_of_a_seed_are_fixed():
    digest = hashlib.sha256()
    for index in range(3):
        for pixels in draw_scene(*SIZE, 0, 0, index):
            digest.update(pixels.tobytes())
    assert digest.hexdigest()[:16] == 'fb27350774fb371c'


def test_seed_split_and_index_each_give_another_scene():
    scenes = [draw_scene(*SIZE, *seed)[0] for seed in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len({scene.tobytes() for scene in scenes}) == 4


def test_every_class_appears_and_nothing_else():
    pixels = sum(
        np.bincount(draw_scene(128, 192, 0, 0, i)[1].ravel(), minlength=256) for i in range(12)
    )
    assert (pixels[: len(CLASSES)] > 100).all()
    assert pixels[len(CLASSES) :].sum() == 0


def test_colour_alone_does_not_tell_the_class():
    """The best table from coarse colour to class, made from the scenes it is tried on."""
    scenes = [draw_scene(128, 192, 0, 0, i) for i in range(24)]
    colour = np.concatenate([(rgb >> 4).reshape(-1, 3).astype(int) for rgb, _ in scenes])
    label = np.concatenate([classes.ravel() for _, classes in scenes])
    table = np.zeros((4096, len(CLASSES)), dtype=int)
    np.add.at(table, (colour @ [256, 16, 1], label), 1)
    guess = table.argmax(1)[colour @ [256, 16, 1]]
    ious = [
        ((guess == c) & (label == c)).sum() / ((guess == c) | (label == c)).sum()
        for c in range(len(CLASSES))
    ]
    assert np.mean(ious) < 0.35


def test_files_are_written_once_and_anew_for_other_arguments(tmp_path):
    write_streets(str(tmp_path), 'train', 2, SIZE, 0)
    first = files_of(tmp_path)
    assert len(first) == 4
    image = tmp_path / 'images/train/0000.png'
    before = image.stat().st_mtime_ns
    write_streets(str(tmp_path), 'train', 2, SIZE, 0)
    assert image.stat().st_mtime_ns == before
    write_streets(str(tmp_path), 'train', 3, SIZE, 1)
    assert len(files_of(tmp_path)) == 6
    write_streets(str(tmp_path), 'train', 2, SIZE, 0)
    assert files_of(tmp_path) == first
    assert not list(tmp_path.glob('.*.part'))


def test_a_killed_writer_leaves_nothing_that_is_taken_for_complete(tmp_path):
    write_streets(str(tmp_path), 'val', 2, SIZE, 0)
    whole = files_of(tmp_path)
    record = tmp_path / 'val.json'
    record.write_text(json.dumps({**json.loads(record.read_text()), 'complete': False}))
    (tmp_path / 'images/val/0001.png').unlink()
    (tmp_path / '.val.part/images').mkdir(parents=True)
    write_streets(str(tmp_path), 'val', 2, SIZE, 0)
    assert files_of(tmp_path) == whole


def test_processes_share_one_folder(tmp_path):
    context = multiprocessing.get_context('spawn')
    jobs = [
        context.Process(target=write_streets, args=(str(tmp_path), 'train', 3, SIZE, 0))
        for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(files_of(tmp_path)) == 6


def test_foreign_folders_are_left_alone(tmp_path):
    own = tmp_path / 'images/train/mine.png'
    own.parent.mkdir(parents=True)
    own.write_bytes(b'precious')
    with pytest.raises(FileExistsError, match='not written by StreetsDataset'):
        write_streets(str(tmp_path), 'train', 2, SIZE, 0)
    assert own.read_bytes() == b'precious'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(split='test'), "split must be one of .*'test'"),
        (dict(num_images=0), 'num_images must be .* got 0'),
        (dict(size=(32, 96)), r'size must be .* got \(32, 96\)'),
        (dict(seed=-1), 'seed must be .* got -1'),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        StreetsDataset(data_root=str(tmp_path), **arguments)


def test_mmseg_pipelines_read_it(tmp_path):
    dataset = DATASETS.build(
        dict(
            type='StreetsDataset',
            data_root=str(tmp_path),
            split='val',
            num_images=2,
            size=SIZE,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='RandomCrop', crop_size=(64, 64)),
                dict(type='PackSegInputs'),
            ],
        )
    )
    sample = dataset[1]
    assert sample['inputs'].shape == (3, 64, 64)
    assert sample['data_samples'].gt_sem_seg.data.shape == (1, 64, 64)
    assert dataset.metainfo['classes'] == CLASSES
    label = np.asarray(Image.open(tmp_path / 'annotations/val/0001.png'))
    np.testing.assert_array_equal(label, draw_scene(*SIZE, 0, 1, 1)[1])
