"""Models side by side: class-wise IoU, pictures and training curves. `bfcn compare` is the command."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from PIL import Image

from ..datasets import check_data
from . import class_iou  # noqa: F401 - registers ClassIoUMetric
from .plots import colour_map, plot_classes, plot_curves, plot_pictures
from .report import format_table, read_curve, write_csv


@dataclass(frozen=True)
class Model:
    """What to test, and the folder that may hold the curves of its training."""

    label: str
    config: Path
    checkpoint: str
    folder: Path


@dataclass
class Result:
    """iou: percent, (classes,), nan for a class that does not occur; pictures: image, truth and
    prediction of each chosen image, RGB uint8 (H, W, 3)."""

    classes: tuple[str, ...]
    palette: list
    files: list[str]
    iou: np.ndarray
    accuracy: float
    pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def compare(args: argparse.Namespace) -> None:
    """Test every model, then write tables and pictures; args: of the command."""
    models = [parse_model(text) for text in args.models]
    labels = [model.label for model in models]
    if len(set(labels)) < len(labels):
        raise ValueError(f'labels must differ, got {", ".join(labels)}: add :LABEL to a model')
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for model in models:
        print(f'Testing {model.label}: {model.config.name}, {model.checkpoint}', flush=True)
        with said_to(args.out / 'compare.log'):
            results[model.label] = test(model, args)
        check_same_data(results)
    write_table(args.out, results)
    if args.pictures:
        draw_pictures(args.out / 'pictures.png', results)
    curves = {model.label: read_curve(model.folder) for model in models}
    curves = {label: curve for label, curve in curves.items() if curve}
    if curves:
        plot_curves(args.out / 'curves.png', curves)
    else:
        print('No curves: no model lies in a work directory with */vis_data/scalars.json')
    print(
        f'Written to {args.out}: {", ".join(sorted(p.name for p in args.out.glob("*.[cp][sn][vg]")))}'
    )


def parse_model(text: str) -> Model:
    """The model that a command-line argument names; ValueError or FileNotFoundError if there is none."""
    first, _, rest = text.partition(':')
    if not first.endswith('.py'):
        return find_model(Path(first), rest)
    match = re.fullmatch(r'(.+?\.pth)(?::([^:/]+))?', rest)
    if match is None:
        raise ValueError(
            f'a model must be WORK_DIR[:LABEL] or CONFIG.py:CHECKPOINT.pth[:LABEL], got {text!r}'
        )
    checkpoint, label = match.groups()
    remote = '://' in checkpoint
    for path in [first] if remote else [first, checkpoint]:
        if not Path(path).is_file():
            raise FileNotFoundError(f'{path}: no such file, named in {text!r}')
    return Model(label or Path(first).stem, Path(first), checkpoint, Path(checkpoint).parent)


def find_model(folder: Path, label: str) -> Model:
    """The config that a run left in its work directory, with its best checkpoint or else its last."""
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such work directory (nor a config that ends in .py)')
    configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f'{folder}: holds no config: give the work_dir of a training run')
    found = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    record = folder / 'last_checkpoint'
    if not found and record.is_file():
        found = [folder / Path(record.read_text().strip()).name]
    if not found or not found[-1].is_file():
        raise FileNotFoundError(
            f'{folder}: holds no best_*.pth and no last checkpoint: train further, or name one as '
            f'{configs[-1]}:CHECKPOINT.pth'
        )
    return Model(label or folder.resolve().name, configs[-1], str(found[-1]), folder)


@contextlib.contextmanager
def said_to(path: Path) -> Iterator[None]:
    """What is printed meanwhile, mmengine's log for one, is appended to a file instead."""
    with path.open('a') as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


def test(model: Model, args: argparse.Namespace) -> Result:
    """Run mmseg's own evaluation of one model, then keep some of its pictures."""
    cfg = Config.fromfile(model.config)
    cfg.merge_from_dict(args.cfg_options)
    if cfg.get('test_evaluator', {}).get('type') != 'IoUMetric':
        raise ValueError(f'{model.config}: test_evaluator must be one dict(type="IoUMetric", ...)')
    check_data(cfg, ['test'])
    cfg.merge_from_dict(
        dict(
            test_evaluator=dict(type='ClassIoUMetric', iou_metrics=['mIoU']),
            load_from=model.checkpoint,
            resume=False,
            launcher='none',
            work_dir=str(args.out / 'logs' / model.label),
            experiment_name=f'compare {args.out} {model.label}',
        )
    )
    runner = Runner.from_cfg(cfg)
    accuracy = runner.test()['aAcc']
    dataset = runner.test_dataloader.dataset
    return Result(
        classes=tuple(dataset.metainfo['classes']),
        palette=dataset.metainfo['palette'],
        files=[dataset.get_data_info(i)['img_path'] for i in range(len(dataset))],
        iou=runner.test_evaluator.metrics[0].class_iou,
        accuracy=accuracy,
        pictures=[show(runner, i) for i in spread(len(dataset), args.pictures)],
    )


def spread(length: int, count: int) -> list[int]:
    """`count` indices evenly spread over range(length); all of them if there are fewer."""
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


@torch.no_grad()
def show(runner: Runner, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dataset = runner.test_dataloader.dataset
    palette = dataset.metainfo['palette']
    data = dataset[index]
    sample = runner.model.test_step(pseudo_collate([data]))[0]
    truth = data['data_samples'].gt_sem_seg.data[0].numpy()
    predicted = sample.pred_sem_seg.data[0].cpu().numpy()
    image = np.asarray(Image.open(data['data_samples'].img_path).convert('RGB'))
    return image, colour_map(truth, palette), colour_map(predicted, palette)


def check_same_data(results: dict[str, Result]) -> None:
    """Raise ValueError if the latest model was tested on other classes or images than the first."""
    models = list(results.items())
    (label, first), (other, last) = models[0], models[-1]
    if last.classes != first.classes:
        raise ValueError(
            f'{other} has the classes {", ".join(last.classes)}, {label} has {", ".join(first.classes)}: '
            'models can be compared on the same classes only'
        )
    if [Path(f).name for f in last.files] != [Path(f).name for f in first.files]:
        raise ValueError(
            f'{other} was tested on {len(last.files)} images, {label} on {len(first.files)} others: '
            'give all models one test set, by --cfg-options test_dataloader...'
        )


def write_table(out: Path, results: dict[str, Result]) -> None:
    """classes.csv, classes.png, and the table on the screen."""
    labels, ious = list(results), [result.iou for result in results.values()]
    first = next(iter(results.values()))
    header = ['class', *labels, *(f'{label} - {labels[0]}' for label in labels[1:])]
    names = [*first.classes, 'mean']
    columns = [np.append(iou, np.nanmean(iou)) for iou in ious]
    columns += [column - columns[0] for column in columns[1:]]
    rows = [[name, *(f'{c[i]:.2f}' for c in columns)] for i, name in enumerate(names)]
    accuracy = [f'{result.accuracy:.2f}' for result in results.values()]
    changes = [f'{float(a) - float(accuracy[0]):.2f}' for a in accuracy[1:]]
    rows.append(['pixel accuracy', *accuracy, *changes])
    write_csv(out / 'classes.csv', header, rows)
    signed = [
        [*row[: len(labels) + 1], *(f'{float(c):+.2f}' for c in row[len(labels) + 1 :])]
        for row in rows
    ]
    print(f'IoU in percent, on {len(first.files)} images\n{format_table(header, signed)}')
    plot_classes(
        out / 'classes.png', first.classes, dict(zip(labels, ious, strict=True)), first.palette
    )


def draw_pictures(path: Path, results: dict[str, Result]) -> None:
    """Image, truth and the prediction of each model, one row an image."""
    first = next(iter(results.values()))
    by_image = zip(*(result.pictures for result in results.values()), strict=True)
    rows: list[Sequence[np.ndarray]] = [
        [shown[0][0], shown[0][1], *(s[2] for s in shown)] for shown in by_image
    ]
    plot_pictures(path, ['image', 'truth', *results], rows, first.classes, first.palette)
