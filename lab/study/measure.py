"""Measure a trained network and its packed file: CONFIG CHECKPOINT --out RESULT.json [--packed X.gguf].

A process of its own, so that nothing of one network lives on in the next.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS

from bfcn_kernels import write
from bfcn_mm.analysis import class_iou  # noqa: F401 - registers ClassIoUMetric
from bfcn_mm.analysis.complexity import complexity
from bfcn_mm.export.checkpoint import load_segmentor, pack_checkpoint

FLOAT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--packed', type=Path, help='pack the network into this file, test that too'
    )
    args = parser.parse_args()
    result = measure(args.config, args.checkpoint, args.packed)
    args.out.write_text(json.dumps(result, indent=1))


def measure(config: Path, checkpoint: Path, packed: Path | None) -> dict:
    """What a Row holds of a network. With `packed`, the file is written and tested too."""
    result, iou = evaluate(Config.fromfile(config), str(checkpoint))
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    image = DATASETS.build(cfg.test_dataloader.dataset)[0]['inputs']
    segmentor, _ = load_segmentor(cfg, checkpoint)
    spec = getattr(segmentor, 'quant_spec', None)
    cost = complexity(segmentor, tuple(image.shape[1:]))
    result |= dict(
        iou=iou,
        w=spec.w if spec else FLOAT,
        a=spec.a if spec else FLOAT,
        macs=cost.macs,
        bitops=cost.bitops,
        float_macs=cost.float_macs,
        head_macs=sum(la.macs for la in cost.layers if la.name.startswith('decode_head')),
        bytes=cost.float32_bytes,
    )
    if packed is not None:
        write(packed, pack_checkpoint(cfg, checkpoint)[0].model)
        result['bytes'] = packed.stat().st_size
        result['miou_packed'] = evaluate(Config.fromfile(config), str(packed))[0]['miou']
    return result


def evaluate(cfg: Config, weights: str) -> tuple[dict, dict[str, float]]:
    """({miou, accuracy}, IoU by class) in percent, by mmseg's test loop on the config's test set.

    weights: a checkpoint or a packed file. A class without a pixel is left out.
    """
    changes = dict(
        test_evaluator=dict(type='ClassIoUMetric', iou_metrics=['mIoU']),
        load_from=weights,
        resume=False,
        launcher='none',
        work_dir=str(Path(weights).parent / 'measured'),
        experiment_name=f'measure {weights}',
    )
    if weights.endswith('.gguf'):
        model = dict(_delete_=True, type='PackedSegmentor', file=weights, engine='cpu')
        changes |= dict(quant=None, model=model)
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    names = runner.test_dataloader.dataset.metainfo['classes']
    values = runner.test_evaluator.metrics[0].class_iou
    by_class = {n: float(v) for n, v in zip(names, values, strict=True) if not np.isnan(v)}
    miou = statistics.fmean(by_class.values())
    return dict(miou=miou, accuracy=float(metrics['aAcc'])), by_class


if __name__ == '__main__':
    main()
