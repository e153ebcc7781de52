"""Every config parses, builds, dumps and reloads, and its schedule fits its run."""

import re
from pathlib import Path

import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from PIL import Image

import bfcn_mm
from bfcn_mm.convert import QuantSpec

CONFIGS = Path(__file__).parents[1] / 'configs'
PATHS = sorted(CONFIGS.glob('*.py'))
OURS = [path for path in PATHS if path.stem.startswith('bfcn_')]
BITS = {
    'fp32': None,
    '8bit': (8, 8),
    '4bit': (4, 4),
    '2bit': (2, 2),
    '1w2a': (1, 2),
    '1w1a': (1, 1),
}
DATA = ['camvid', 'camvid_half', 'cityscapes', 'streets', 'voc12_aug']
RATIOS = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
CLASSES = dict(voc=21, cityscapes=19, camvid=11)


def named(path: Path) -> str:
    return path.stem


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


@pytest.mark.parametrize('path', PATHS, ids=named)
def test_dumps_and_reloads_to_the_same_config(path, tmp_path):
    config = Config.fromfile(path)
    config.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == config.to_dict()


@pytest.mark.parametrize('path', PATHS, ids=named)
def test_schedule_leaves_the_last_stage_a_fair_share(path):
    config = Config.fromfile(path)
    spec = quant_spec(config)
    if spec is None or spec.decay is None:
        return
    caps = spec.caps()
    last = spec.decay.begins(len(caps))[-1]
    assert config.train_cfg.max_iters - last >= config.train_cfg.max_iters / 4


@pytest.mark.parametrize('path', [p for p in OURS if 'demo' not in p.stem], ids=named)
def test_name_says_network_data_and_bits(path):
    found = re.fullmatch(r'bfcn_r(50|18)_(voc|cityscapes|camvid)_([a-z0-9]+)(_\w+)?', path.stem)
    assert found, path.stem
    depth, data, bits, _ = found.groups()
    config = Config.fromfile(path)
    spec = quant_spec(config)
    assert config.model.backbone.depth == int(depth)
    assert config.model.decode_head.num_classes == CLASSES[data]
    assert (None if spec is None else (spec.w, spec.a)) == BITS[bits]


@pytest.mark.parametrize('path', OURS, ids=named)
def test_the_image_size_of_the_model_is_the_crop(path):
    config = Config.fromfile(path)
    assert tuple(config.model.data_preprocessor.size) == tuple(config.crop_size)
    assert config.model.test_cfg.mode == 'whole'


@pytest.mark.parametrize('path', PATHS, ids=named)
def test_has_what_test_time_augmentation_needs(path):
    config = Config.fromfile(path)
    assert config.tta_model.type == 'SegTTAModel'
    assert config.tta_pipeline[-1].type == 'TestTimeAug'


@pytest.mark.parametrize('data', DATA)
def test_time_augmentation_makes_six_sizes_and_their_mirror_images(data, tmp_path):
    config = Config.fromfile(CONFIGS / f'_base_/datasets/{data}.py')
    height, width = 120, 160
    Image.new('RGB', (width, height)).save(tmp_path / 'a.png')
    Image.new('L', (width, height)).save(tmp_path / 'b.png')
    sample = dict(
        img_path=str(tmp_path / 'a.png'),
        seg_map_path=str(tmp_path / 'b.png'),
        reduce_zero_label=False,
        label_map=None,
        seg_fields=[],
    )
    made = Compose(config.tta_pipeline)(sample)
    base = (180, 240) if data == 'camvid_half' else (height, width)
    expected = [tuple(round(r * side) for side in base) for r in config.get('img_ratios', RATIOS)]
    assert [tuple(x.shape[1:]) for x in made['inputs'][::2]] == expected
    assert [s.flip for s in made['data_samples']] == [False, True] * len(expected)
    assert {s.gt_sem_seg.data.shape for s in made['data_samples']} == {(1, height, width)}


@pytest.mark.parametrize('path', OURS, ids=named)
def test_classes_are_those_of_the_data_set(path):
    config = Config.fromfile(path)
    dataset = config.train_dataloader.dataset
    dataset = dataset.datasets[0] if 'datasets' in dataset else dataset
    names = DATASETS.get(dataset.type).METAINFO['classes']
    assert config.model.decode_head.num_classes == len(names)


@pytest.mark.parametrize('path', OURS, ids=named)
def test_builds(path):
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    spec = quant_spec(config)
    widths = {q.target for _, q in bfcn_mm.convert.quantizers(model)}
    if spec is None:
        assert not widths
    else:
        assert {spec.w, spec.a} <= widths <= {spec.w, spec.a, spec.first.w, spec.first.a}


def quant_spec(config: Config) -> QuantSpec | None:
    return QuantSpec.parse(config.model.quant) if 'quant' in config.model else None
