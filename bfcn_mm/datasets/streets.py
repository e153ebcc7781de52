"""Street scenes drawn by a program: a data set with nothing to download."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from .street_canvas import CLASSES
from .street_scene import draw_scene

VERSION = 1  # raise it when draw_scene changes: written files are then drawn anew
SPLITS = ('train', 'val')
KINDS = ('images', 'annotations')


@DATASETS.register_module()
class StreetsDataset(BaseSegDataset):
    """Procedural street scenes in 9 classes, written to `data_root` when first needed.

    images/{train,val}/NNNN.png and annotations/{train,val}/NNNN.png. The same arguments give the
    same pixels on any machine; image i depends on (seed, split, i) alone.

    Args:
        data_root: the folder to write to and read from.
        split: 'train' or 'val'.
        num_images: how many images the split has.
        size: (height, width), at least (64, 64).
        seed: a whole number >= 0.
    """

    METAINFO = dict(
        classes=CLASSES,
        palette=[
            [70, 130, 180], [128, 64, 128], [244, 35, 232], [70, 70, 70], [107, 142, 35],
            [0, 0, 142], [220, 20, 60], [220, 220, 0], [153, 153, 153],
        ],
    )  # fmt: skip

    def __init__(
        self,
        data_root: str = 'data/streets',
        split: str = 'train',
        num_images: int = 200,
        size: Sequence[int] = (128, 192),
        seed: int = 0,
        **kwargs: object,
    ) -> None:
        check_arguments(split, num_images, size, seed)
        self.drawing = (data_root, split, num_images, tuple(size), seed)
        prefix = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
        super().__init__(
            data_root=data_root,
            data_prefix=prefix,
            img_suffix='.png',
            seg_map_suffix='.png',
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Draw the split unless it is there, then list it as any data set."""
        write_streets(*self.drawing)
        return super().load_data_list()


def check_arguments(split: str, num_images: int, size: Sequence[int], seed: int) -> None:
    """Raise ValueError for the first argument of StreetsDataset that is out of range."""
    if split not in SPLITS:
        raise ValueError(f'split must be one of {SPLITS}, got {split!r}')
    if not isinstance(num_images, int) or num_images < 1:
        raise ValueError(f'num_images must be a whole number >= 1, got {num_images!r}')
    if len(size) != 2 or any(not isinstance(n, int) or n < 64 for n in size):
        raise ValueError(f'size must be (height, width), each at least 64, got {size!r}')
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f'seed must be a whole number >= 0, got {seed!r}')


def write_streets(
    data_root: str, split: str, num_images: int, size: tuple[int, int], seed: int
) -> None:
    """Draw one split to files, unless the same was written before; safe from several processes.

    A file lock lets one process write while the others wait. Drawn files are moved into place only
    when all are there. Raises FileExistsError for folders that were not written by this function.
    """
    root = Path(data_root)
    root.mkdir(parents=True, exist_ok=True)
    record = root / f'{split}.json'
    wanted = dict(
        generator='bfcn_mm streets', version=VERSION, num_images=num_images, size=list(size),
        seed=seed,
    )  # fmt: skip
    if _is_complete(root, split, wanted):
        return
    with FileLock(str(root / f'.{split}.lock')):
        if _is_complete(root, split, wanted):
            return
        targets = [root / kind / split for kind in KINDS]
        for target in targets:
            if target.exists() and not record.exists():
                raise FileExistsError(
                    f'{target}: not written by StreetsDataset, so it is left as it is: '
                    'set data_root to another folder'
                )
        part = root / f'.{split}.part'
        shutil.rmtree(part, ignore_errors=True)
        _draw_files(part, split, num_images, size, seed)
        _write_record(record, {'generator': wanted['generator'], 'complete': False})
        for kind, target in zip(KINDS, targets, strict=True):
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (part / kind).replace(target)
        _write_record(record, wanted)
        part.rmdir()


def _is_complete(root: Path, split: str, wanted: dict) -> bool:
    try:
        found = json.loads((root / f'{split}.json').read_text())
        counts = [
            sum(n.endswith('.png') for n in os.listdir(root / kind / split)) for kind in KINDS
        ]
    except (OSError, ValueError):
        return False
    return found == wanted and counts == [wanted['num_images']] * len(KINDS)


def _draw_files(part: Path, split: str, num_images: int, size: tuple[int, int], seed: int) -> None:
    for kind in KINDS:
        (part / kind).mkdir(parents=True)
    started = reported = time.monotonic()
    _log(f'Drawing {num_images} {split} street scenes of {size[0]}x{size[1]}')
    for index in range(num_images):
        scene = draw_scene(*size, seed, SPLITS.index(split), index)
        for kind, pixels in zip(KINDS, scene, strict=True):
            Image.fromarray(pixels).save(part / kind / f'{index:04d}.png', compress_level=1)
        if time.monotonic() - reported > 5:
            reported = time.monotonic()
            _log(f'Drawing street scenes: {index + 1} of {num_images}')
    _log(f'Drew {num_images} street scenes in {time.monotonic() - started:.1f} s')


def _write_record(path: Path, content: dict) -> None:
    part = path.with_suffix('.json.part')
    part.write_text(json.dumps(content))
    part.replace(path)


def _log(message: str) -> None:
    print_log(message, logger='current')
