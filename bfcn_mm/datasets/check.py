"""Is the data where the config says, and do its labels fit the model? Asked before training."""

import functools
import inspect
import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, HOOKS

from .label_counts import LabelFile, count_files, effective_counts, label_files, leaf_datasets

HINTS = {
    'PascalVOCDataset': (
        'put VOC 2012 there (JPEGImages, SegmentationClass, ImageSets/Segmentation), and for the '
        "10582 images SBD's SegmentationClassAug and ImageSets/Segmentation/aug.txt"
    ),
    'CityscapesDataset': (
        'put leftImg8bit/{train,val} and gtFine/{train,val} of Cityscapes there, with the '
        '*_gtFine_labelTrainIds.png that cityscapesscripts makes'
    ),
    'CamVidDataset': 'put CamVid there: images/{train,val}/*.jpg and annotations/{train,val}/*.png',
}
OWN_HINT = "put the files there, or correct data_root and data_prefix in the config's dataset"


def check_data(cfg: Mapping, splits: Sequence[str] = ('train', 'val')) -> None:
    """Raise FileNotFoundError, in one line, for the first missing path of the config's datasets.

    `splits` names the dataloaders to look at: 'train', 'val', 'test'. Nothing is built.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            for dataset in _leaf_configs(loader['dataset']):
                check_folders(dataset, split)


def check_folders(dataset: Mapping, split: str) -> None:
    """Raise FileNotFoundError if a path that the dataset's config names does not exist."""
    if dataset.get('backend_args') or dataset.get('type') == 'StreetsDataset':
        return
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    names = [prefix.get('img_path'), prefix.get('seg_map_path'), dataset.get('ann_file')]
    for path in [root, *(os.path.join(root, name) for name in names if name)]:
        if path and not os.path.exists(path):
            name = str(dataset.get('type'))
            raise FileNotFoundError(
                f'{path}: the {split} data of {name} is missing: {HINTS.get(name, OWN_HINT)} '
                f'(data_root={root!r}; see docs/data.md)'
            )
    _check_first_listed(dataset, root, split)


def _check_first_listed(dataset: Mapping, root: str, split: str) -> None:
    """Raise FileNotFoundError if the first image that an ann_file lists is not there."""
    listed = os.path.join(root, dataset.get('ann_file') or '')
    suffix = _img_suffix(dataset)
    if suffix is None or not os.path.isfile(listed):
        return
    with open(listed) as file:
        name = file.readline().strip()
    image = os.path.join(root, (dataset.get('data_prefix') or {}).get('img_path') or '', name)
    if name and not os.path.exists(image + suffix):
        raise FileNotFoundError(
            f'{image}{suffix}: the first image that {listed} lists for the {split} data is missing: '
            f'correct img_suffix={suffix!r} or data_prefix.img_path in the config'
        )


def _img_suffix(dataset: Mapping) -> str | None:
    """img_suffix of a config's dataset, or its class's default; None where images have none."""
    if 'img_suffix' in dataset:
        return dataset['img_suffix']
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else None
    if kind is None or not issubclass(kind, BaseSegDataset):
        return None
    parameter = inspect.signature(kind.__init__).parameters.get('img_suffix')
    return '.jpg' if parameter is None else parameter.default


def _leaf_configs(dataset: Mapping) -> Iterable[Mapping]:
    if 'datasets' in dataset:
        for child in dataset['datasets']:
            yield from _leaf_configs(child)
    elif 'dataset' in dataset:
        yield from _leaf_configs(dataset['dataset'])
    else:
        yield dataset


def install() -> None:
    """Let every dataset that finds no image say so when it is built. Calling it again changes nothing.

    mmengine stops in numpy ("need at least one array to concatenate"), or, with serialize_data=False and
    an infinite sampler, waits for ever.
    """
    if hasattr(BaseDataset.full_init, '__wrapped__'):
        return
    full_init, serialize = BaseDataset.full_init, BaseDataset._serialize_data

    @functools.wraps(full_init)
    def checked_init(self: BaseDataset) -> None:
        full_init(self)
        if not len(self):
            raise FileNotFoundError(_why_empty(self))

    @functools.wraps(serialize)
    def checked_serialize(self: BaseDataset) -> tuple[np.ndarray, np.ndarray]:
        if not self.data_list:
            raise FileNotFoundError(_why_empty(self))
        return serialize(self)

    BaseDataset.full_init, BaseDataset._serialize_data = checked_init, checked_serialize


def _why_empty(dataset: BaseDataset) -> str:
    """The line for a dataset without a single image: the folder, the suffix, and what is there."""
    name, suffix = type(dataset).__name__, getattr(dataset, 'img_suffix', None)
    if dataset.ann_file and os.path.isfile(dataset.ann_file):
        return f'{dataset.ann_file}: {name} finds no image listed there, correct ann_file'
    folder = (dataset.data_prefix or {}).get('img_path')
    if not folder or suffix is None:
        return f'{name}: the data set is empty, correct ann_file and data_prefix in the config'
    found = next((n for _, _, names in os.walk(folder) for n in sorted(names)), None)
    there = 'it holds no file' if found is None else f'it holds files such as {found}'
    return (
        f'{folder}: {name} finds no image that ends with {suffix!r} (img_suffix), {there}: correct '
        'img_suffix or data_prefix.img_path in the config'
    )


def check_range(
    counts: np.ndarray, files: Sequence[LabelFile], num_classes: int, ignore_index: int
) -> None:
    """Raise ValueError for the first file with a label that is neither a class nor ignored.

    counts: effective pixel counts, (len(files), 256).
    """
    allowed = np.zeros(256, dtype=bool)
    allowed[:num_classes] = True
    if 0 <= ignore_index < 256:
        allowed[ignore_index] = True
    bad_files, bad_values = np.nonzero(counts * ~allowed)
    if len(bad_files):
        file, value = files[bad_files[0]], int(bad_values[0])
        after = ' after reduce_zero_label' if file.reduce_zero_label else ''
        raise ValueError(
            f'{file.path}: label {value}{after} ({counts[bad_files[0], value]} pixels) must be '
            f'in 0..{num_classes - 1} or the ignored {ignore_index}: correct the file, the '
            'classes, or reduce_zero_label'
        )


def empty_classes(counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The classes without a pixel. counts: effective pixel counts, (n, 256)."""
    totals = counts.sum(axis=0)
    return [name for index, name in enumerate(classes) if not totals[index]]


def empty_class_message(names: Sequence[str], num_files: int, way_out: str) -> str:
    """The line for classes that no training pixel has, and how to go on."""
    listed = ', '.join(repr(name) for name in names)
    return (
        f'class {listed}: no pixel in the {num_files} training label files, every class must '
        f'have one: add images, drop the class from metainfo.classes, or {way_out}'
    )


def dataset_counts(dataset: object, max_files: int | None = None) -> tuple[np.ndarray, list]:
    """Effective pixel counts (n, 256) of a dataset and its n label files.

    With more than `max_files`, that many are read, evenly spread.
    """
    files = label_files(dataset)
    if max_files and len(files) > max_files:
        files = [files[i * len(files) // max_files] for i in range(max_files)]
    root = getattr(next(iter(leaf_datasets(dataset))), 'data_root', None)
    raw = count_files([file.path for file in files], root, log=_log)
    return effective_counts(raw, files), files


def class_names(dataset: object) -> tuple[str, ...]:
    """The dataset's class names; ValueError where metainfo has none."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:
        raise ValueError(
            f'{type(dataset).__name__}: metainfo.classes must name the classes, got {classes!r}: '
            'add metainfo=dict(classes=(...)) to the dataset'
        )
    return tuple(classes)


@HOOKS.register_module()
class DatasetCheckHook(Hook):
    """Stop before the first iteration if labels do not fit the classes or a class is empty.

    Args:
        empty_class: 'error' or 'warn', for a class that no training pixel has.
        max_files: at most this many label files of each set are read, evenly spread; a class is
            called empty only when all were read.
    """

    priority = 'VERY_HIGH'

    def __init__(self, empty_class: str = 'error', max_files: int = 12000) -> None:
        if empty_class not in ('error', 'warn'):
            raise ValueError(f"empty_class must be 'error' or 'warn', got {empty_class!r}")
        if max_files < 1:
            raise ValueError(f'max_files must be at least 1, got {max_files!r}')
        self.empty_class = empty_class
        self.max_files = max_files

    def before_train(self, runner: Runner) -> None:
        """Check the training set, then the validation set."""
        dataset = runner.train_dataloader.dataset
        if not all(isinstance(leaf, BaseDataset) for leaf in leaf_datasets(dataset)):
            _log(f'DatasetCheckHook: {type(dataset).__name__} is no mmengine dataset, not checked')
            return
        self._check_head(runner, class_names(dataset))
        self._check_train(dataset)
        if runner.val_loop is not None:
            self._check_labels(runner.val_dataloader.dataset)

    def _check_train(self, dataset: object) -> None:
        counts, files = self._check_labels(dataset)
        missing = empty_classes(counts, class_names(dataset))
        if not missing or len(files) < len(label_files(dataset)):
            return
        message = empty_class_message(
            missing, len(files), "set default_hooks.dataset_check.empty_class='warn'"
        )
        if self.empty_class == 'error':
            raise ValueError(message)
        _log(message, logging.WARNING)

    def _check_labels(self, dataset: object) -> tuple[np.ndarray, list]:
        counts, files = dataset_counts(dataset, self.max_files)
        ignore_index = getattr(next(iter(leaf_datasets(dataset))), 'ignore_index', 255)
        check_range(counts, files, len(class_names(dataset)), ignore_index)
        return counts, files

    @staticmethod
    def _check_head(runner: Runner, classes: Sequence[str]) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        num_classes = getattr(getattr(model, 'decode_head', None), 'num_classes', len(classes))
        if num_classes != len(classes):
            raise ValueError(
                f'model.decode_head.num_classes must be {len(classes)}, the classes of the '
                f'training set, got {num_classes}'
            )


def _log(message: str, level: int = logging.INFO) -> None:
    print_log(message, logger='current', level=level)
