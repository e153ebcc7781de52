import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmseg.registry import HOOKS

from bfcn_mm.datasets import check
from bfcn_mm.datasets.check import DatasetCheckHook, check_data

BASE = Path(__file__).parents[2] / 'configs/_base_/datasets'


def runner_of(train, val=None, num_classes=3):
    return SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=train),
        val_loop=val,
        val_dataloader=SimpleNamespace(dataset=val),
        model=SimpleNamespace(decode_head=SimpleNamespace(num_classes=num_classes)),
    )


@pytest.mark.parametrize(
    ('name', 'hint'),
    [('voc12_aug', 'aug.txt'), ('cityscapes', 'labelTrainIds'), ('camvid', 'images/{train,val}')],
)
def test_a_missing_root_is_one_line_with_what_to_put_where(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(BASE / f'{name}.py')
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg)
    message = str(error.value)
    assert message.startswith(cfg.data_root)
    assert hint in message
    assert '\n' not in message


def test_a_missing_folder_inside_the_root_is_named(make_dataset, tmp_path):
    make_dataset([[[0]]])
    dataset = dict(
        type='MyDataset',
        data_root=str(tmp_path / 'own'),
        data_prefix=dict(img_path='img', seg_map_path='labels'),
    )
    loader = dict(dataset=dict(type='ConcatDataset', datasets=[dataset]))
    with pytest.raises(FileNotFoundError, match=r'own/labels: the val data of MyDataset'):
        check_data(dict(val_dataloader=loader))
    dataset['data_prefix']['seg_map_path'] = 'ann'
    check_data(dict(val_dataloader=loader, train_dataloader=None))


def listing(root, *names, suffix='.png', **changes):
    """The config of a data set whose ann_file lists names; the first one's image exists as suffix."""
    (root / 'img').mkdir(parents=True)
    (root / f'img/{names[0]}{suffix}').touch()
    (root / 'list.txt').write_text('\n'.join(names))
    prefix = dict(img_path='img', seg_map_path='img')
    dataset = dict(
        type='BaseSegDataset', data_root=str(root), data_prefix=prefix, ann_file='list.txt'
    )
    return dict(train_dataloader=dict(dataset=dataset | changes))


def test_the_first_listed_image_is_looked_for(tmp_path):
    check_data(listing(tmp_path / 'a', 'one', 'two', img_suffix='.png'))
    check_data(listing(tmp_path / 'b', 'one', suffix='.jpg'))  # the class's own suffix
    check_data(listing(tmp_path / 'c', 'one', suffix='.jpg', type='PascalVOCDataset'))
    for folder, changes in dict(d={}, e=dict(type='PascalVOCDataset')).items():
        with pytest.raises(FileNotFoundError, match=r"img/one.jpg: the first .*img_suffix='.jpg'"):
            check_data(listing(tmp_path / folder, 'one', **changes))


@pytest.mark.parametrize('serialized', [True, False])
def test_a_data_set_without_an_image_names_folder_and_suffix(tmp_path, serialized):
    from mmseg.datasets import BaseSegDataset

    for folder, there in dict(png='holds files such as 0.png', none='holds no file').items():
        (tmp_path / folder).mkdir()
        if folder == 'png':
            (tmp_path / 'png/0.png').touch()
        prefix = dict(img_path=folder, seg_map_path=folder)
        with pytest.raises(FileNotFoundError) as error:
            BaseSegDataset(data_root=str(tmp_path), data_prefix=prefix, serialize_data=serialized)
        message = str(error.value)
        assert message.startswith(str(tmp_path / folder))
        assert "ends with '.jpg' (img_suffix)" in message
        assert there in message
        assert '\n' not in message


def test_an_empty_list_is_named(tmp_path):
    from mmseg.datasets import BaseSegDataset

    (tmp_path / 'list.txt').touch()
    with pytest.raises(FileNotFoundError, match=r'list.txt: BaseSegDataset finds no image listed'):
        BaseSegDataset(data_root=str(tmp_path), ann_file='list.txt', data_prefix=dict(img_path=''))


def test_streets_need_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_data(Config.fromfile(BASE / 'streets.py'))


@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: ConcatDataset([d])])
def test_good_labels_pass(make_dataset, wrap):
    dataset = wrap(make_dataset([[[0, 1, 2, 255]]]))
    HOOKS.build(dict(type='DatasetCheckHook')).before_train(runner_of(dataset, dataset))


def test_a_label_out_of_range_names_file_value_and_rule(make_dataset):
    dataset = make_dataset([[[0, 1, 2]], [[0, 3, 3]]])
    with pytest.raises(ValueError, match=r'ann/1.png: label 3 \(2 pixels\) must be in 0..2') as e:
        DatasetCheckHook().before_train(runner_of(dataset))
    assert '\n' not in str(e.value)


def test_reduce_zero_label_moves_the_range(make_dataset):
    labels = [[[0, 1, 2, 3, 255]]]
    DatasetCheckHook().before_train(runner_of(make_dataset(labels, reduce_zero_label=True)))
    dataset = make_dataset([[[0, 1, 2, 3, 4]]], reduce_zero_label=True)
    with pytest.raises(ValueError, match='label 3 after reduce_zero_label'):
        DatasetCheckHook().before_train(runner_of(dataset))


def test_the_validation_set_is_checked_too(make_dataset, tmp_path):
    train = make_dataset([[[0, 1, 2]]], root=tmp_path / 'train')
    val = make_dataset([[[0, 7]]], root=tmp_path / 'val')
    with pytest.raises(ValueError, match=r'val/ann/0.png: label 7'):
        DatasetCheckHook().before_train(runner_of(train, val))


def test_an_empty_class_is_an_error_or_a_warning(make_dataset, monkeypatch):
    dataset = make_dataset([[[0, 2, 255]]])
    with pytest.raises(ValueError, match=r"class 'b': no pixel in the 1 training label files"):
        DatasetCheckHook().before_train(runner_of(dataset))
    said = []
    monkeypatch.setattr(check, '_log', lambda message, level=0: said.append((level, message)))
    DatasetCheckHook(empty_class='warn').before_train(runner_of(dataset))
    assert [level for level, message in said if "class 'b'" in message] == [logging.WARNING]


def test_a_sample_says_nothing_of_empty_classes(make_dataset):
    dataset = make_dataset([[[0, 1]], [[2, 1]], [[2, 9]]])
    DatasetCheckHook(max_files=2).before_train(runner_of(dataset))
    with pytest.raises(ValueError, match='label 9'):
        DatasetCheckHook(max_files=3).before_train(runner_of(dataset))


def test_the_head_has_the_classes_of_the_dataset(make_dataset):
    dataset = make_dataset([[[0, 1, 2]]])
    with pytest.raises(ValueError, match=r'num_classes must be 3, .* got 19'):
        DatasetCheckHook().before_train(runner_of(dataset, num_classes=19))


@pytest.mark.parametrize('arguments', [dict(empty_class='ignore'), dict(max_files=0)])
def test_arguments_out_of_range(arguments):
    (value,) = arguments.values()
    with pytest.raises(ValueError, match=f'got {value!r}'):
        DatasetCheckHook(**arguments)


def test_check_range_allows_the_ignored_value_only():
    counts = np.zeros((1, 256), dtype=np.int64)
    counts[0, 254] = 1
    files = [check.LabelFile('x.png', False, None)]
    check.check_range(counts, files, 3, ignore_index=254)
    with pytest.raises(ValueError, match='label 254'):
        check.check_range(counts, files, 3, ignore_index=255)
