"""Weights and multiply-adds of the base models; docs/head.md quotes them.

`python tests/models/test_table2.py` prints the table of docs/head.md.
"""

from pathlib import Path

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import bfcn_mm.models  # noqa: F401

ROOT = Path(__file__).parents[2]
BLOCKS = ('conv', 'wide', 'residual')


def build(name: str, **head_options) -> nn.Module:
    init_default_scope('mmseg')
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/bfcn_{name}.py')
    cfg.model.decode_head.update(head_options)
    return MODELS.build(cfg.model).eval()


def count_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


def count_macs(model: nn.Module, module: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of the convolutions inside `module` for one image."""
    macs = []

    def add(conv: nn.Conv2d, _: tuple, out: torch.Tensor) -> None:
        macs.append(conv.weight.numel() * out.shape[2] * out.shape[3])

    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    handles = [conv.register_forward_hook(add) for conv in convs]
    with torch.no_grad():
        model.decode_head(model.extract_feat(torch.zeros(1, 3, height, width, device='meta')))
    for handle in handles:
        handle.remove()
    return sum(macs)


def table() -> list[str]:
    rows = []
    base = None
    for block in BLOCKS:
        with torch.device('meta'):  # shapes are all that is counted
            model = build('r50', block=block)
        macs = count_macs(model, model.decode_head, 160, 256)
        base = base or macs
        rows.append(
            f'| `{block}` | {count_weights(model.decode_head) / 1e6:.2f} M '
            f'| {count_weights(model) / 1e6:.2f} M | {macs / 1e9:.2f} G | {macs / base:.2f} '
            f'| {count_macs(model, model, 160, 256) / 1e9:.2f} G |'
        )
    return rows


def test_documented_table_is_the_counted_one():
    text = (ROOT / 'docs/head.md').read_text()
    for row in table():
        assert row in text


def test_cityscapes_model_has_the_weights_of_the_paper():
    model = build('r50')
    assert count_weights(model) == 34_383_360
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(34.4e6, rel=0.01)
    megabytes = sum(p.numel() for p in model.parameters()) * 4 / 1e6
    assert megabytes == pytest.approx(137.7, rel=0.01)


@pytest.mark.parametrize('name', ['r18', 'tiny'])
def test_smaller_models_train_a_step(name):
    torch.manual_seed(0)
    model = build(name).train()
    logits = model.decode_head(model.extract_feat(torch.randn(2, 3, 64, 96)))
    assert logits.shape == (2, model.decode_head.num_classes, 16, 24)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


if __name__ == '__main__':
    print('\n'.join(table()))
