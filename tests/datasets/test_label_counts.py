import numpy as np
import pytest
from mmengine.dataset import RepeatDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from torch.utils.data import ConcatDataset

from bfcn_mm.datasets import label_counts
from bfcn_mm.datasets.label_counts import count_file, count_files, effective_counts, label_files


def paths_of(dataset):
    return [file.path for file in label_files(dataset)]


def quiet(message):
    pass


@pytest.mark.parametrize('mode', ['L', 'P', '1', 'I;16'])
def test_every_index_mode_is_counted_by_value(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 2 if mode == '1' else 20, (7, 5))
    image = {
        'L': lambda: Image.fromarray(values.astype(np.uint8)),
        'P': lambda: Image.fromarray(values.astype(np.uint8)),
        '1': lambda: Image.fromarray(values.astype(bool)),
        'I;16': lambda: Image.fromarray(values.astype(np.uint16)),
    }[mode]()
    if mode == 'P':
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / 'label.png')
    assert Image.open(tmp_path / 'label.png').mode == mode
    counts = count_file(str(tmp_path / 'label.png'))
    np.testing.assert_array_equal(counts, np.bincount(values.ravel(), minlength=256))


def test_colours_and_wide_values_are_refused(tmp_path):
    path = tmp_path / 'label.png'
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"label.png: .* one channel .* 'RGB'"):
        count_file(str(path))
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r'label.png: .* 0..255, got 300'):
        count_file(str(path))


@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_effective_values_are_those_that_mmseg_loads(make_dataset, reduce_zero_label):
    label = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = make_dataset([label, label // 2], reduce_zero_label=reduce_zero_label)
    files = [file._replace(label_map={0: 2, 1: 0, 2: 255}) for file in label_files(dataset)]
    counts = effective_counts(count_files([f.path for f in files], log=quiet), files)
    for index, row in enumerate(counts):
        info = dataset.get_data_info(index)
        info['label_map'] = files[index].label_map
        loaded = LoadAnnotations()(info)['gt_seg_map']
        np.testing.assert_array_equal(row, np.bincount(loaded.ravel(), minlength=256))


def test_wrapped_datasets_are_opened(make_dataset, tmp_path):
    one = make_dataset([[[0]]], root=tmp_path / 'one')
    two = make_dataset([[[1]], [[2]]], root=tmp_path / 'two')
    wrapped = ConcatDataset([RepeatDataset(one, times=3), two])
    assert paths_of(wrapped) == paths_of(one) + paths_of(two)


def test_the_cache_serves_until_a_file_changes(make_dataset, monkeypatch):
    dataset = make_dataset([[[0, 1]], [[2, 2]]])
    reads = []
    monkeypatch.setattr(
        label_counts, 'count_file', lambda path: reads.append(path) or count_file(path)
    )
    paths, root = paths_of(dataset), dataset.data_root
    first = count_files(paths, root, log=quiet)
    assert len(reads) == 2
    np.testing.assert_array_equal(count_files(paths, root, log=quiet), first)
    assert len(reads) == 2
    Image.fromarray(np.array([[1, 1, 1]], np.uint8)).save(paths[0])
    assert count_files(paths, root, log=quiet)[0, 1] == 3
    assert len(reads) == 4


def test_a_damaged_cache_is_read_anew(make_dataset, tmp_path):
    dataset = make_dataset([[[0, 1]]])
    first = count_files(paths_of(dataset), dataset.data_root, log=quiet)
    (cached,) = (tmp_path / 'own/.bfcn_mm').iterdir()
    cached.write_bytes(cached.read_bytes()[:20])
    np.testing.assert_array_equal(
        count_files(paths_of(dataset), dataset.data_root, log=quiet), first
    )


def test_a_read_only_root_is_not_written_to(make_dataset, tmp_path, user_cache):
    dataset = make_dataset([[[0, 1]]])
    (tmp_path / 'own').chmod(0o555)
    counts = count_files(paths_of(dataset), dataset.data_root, log=quiet)
    (tmp_path / 'own').chmod(0o755)
    assert counts[0, :2].tolist() == [1, 1]
    assert not (tmp_path / 'own/.bfcn_mm').exists()
    assert len(list((user_cache / 'bfcn_mm').iterdir())) == 1


def test_nowhere_to_write_is_said_and_survived(make_dataset, tmp_path, user_cache):
    dataset = make_dataset([[[0, 1]]])
    user_cache.write_text('a file where the folder should be')
    (tmp_path / 'own/.bfcn_mm').write_text('the same')
    lines = []
    counts = count_files(paths_of(dataset), dataset.data_root, log=lines.append)
    assert counts[0, :2].tolist() == [1, 1]
    assert 'not cached' in lines[-1]
