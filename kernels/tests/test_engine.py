"""load(): one call for every engine, and the oracle as one of them."""

import copy
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import bfcn_kernels
from bfcn_kernels import reference
from bfcn_kernels.builder import random_image
from bfcn_kernels.graph import Graph
from bfcn_kernels.nets import toy

pytest.importorskip('gguf')
ENGINES = ('numpy', 'cpu')


@pytest.fixture(scope='module')
def toy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('toy') / 'toy.gguf'
    bfcn_kernels.write(path, bfcn_kernels.Model(toy()))
    return path


def test_numpy_engine_is_the_oracle(toy_file):
    engine = bfcn_kernels.load(toy_file)
    image = random_image(25, 38, 1)
    expected = reference.run(toy(), image)
    labels = engine(image)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected['labels'])
    np.testing.assert_array_equal(engine.logits, expected['sum'])
    trace = engine.trace(image)
    assert list(trace) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(trace[name], array, err_msg=name)


def test_numpy_engine_reports_what_it_did(toy_file):
    engine = bfcn_kernels.load(toy_file)
    engine(random_image(16, 16))
    small = engine.peak_bytes
    names = [(op.name, op.opname) for op in toy().ops]
    assert [(name, kind) for name, kind, _ in engine.profile] == names
    assert names[1] == ('stem', 'bit_conv')
    assert names[-1] == ('labels', 'argmax')
    assert all(seconds >= 0 for *_, seconds in engine.profile)
    engine(random_image(32, 32))
    assert engine.peak_bytes > 3 * small > 0


def test_a_graph_may_end_in_scores(tmp_path):
    graph = Graph(toy().ops[:-1])
    bfcn_kernels.write(tmp_path / 'm.gguf', bfcn_kernels.Model(graph))
    engine = bfcn_kernels.load(tmp_path / 'm.gguf')
    scores = engine(random_image(9, 9))
    np.testing.assert_array_equal(scores, engine.logits)


def test_load_refuses_what_it_does_not_know(toy_file):
    with pytest.raises(ValueError, match="engine must be 'numpy', 'cpu' or 'triton', got 'cuda'"):
        bfcn_kernels.load(toy_file, engine='cuda')
    with pytest.raises(ValueError, match='threads must be an int from 1, got 0'):
        bfcn_kernels.load(toy_file, threads=0)
    with pytest.raises(ValueError, match="one_bit=True is for engine='triton', got engine='numpy'"):
        bfcn_kernels.load(toy_file, one_bit=True)


def test_engines_are_imported_when_asked_for(toy_file, monkeypatch):
    module = ModuleType('bfcn_kernels.triton')
    module.Engine = lambda path, threads, **options: (path, threads, options)
    monkeypatch.setitem(sys.modules, 'bfcn_kernels.triton', module)
    assert bfcn_kernels.load(toy_file, 'triton', threads=3) == (toy_file, 3, {})
    given = bfcn_kernels.load(toy_file, 'triton', one_bit=True)
    assert given == (toy_file, 1, dict(one_bit=True))


def views_of(image):
    """By name; each as numpy gives it, with its strides."""
    return {
        'upside down': image[::-1],
        'mirrored': image[:, ::-1],
        'BGR': image[..., ::-1],
        'cropped': image[3:21, 5:19],
        'strided': image[::2, ::3],
        'transposed': image.transpose(1, 0, 2),
        'Fortran order': np.asfortranarray(image),
        'one row upside down': image[7:8][::-1],
        'one column mirrored': image[:, 7:8][:, ::-1],
        'one pixel of a strided view': image[::-2, ::-2][3:4, 4:5],
        'read only': np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        'unaligned': np.frombuffer(b'x' + image.tobytes(), np.uint8, offset=1).reshape(image.shape),
        'one pixel, broadcast': np.broadcast_to(image[0, 0], (6, 7, 3)),
    }


@pytest.mark.parametrize('name', ENGINES)
def test_any_view_of_an_image_gives_the_labels_of_its_copy(toy_file, name):
    engine, oracle = bfcn_kernels.load(toy_file, name), bfcn_kernels.load(toy_file)
    for what, view in views_of(random_image(25, 38, 1)).items():
        np.testing.assert_array_equal(engine(view), oracle(view.copy()), err_msg=what)


@pytest.mark.parametrize('name', ENGINES)
def test_images_of_pil_are_taken_in_rgb_alone(toy_file, name):
    pillow = pytest.importorskip('PIL.Image')
    engine, array = bfcn_kernels.load(toy_file, name), random_image(25, 38, 1)
    image = pillow.fromarray(array)
    np.testing.assert_array_equal(engine(image), engine(array))
    for mode in ('L', 'P', 'RGBA', '1', 'CMYK', 'YCbCr', 'I', 'F'):
        with pytest.raises(ValueError, match=rf"of mode '{mode}': use \.convert\('RGB'\)"):
            engine(image.convert(mode))


@pytest.mark.parametrize('name', ENGINES)
def test_what_is_no_image_is_named_with_a_way_out(toy_file, name):
    engine, image = bfcn_kernels.load(toy_file, name), random_image(8, 9)
    for wrong, message in (
        (image / 255, r'float64 \(8, 9, 3\): pixels are whole numbers'),
        (image.astype(int), r'int64 \(8, 9, 3\): pixels are whole numbers'),
        (image.transpose(2, 0, 1), r'uint8 \(3, 8, 9\): use image.transpose\(1, 2, 0\)'),
        (image[None], r'uint8 \(1, 8, 9, 3\): give one image at a time'),
        (image[..., 0], r'uint8 \(8, 9\): repeat gray'),
        (np.dstack([image, image[..., 0]]), r'uint8 \(8, 9, 4\): drop alpha'),
        (image.tolist(), r'int64 \(8, 9, 3\)'),
        ([[1], [2, 3]], 'a list'),
        (None, 'a NoneType'),
        ('image.png', 'a str'),
    ):
        with pytest.raises(
            ValueError, match=rf'image must be uint8 \(h, w, 3\) RGB, got {message}'
        ):
            engine(wrong)


@pytest.mark.parametrize('name', ENGINES)
def test_files_that_are_no_models_give_one_line_and_one_error(tmp_path, name):
    """Every engine reads files in the same way; none waits for a pipe."""
    (tmp_path / 'empty.gguf').touch()
    (tmp_path / 'text.gguf').write_text('not a model')
    os.mkfifo(tmp_path / 'pipe.gguf')
    for path, message in (
        (tmp_path / 'none.gguf', 'No such file'),
        (tmp_path / 'no' / 'folder.gguf', 'No such file'),
        (tmp_path / 'empty.gguf' / 'x.gguf', 'Not a directory'),
        (tmp_path, 'Is a directory'),
        (tmp_path / 'pipe.gguf', 'this is no regular file'),
        (Path('/dev/null'), 'this is no regular file'),
        (tmp_path / 'empty.gguf', 'the file is empty'),
        (tmp_path / 'text.gguf', 'magic'),
    ):
        with pytest.raises(bfcn_kernels.FileError, match=message) as error:
            bfcn_kernels.load(path, name)
        assert str(error.value).startswith(f'{path}: ')
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ENGINES)
def test_a_copied_or_pickled_engine_is_one_of_its_own(toy_file, name):
    image = random_image(25, 38, 1)
    engine = bfcn_kernels.load(toy_file, name)
    labels = engine(image)
    for make in (copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))):
        other = make(engine)
        np.testing.assert_array_equal(other(image), labels)
        other.close()
        del other
        gc.collect()
        np.testing.assert_array_equal(engine(image), labels)


def test_a_pickled_c_engine_opens_its_file_with_its_options(toy_file, tmp_path, monkeypatch):
    from bfcn_kernels.cpu import Engine

    path = tmp_path / 'toy.gguf'
    path.write_bytes(toy_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    engine = Engine('toy.gguf', threads=2, isa='portable', max_bytes=10**8, max_ops=10**9)
    data = pickle.dumps(engine)
    assert len(data) < 1000
    monkeypatch.chdir('/')
    again = pickle.loads(data)
    options = ('path', 'threads', 'isa', 'kernel', 'limits')
    assert [getattr(again, o) for o in options] == [getattr(engine, o) for o in options]
    assert again.path == str(path)
    path.write_bytes(toy_file.read_bytes() + b'more')
    with pytest.raises(bfcn_kernels.FileError, match=r'toy\.gguf: has changed since'):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(bfcn_kernels.FileError, match=r'toy\.gguf: No such file'):
        pickle.loads(data)


@pytest.mark.parametrize('name', ENGINES)
def test_a_closed_engine_says_so(toy_file, name):
    image = random_image(25, 38, 1)
    with bfcn_kernels.load(toy_file, name) as engine:
        engine(image)
    assert engine.closed
    np.testing.assert_array_equal(engine.logits, reference.run(toy(), image)['sum'])
    assert len(engine.profile) == len(toy().ops)
    assert engine.peak_bytes > 0
    engine.close()
    uses = [lambda: engine(image), lambda: engine.trace(image), engine.__enter__]
    if name == 'cpu':
        uses += [lambda: engine.ops(8, 8), lambda: engine.weight_bytes(8, 8)]
        uses += [lambda: pickle.dumps(engine), lambda: copy.copy(engine)]
    for use in uses:
        with pytest.raises(RuntimeError, match='this engine is closed: load the model again'):
            use()


@pytest.mark.parametrize('name', ENGINES)
def test_the_runtime_needs_numpy_alone(toy_file, name):
    """Without torch, triton and gguf, which only training, GPUs and writing need."""
    program = """
import sys
for name in ('torch', 'triton', 'gguf', 'mmengine', 'PIL'):
    sys.modules[name] = None
import numpy as np
import bfcn_kernels
engine = bfcn_kernels.load(sys.argv[1], sys.argv[2])
print(engine(np.zeros((8, 9, 3), np.uint8)).shape)
"""
    done = subprocess.run(
        [sys.executable, '-c', program, str(toy_file), name],
        env=os.environ | {'PYTHONPATH': str(Path(bfcn_kernels.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, '(8, 9)\n'), done.stderr
