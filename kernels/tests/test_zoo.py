"""Names of packed models."""

import numpy as np
import pytest

import bfcn_kernels
from bfcn_kernels import zoo
from bfcn_kernels.builder import random_image
from bfcn_kernels.nets import toy

pytest.importorskip('gguf')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A zoo that holds `toy` and an unfinished `half`."""
    (tmp_path / 'zoo/toy').mkdir(parents=True)
    (tmp_path / 'zoo/half').mkdir()
    bfcn_kernels.write(tmp_path / 'zoo/toy/model.gguf', bfcn_kernels.Model(toy()))
    monkeypatch.setenv('BFCN_ZOO', str(tmp_path / 'zoo'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_loads_its_model(folder):
    assert zoo.names() == ['toy']
    image = random_image(17, 9, 3)
    by_path = bfcn_kernels.load(folder / 'zoo/toy/model.gguf')(image)
    np.testing.assert_array_equal(bfcn_kernels.load('toy')(image), by_path)


def test_a_file_of_that_name_comes_first(folder):
    (folder / 'toy').write_bytes(b'not a model')
    with pytest.raises(bfcn_kernels.FileError):
        bfcn_kernels.load('toy')


def test_an_unknown_name_is_told_with_those_there_are(folder, monkeypatch):
    with pytest.raises(
        ValueError, match=r"'half' is neither a file nor a model of the zoo: .* toy"
    ):
        bfcn_kernels.load('half')
    monkeypatch.setenv('BFCN_ZOO', str(folder / 'empty'))
    with pytest.raises(ValueError, match=r'empty holds no model'):
        bfcn_kernels.load('toy')


def test_paths_are_left_alone(folder):
    for path in ('x.gguf', 'sub/toy'):
        with pytest.raises(FileNotFoundError):
            bfcn_kernels.load(path)
