"""tools/compare.py on two tiny trained models, and its plots and tables on known numbers."""

import csv
import json
import logging

import numpy as np
import pytest
from helpers import tiny_config, write_config
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import bfcn_mm  # noqa: F401
from bfcn_mm.analysis import comparison as compare
from bfcn_mm.analysis.plots import colour_map
from bfcn_mm.analysis.report import format_table, read_curve, smooth
from bfcn_mm.cli.compare import main

ITERS = 4


@pytest.fixture(autouse=True, scope='module')
def quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Holds the work directories of two runs: `full`, and `bits` from 2 to 1-2 bit."""
    folder = tmp_path_factory.mktemp('runs')
    decay = dict(stages=[2, 1], every=2)
    for name, quant in (('full', None), ('bits', dict(w=1, a=2, calibrate=1, decay=decay))):
        config = tiny_config(folder, ITERS, quant=quant, work_dir=str(folder / name))
        Runner.from_cfg(Config.fromfile(write_config(folder / f'{name}.py', config))).train()
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """A function (*arguments) that runs the tool and returns its output folder."""

    def run(*arguments):
        main([*map(str, arguments), '--out', str(tmp_path / 'out')])
        return tmp_path / 'out'

    return run


def rows_of(path):
    with path.open() as file:
        return {row['class']: row for row in csv.DictReader(file)}


def miou_by_mmseg(folder, name):
    config = Config.fromfile(folder / f'{name}.py')
    config.merge_from_dict(
        dict(load_from=str(folder / name / f'iter_{ITERS}.pth'), experiment_name=f'alone {name}')
    )
    return Runner.from_cfg(config).test()['mIoU']


def test_the_table_holds_what_mmseg_measures(folder, run, capsys):
    out = run(
        folder / 'full', f'{folder}/bits.py:{folder}/bits/iter_{ITERS}.pth:1-2', '--pictures', 1
    )
    rows = rows_of(out / 'classes.csv')
    assert list(rows)[:2] == ['sky', 'road']
    assert list(rows)[-2:] == ['mean', 'pixel accuracy']
    for name, label in (('full', 'full'), ('bits', '1-2')):
        expected = float(miou_by_mmseg(folder, name))
        assert float(rows['mean'][label]) == pytest.approx(expected, abs=0.0051)
        values = [float(row[label]) for key, row in rows.items() if key not in list(rows)[-2:]]
        assert float(rows['mean'][label]) == pytest.approx(np.nanmean(values), abs=0.01)
    for row in rows.values():
        change = float(row['1-2']) - float(row['full'])
        assert float(row['1-2 - full']) == pytest.approx(change, abs=0.011, nan_ok=True)
    assert 'pixel accuracy' in capsys.readouterr().out


def test_pictures_show_image_truth_and_each_model(folder, run):
    out = run(folder / 'full', f'{folder}/bits:1-2', '--pictures', 2)
    for name in ('pictures.png', 'classes.png', 'curves.png'):
        picture = np.asarray(Image.open(out / name).convert('RGB'))
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 10


def test_pictures_hold_the_truth_in_the_colours_of_the_data_set(folder, tmp_path):
    args = type('', (), dict(cfg_options={}, out=tmp_path, pictures=1))
    result = compare.test(compare.parse_model(str(folder / 'full')), args)
    image, truth, predicted = result.pictures[0]
    index = compare.spread(2, 1)[0]
    labels = np.asarray(Image.open(sorted((folder / 'streets/annotations/val').iterdir())[index]))
    assert np.array_equal(truth, np.asarray(result.palette, np.uint8)[labels])
    assert image.shape == truth.shape == predicted.shape


def test_without_pictures_none_are_drawn(folder, run):
    out = run(folder / 'full', '--pictures', 0)
    assert not (out / 'pictures.png').exists()
    assert (out / 'classes.png').exists()


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        ('nowhere', FileNotFoundError, r'nowhere: no such work directory'),
        ('{folder}/streets', FileNotFoundError, r'holds no config'),
        ('{folder}/full.py', ValueError, r'must be WORK_DIR.* got .*full\.py'),
        ('{folder}/full.py:gone.pth', FileNotFoundError, r'gone\.pth: no such file'),
        ('gone.py:{folder}/full/iter_4.pth', FileNotFoundError, r'gone\.py: no such file'),
        ('{folder}', FileNotFoundError, r'holds no best_\*\.pth and no last checkpoint'),
    ],
)
def test_what_is_no_model_is_refused(folder, text, error, message):
    with pytest.raises(error, match=message):
        compare.parse_model(text.format(folder=folder))


def test_the_best_checkpoint_of_a_run_is_preferred(folder, tmp_path):
    (tmp_path / 'config.py').write_text('')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_9.pth')
    (tmp_path / 'iter_9.pth').touch()
    assert compare.find_model(tmp_path, '').checkpoint == str(tmp_path / 'iter_9.pth')
    (tmp_path / 'best_mIoU_iter_5.pth').touch()
    assert compare.find_model(tmp_path, 'x').checkpoint == str(tmp_path / 'best_mIoU_iter_5.pth')


def test_labels_must_differ(folder, run):
    with pytest.raises(ValueError, match=r'labels must differ, got full, full: add :LABEL'):
        run(folder / 'full', folder / 'full')


def result(**changes):
    values = dict(classes=('a', 'b'), palette=[[0] * 3] * 2, files=['1.png'], iou=np.ones(2))
    return compare.Result(**(values | dict(accuracy=1.0, pictures=[]) | changes))


def test_other_classes_or_images_are_refused():
    with pytest.raises(ValueError, match=r'B has the classes a, c, A has a, b'):
        compare.check_same_data({'A': result(), 'B': result(classes=('a', 'c'))})
    with pytest.raises(ValueError, match=r'B was tested on 2 images, A on 1 others'):
        compare.check_same_data({'A': result(), 'B': result(files=['1.png', '2.png'])})
    compare.check_same_data({'A': result(), 'B': result(files=['elsewhere/1.png'])})


def test_another_evaluator_is_refused(folder, run):
    with pytest.raises(ValueError, match=r'test_evaluator must be one dict\(type="IoUMetric"'):
        run(folder / 'full', '--cfg-options', 'test_evaluator.type=DepthMetric')


def test_pictures_are_spread_over_the_set():
    assert compare.spread(10, 2) == [2, 7]
    assert compare.spread(3, 5) == [0, 1, 2]
    assert compare.spread(40, 1) == [20]
    assert compare.spread(5, 0) == []


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    for run, steps in (('20260101_1', (10, 20, 30)), ('20260101_2', (30, 40))):
        path = tmp_path / run / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        lines = [dict(step=step, loss=step + int(run[-1])) for step in steps]
        lines.append(dict(step=steps[-1], mIoU=50.0))
        path.write_text('\n'.join(map(json.dumps, lines)))
    curve = read_curve(tmp_path)
    assert [(r['step'], r['loss']) for r in curve] == [(10, 11), (20, 21), (30, 32), (40, 42)]
    assert read_curve(tmp_path / 'nothing') == []


def test_smoothing_averages_the_last_values():
    assert smooth([1, 2, 3, 6], 2) == [1, 1.5, 2.5, 4.5]


def test_tables_line_up():
    assert format_table(['bits', 'mIoU'], [['float', 5], ['1', 12]]) == (
        'bits   mIoU\n-----  ----\nfloat     5\n1        12'
    )


def test_ignored_pixels_are_black():
    colours = colour_map(np.array([[0, 1, 255]]), [[9, 9, 9], [1, 2, 3]])
    assert colours.tolist() == [[[9, 9, 9], [1, 2, 3], [0, 0, 0]]]
