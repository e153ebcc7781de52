"""`bfcn run`: pictures, folders and videos, with numpy and OpenCV alone."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import environment

from bfcn_kernels import Metadata, Model, load, nets, write
from bfcn_kernels.builder import random_image
from bfcn_mm.cli.run import main, voc_palette

cv2 = pytest.importorskip('cv2')
CLASSES = ('sky', 'road', 'car', 'tree', 'sign')
PALETTE = ((10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90))
NUMPY = ('--engine', 'numpy')


@pytest.fixture
def model(tmp_path):
    graph = nets.toy()
    count = graph.validate()[graph.logits].channels
    meta = Metadata(classes=CLASSES[:count], palette=PALETTE[:count])
    write(tmp_path / 'm.gguf', Model(graph, meta))
    return tmp_path / 'm.gguf'


@pytest.fixture
def picture(tmp_path):
    image = random_image(45, 70)
    cv2.imwrite(str(tmp_path / 'a.png'), image[:, :, ::-1])
    return tmp_path / 'a.png', image


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_colours_lie_over_the_picture(model, picture, tmp_path, capsys):
    path, image = picture
    assert main([str(model), str(path), '-o', str(tmp_path / 'o/over.png'), *NUMPY]) == 0
    labels = load(model)(image)
    expected = np.floor(image / 2 + np.array(PALETTE)[labels] / 2 + 0.5)
    np.testing.assert_array_equal(read(tmp_path / 'o/over.png'), expected)
    said = capsys.readouterr().out
    commonest = CLASSES[np.bincount(labels.ravel()).argmax()]
    assert said.startswith(commonest)
    assert '1 picture, ' in said


def test_labels_alone_are_grey_values(model, picture):
    path, image = picture
    assert main([str(model), str(path), '--labels', *NUMPY]) == 0
    written = cv2.imread(str(path.with_name('a_overlay.png')), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, load(model)(image))


def test_a_folder_goes_on_after_a_file_that_is_no_picture(model, picture, tmp_path, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    (folder / 'b.png').write_bytes(b'no picture')
    (folder / 'notes.txt').write_text('not looked at')
    picture[0].rename(folder / 'c.png')
    assert main([str(model), str(folder), *NUMPY]) == 1
    assert [path.name for path in (tmp_path / 'in_overlay').iterdir()] == ['c.png']
    assert 'b.png: OpenCV cannot read it as a picture' in capsys.readouterr().err


def test_a_video(model, tmp_path):
    path = tmp_path / 'v.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for seed in range(5):
        writer.write(random_image(48, 64, seed))
    writer.release()
    assert main([str(model), str(path), '-o', str(tmp_path / 'o.avi'), *NUMPY]) == 0
    video = cv2.VideoCapture(str(tmp_path / 'o.avi'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FPS)) == (64, 10)


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['none.png'], 'none.png: no such picture, folder or video'),
        (['a.png', '-o', 'a.png'], 'the output would replace the input'),
        (['a.png', '--opacity', '1.5'], '--opacity must be in 0..1, got 1.5'),
    ],
)
def test_wrong_arguments_are_named(model, picture, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main([str(model), *words])
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_a_name_that_is_no_picture_is_refused(model, picture, tmp_path):
    with pytest.raises(OSError, match=r'over\.nothing: cannot be written as a picture'):
        main([str(model), str(picture[0]), '-o', str(tmp_path / 'over.nothing'), *NUMPY])


def test_an_empty_folder_is_refused(model, tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='holds no picture'):
        main([str(model), str(tmp_path / 'empty'), *NUMPY])


def test_it_needs_no_torch(model, picture):
    words = ['run', str(model), str(picture[0]), *NUMPY]
    program = f'import sys, _bfcn_command; from bfcn_mm import cli; cli.main({words}); '
    program += 'print(sorted({"torch", "mmengine", "mmseg", "gguf"} & set(sys.modules)))'
    done = subprocess.run(
        [sys.executable, '-c', program], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_colours_without_a_palette_are_those_of_voc():
    assert voc_palette(256)[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert voc_palette(256)[15] == (192, 128, 128)
    assert len(set(voc_palette(256))) == 256
