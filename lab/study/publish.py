"""A finished run becomes a model of the zoo: config, log, packed file, and OpenMMLab's metafile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml
from mmengine.config import Config

from bfcn_kernels import read, write
from bfcn_mm.export.train_config import to_json

from .carry_out import Job
from .ledger import DONE, Ledger, Row
from .runs import model_name

PAPER = dict(
    Title='Training Bit Fully Convolutional Network for Fast Semantic Segmentation',
    URL='https://arxiv.org/abs/1612.00212',
)
LARGEST = 5_000_000  # bytes of a packed file
ALL = 25_000_000  # bytes of all packed files together
_OWN = ('work_dir', 'load_from', 'resume', 'launcher')  # of one machine and one run


def publish(job: Job, ledger: Ledger, root: Path, zoo: Path) -> str:
    """Copy a measured run into zoo/NAME and name it in model-index.yml; what was done, in one line.

    Raises ValueError for a run without a packed model, without a row, or of the scale 'tiny', and for
    one that is too large; FileNotFoundError if its work directory has gone.
    """
    row = _row(job, ledger)
    if not job.packed.is_file():
        raise FileNotFoundError(f'{job.packed}: no such file: the work directory of {job.label}')
    name = model_name(job.run, job.folder.parent.name)
    size = job.packed.stat().st_size
    others = [path for path in zoo.glob('*/model.gguf') if path.parent.name != name]
    total = size + sum(path.stat().st_size for path in others)
    if size > LARGEST or total > ALL:
        raise ValueError(
            f'{name} has {size:,} bytes, the zoo would have {total:,}: at most {LARGEST:,} a model '
            f'and {ALL:,} in all'
        )
    folder = zoo / name
    folder.mkdir(parents=True, exist_ok=True)
    write_config(job, folder / 'config.py')
    write_log(job, folder / 'train.log')
    size = write_model(
        job, name, to_json(Config.fromfile(folder / 'config.py')), folder / 'model.gguf'
    )
    meta = metafile(name, job, row, size, zoo.name)
    (folder / 'metafile.yml').write_text(yaml.safe_dump(meta, sort_keys=False, width=100))
    write_index(zoo)
    return f'{folder}: {size:,} bytes, mIoU {row.miou_packed:.2f} (seed {row.seed})'


def write_config(job: Job, path: Path) -> None:
    """What it was trained with, without paths of the machine that did: reads data/camvid as others do."""
    cfg = Config.fromfile(job.folder / 'run.py')
    for key in _OWN:
        cfg._cfg_dict.pop(key, None)
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = 'data/camvid'
    if cfg.model.quant.get('distill'):
        cfg.merge_from_dict({'quant': dict(distill=dict(teacher=f'{job.run.teacher}.pth'))})
    cfg.dump(path)


def write_model(job: Job, name: str, config: str, path: Path) -> int:
    """The packed model with this name and config in it; returns its bytes."""
    model = read(job.packed)
    write(path, replace(model, metadata=replace(model.metadata, name=name, train_config=config)))
    return path.stat().st_size


def write_log(job: Job, path: Path) -> None:
    """mmengine's logs of the run, one after another, paths of the machine taken out."""
    logs = sorted(job.folder.glob('*/*.log'))
    text = '\n'.join(log.read_text(errors='replace') for log in logs)
    for folder in (job.folder, job.folder.parents[2], Path.home()):
        text = text.replace(str(folder), '.')
    lines = [line for line in text.splitlines() if 'Iter(' in line or 'decay, stage' in line]
    path.write_text('\n'.join(lines) + '\n')


def metafile(name: str, job: Job, row: Row, size: int, zoo: str) -> dict:
    """In OpenMMLab's model-index form."""
    place = f'{zoo}/{name}'
    return dict(
        Collections=[
            dict(
                Name='BFCN',
                License='Apache License 2.0',
                Metadata={'Training Data': ['CamVid']},
                Paper=PAPER,
                README='docs/study.md',
                Frameworks=['PyTorch'],
            )
        ],
        Models=[
            {
                'Name': name,
                'In Collection': 'BFCN',
                'Config': f'{place}/config.py',
                'Metadata': {
                    'Training Data': 'CamVid',
                    'Training Resources': row.device,
                    'Iterations': row.total_iters,
                    'Weight Bits': row.w,
                    'Activation Bits': row.a,
                    'Bytes': size,
                    'Run': f'{row.run}, seed {row.seed}, scale {row.scale}, config {row.hash}',
                    'Commit': row.commit,
                },
                'Results': [
                    {
                        'Task': 'Semantic Segmentation',
                        'Dataset': 'CamVid',
                        'Metrics': {'mIoU': round(row.miou_packed, 4)},
                    }
                ],
                'Weights': f'{place}/model.gguf',
                'Training Log': f'{place}/train.log',
            }
        ],
    )


def write_index(zoo: Path) -> None:
    """model-index.yml beside the zoo, with every model that lies in it."""
    metas = sorted(path.relative_to(zoo.parent).as_posix() for path in zoo.glob('*/metafile.yml'))
    (zoo.parent / 'model-index.yml').write_text(yaml.safe_dump(dict(Import=metas)))


def _row(job: Job, ledger: Ledger) -> Row:
    if job.packed is None:
        raise ValueError(f'{job.run.name} is a float network: the zoo holds packed models')
    key = (job.run.name, job.seed, job.folder.parent.name, job.hash)
    row = next((row for row in ledger.read() if row.key == key and row.status == DONE), None)
    if row is None:
        raise ValueError(
            f'{job.label} has no row in {ledger.path} at this scale and config: train it first'
        )
    if row.scale == 'tiny':
        raise ValueError("runs of the scale 'tiny' have learned nothing: the zoo takes none")
    return row
