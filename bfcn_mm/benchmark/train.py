"""`benchmark.py train`: the training step of a quantized network over that of its float one."""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import bfcn_mm
from bfcn_mm.export.train_config import without_init

from . import report


def run(args: argparse.Namespace) -> None:
    """Time whole steps (forward, backward, SGD), one of each network in turn, in random order.

    The ratio is the median over the turns, so that noise of the machine, which hits both of a turn,
    cancels. Every loss is checked to be finite.
    """
    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    steps = {kind: make_step(args, kind) for kind in ('float', 'quantized')}
    order = random.Random(args.seed)
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for turn in range(args.steps + 2):
        for kind in order.sample(list(steps), 2):
            elapsed = timed(steps[kind], args.device)
            if turn >= 2:  # the first place grids and fill caches
                seconds[kind].append(elapsed)
    ratios = [q / f for q, f in zip(seconds['quantized'], seconds['float'], strict=True)]
    result = dict(config=Path(args.config).stem, size='x'.join(map(str, args.size)))
    result |= dict(batch=args.batch, steps=args.steps)
    for kind, values in seconds.items():
        result |= spread(f'{kind}_ms', [1e3 * value for value in values])
    result |= spread('ratio', ratios) | environment(args)
    print('\n'.join(f'{name:<20}{value}' for name, value in result.items()))
    if args.csv is not None:
        report.append(args.csv, [result], list(result))


def make_step(args: argparse.Namespace, kind: str) -> Callable[[], None]:
    """A training step of the config's network, as it is or with quantization taken out."""
    config = Config.fromfile(args.config)
    if 'quant' not in config.model:
        sys.exit(f'{args.config} has no quant: there is nothing to compare')
    if kind == 'float':
        config.quant = None
    without_init(config.model)
    init_default_scope(config.get('default_scope', 'mmseg'))
    MMLogger.get_instance('benchmark', log_level='ERROR')
    torch.manual_seed(args.seed)
    model = revert_sync_batchnorm(MODELS.build(config.model)).to(args.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, samples = batch(args, model.decode_head.num_classes)

    def step() -> None:
        loss = model.parse_losses(model(images, samples, mode='loss'))[0]
        if not torch.isfinite(loss):
            sys.exit(f'{kind}: the loss is {float(loss)}, so its time means nothing')
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def batch(args: argparse.Namespace, classes: int) -> tuple[torch.Tensor, list[SegDataSample]]:
    generator = torch.Generator().manual_seed(args.seed)
    images = torch.randn(args.batch, 3, *args.size, generator=generator).to(args.device)
    labels = torch.randint(classes, (args.batch, 1, *args.size), generator=generator)
    labels = labels.to(args.device)
    return images, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def timed(step: Callable[[], None], device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith('cuda') else lambda: None
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def spread(name: str, values: list[float]) -> dict[str, str]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {name: f'{middle:.4g}', f'{name}_q1': f'{low:.4g}', f'{name}_q3': f'{high:.4g}'}


def environment(args: argparse.Namespace) -> dict[str, object]:
    on_gpu = args.device.startswith('cuda')
    return dict(
        device=torch.cuda.get_device_name(args.device) if on_gpu else report.cpu_name(),
        threads=args.threads,
        torch=torch.__version__,
        bfcn_mm=bfcn_mm.__version__,
        python=platform.python_version(),
    )
