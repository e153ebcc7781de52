"""The size that the paper's network is promised to have."""

import mmseg.datasets  # noqa: F401 - registers
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, MODELS

from bfcn_kernels import read, write
from bfcn_mm.export import pack
from bfcn_mm.quantizers import ActivationQuantizer


@pytest.mark.slow
def test_cityscapes_resnet50_1w2a_takes_at_most_4_6_mb(pytestconfig, tmp_path):
    config = Config.fromfile(pytestconfig.rootpath / 'configs/bfcn_r50_cityscapes_1w2a.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = MODELS.build(config.model).eval()
        meta = DATASETS.get('CityscapesDataset').METAINFO
    for module in segmentor.modules():
        if isinstance(module, ActivationQuantizer):
            module._set(module.target, True)  # any grid: the size does not depend on it
    packed = pack(segmentor, meta['classes'], meta['palette'], config.pretty_text)
    path = tmp_path / 'net.gguf'
    write(path, packed.model)
    assert 34.0e6 / 8 < path.stat().st_size <= 4.6e6
    model = read(path)
    assert len(model.metadata.classes) == 19
    binary = [t for op in model.graph.ops for t in getattr(op, 'terms', ()) if t.bits == 1]
    assert sum(term.weight.size for term in binary) > 34e6
