"""All engines, the oracle, C, PyTorch and Triton's (in the interpreter): one behaviour, one message."""

import copy
import os
import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

pytest.importorskip('gguf')
pytest.importorskip('mmseg')
pytest.importorskip('PIL')

import bfcn_mm  # noqa: F401, I001 - patches mmseg before it is imported
from PIL import Image

from bfcn_kernels import GraphError, WorkError, load
from bfcn_kernels.builder import random_image
from bfcn_mm.export import TorchEngine

MAKE = {
    'numpy': lambda path, **options: load(path, 'numpy', **options),
    'cpu': lambda path, **options: load(path, 'cpu', **options),
    'torch': TorchEngine,
    'triton': lambda path, **options: load(path, 'triton', **options),
}


def said(use: Callable[[], object]) -> tuple[type, str]:
    """The error of a call."""
    with pytest.raises(Exception) as error:  # noqa: PT011, the test compares what it is
        use()
    return error.type, str(error.value)


def test_images_are_taken_alike(tiny_file):
    image = random_image(13, 17)
    views = {
        'upside down': image[::-1],
        'one row upside down': image[7:8][::-1],
        'one column mirrored': image[:, 7:8][:, ::-1],
        'one pixel of a strided view': image[::-2, ::-2][3:4, 4:5],
        'BGR': image[..., ::-1],
        'Fortran order': np.asfortranarray(image),
        'transposed': image.transpose(1, 0, 2),
        'read only': np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        'broadcast': np.broadcast_to(image[0, 0], (6, 7, 3)),
        'PIL': Image.fromarray(image),
    }
    engines = {name: make(tiny_file) for name, make in MAKE.items()}
    for what, view in views.items():
        expected = engines['numpy'](np.array(view))
        for name, engine in engines.items():
            np.testing.assert_array_equal(engine(view), expected, err_msg=f'{name}: {what}')


def test_what_is_no_image_is_refused_alike(tiny_file):
    image = random_image(8, 9)
    wrong = {
        'floats': image / 255,
        'int64': image.astype(int),
        'planes': image.transpose(2, 0, 1),
        'batch': image[None],
        'gray': image[..., 0],
        'alpha': np.dstack([image, image[..., 0]]),
        'list': [[1], [2, 3]],
        'none': None,
        'text': 'image.png',
        'PIL in gray': Image.fromarray(image).convert('L'),
        'PIL with a palette': Image.fromarray(image).convert('P'),
    }
    engines = {name: make(tiny_file) for name, make in MAKE.items()}
    for what, image in wrong.items():
        errors = {name: said(partial(engine, image)) for name, engine in engines.items()}
        assert len(set(errors.values())) == 1, (what, errors)
    for shape in ((0, 5, 3), (5, 0, 3), (1, 40000, 3)):
        for engine in engines.values():
            with pytest.raises(GraphError, match=r'must be (an int )?in 1\.\.32768, got'):
                engine(np.zeros(shape, np.uint8))


def test_files_are_refused_alike(tiny_file, tmp_path):
    (tmp_path / 'empty.gguf').touch()
    os.mkfifo(tmp_path / 'pipe.gguf')
    paths = [tmp_path / 'none.gguf', tmp_path, tmp_path / 'empty.gguf', tmp_path / 'pipe.gguf']
    for path in [*paths, tmp_path / 'empty.gguf' / 'x.gguf', os.fsencode(tiny_file), None]:
        errors = {name: said(partial(make, path)) for name, make in MAKE.items()}
        assert len(set(errors.values())) == 1, errors


def test_limits_are_named_alike(tiny_file):
    image = random_image(8, 9)
    for make in MAKE.values():
        with pytest.raises(WorkError, match='max_ops is 100: take a smaller image'):
            make(tiny_file, max_ops=100)(image)
    errors = {name: said(partial(make, tiny_file, max_ops=0)) for name, make in MAKE.items()}
    assert len(set(errors.values())) == 1, errors


def test_closed_engines_answer_alike(tiny_file):
    image, closed = (
        random_image(8, 9),
        (RuntimeError, 'this engine is closed: load the model again'),
    )
    for name, make in MAKE.items():
        with make(tiny_file) as engine:
            labels = engine(image)
        assert engine.closed, name
        np.testing.assert_array_equal(engine.logits.argmax(-1).shape, engine.logits.shape[:2])
        assert len(engine.profile) > 0 < engine.peak_bytes, name
        engine.close()
        uses = [partial(engine, image), partial(engine, 'no image'), partial(engine.trace, image)]
        uses += [engine.__enter__]
        uses += [partial(function, engine) for function in (copy.copy, copy.deepcopy, pickle.dumps)]
        assert [said(use) for use in uses] == [closed] * len(uses), name
        again = pickle.loads(pickle.dumps(make(tiny_file)))
        np.testing.assert_array_equal(again(image), labels, err_msg=name)
