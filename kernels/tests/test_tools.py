"""bfcn-run and bfcn-bench: command lines and PPM files, as other programs write them."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bfcn_kernels import Model, load, write
from bfcn_kernels.builder import random_image
from bfcn_kernels.cpu import build
from bfcn_kernels.gguf_io import Metadata
from bfcn_kernels.nets import toy

pytest.importorskip('gguf')
pytestmark = pytest.mark.skipif(not shutil.which('cc'), reason='needs a C compiler')
TOOLS = Path(build.__file__).parents[2] / 'tools'
PALETTE = tuple((20 * i, 255 - 20 * i, 7 * i) for i in range(5))
HEIGHT, WIDTH = 20, 30


@pytest.fixture(scope='module')
def programs(tmp_path_factory) -> Path:
    """A folder with both, linked with the library that Python uses."""
    folder, library = tmp_path_factory.mktemp('tools'), build.library()
    for program, sources in (('run', ('run.c', 'ppm.c')), ('bench', ('bench.c',))):
        command = ['cc', '-D_GNU_SOURCE', f'-I{build.HERE / "include"}']
        command += [*(str(TOOLS / source) for source in sources), str(library)]
        command += [f'-Wl,-rpath,{library.parent}', '-o', str(folder / f'bfcn-{program}')]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('model') / 'toy.gguf'
    classes = tuple(f'class {i}' for i in range(len(PALETTE)))
    write(path, Model(toy(classes=len(PALETTE)), Metadata('toy', classes, PALETTE)))
    return path


def call(program: Path, *arguments: object) -> subprocess.CompletedProcess:
    words = [str(program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.fixture
def label(programs, model, tmp_path):
    """bfcn-run on the bytes of an image: its pixels, or the one line that it prints."""

    def run(data: bytes, *options: str) -> np.ndarray | str:
        (tmp_path / 'in.ppm').write_bytes(data)
        out = tmp_path / 'out.ppm'
        done = call(programs / 'bfcn-run', model, tmp_path / 'in.ppm', out, *options)
        if done.returncode:
            assert done.returncode == 1
            assert done.stderr.count('\n') == 1
            assert not out.exists()
            return done.stderr
        head = b'P6\n%d %d\n255\n' % (WIDTH, HEIGHT)
        written = out.read_bytes()
        assert written.startswith(head)
        out.unlink()
        return np.frombuffer(written, np.uint8, offset=len(head)).reshape(HEIGHT, WIDTH, 3)

    return run


@pytest.fixture(scope='module')
def image() -> np.ndarray:
    return random_image(HEIGHT, WIDTH, 3)


@pytest.fixture(scope='module')
def expected(model, image) -> np.ndarray:
    return np.array(PALETTE, np.uint8)[load(model)(image)]


@pytest.mark.parametrize(
    'head',
    [
        b'P6\n30 20\n255\n',
        b'P6 30 20 255 ',
        b'P6\t30\t20\t255\t',
        b'P6\n# CREATOR: GIMP PNM Filter Version 1.1\n30 20\n255\n',
        b'P6 # 1 2 3\n30 # 4\n# 5\n20 255\n',
        b'P6\n30 20\n255 # before the pixels\n',
        b'P6\n30 20\n255# before the pixels\n',
        b'P6\r\n30 20\r\n255\r\n',
        b'P6\r\n# by another program\r\n30 20\r\n255\r\n',
        b'P6\r\n30 20\r\n255 # before the pixels\r\n',
        b'P6\r30 20\r255\r',
        b'P6\n0030   0020\n\n\n255\n',
    ],
)
def test_every_form_of_a_header_gives_the_same_labels(label, image, expected, head):
    np.testing.assert_array_equal(label(head + image.tobytes()), expected)


@pytest.mark.parametrize('first', [b'\n', b'\r', b'#', b' ', b'\n#'])
@pytest.mark.parametrize('end', [b'\n', b'\r', b' '])
def test_pixels_that_look_like_a_header_are_pixels(label, model, image, first, end):
    data = first + image.tobytes()[len(first) :]
    pixels = np.frombuffer(data, np.uint8).reshape(image.shape)
    expected = np.array(PALETTE, np.uint8)[load(model)(pixels)]
    np.testing.assert_array_equal(label(b'P6\n30 20\n255' + end + data), expected)


def test_a_stream_of_images_gives_its_first(label, image, expected):
    one = b'P6\n30 20\n255\n' + image.tobytes()
    np.testing.assert_array_equal(label(one + one), expected)


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (b'P5\n30 20\n255\n', 'must be binary RGB, a PPM of kind P6, got P5'),
        (b'P3\n30 20\n255\n', 'got P3'),
        (b'\x89PNG\r\n', 'is not a PPM image'),
        (b'P6\n30 20\n65535\n', 'largest value must be 255, got 65535'),
        (b'P6\n30 20\n100\n', 'largest value must be 255, got 100'),
        (b'P6\n0 20\n255\n', 'sides must be in 1..32768, got 20 x 0'),
        (b'P6\n30 99999999999\n255\n', 'got 99999999999 x 30'),
        (b'P6\n-30 20\n255\n', 'P6 and three numbers'),
        (b'P6\n30.0 20\n255\n', 'P6 and three numbers'),
        (b'P6\n30 20 255', 'P6 and three numbers'),
        (b'P6\n30 20\n', 'P6 and three numbers'),
        (b'P630 20 255\n', 'P6 and three numbers'),
        (b'P6\n30 21\n255\n', '30 x 21 pixels take 1890 bytes, the file ends after 1800'),
        (b'P6\n30 19\n255\n', 'more bytes than the 1710 of 30 x 19 pixels'),
        (b'P6\n30 20\n255\n\n', 'more bytes than the 1800'),
    ],
)
def test_what_is_no_such_image_is_one_line(label, image, head, message):
    data = image.tobytes() if head.count(b' ') or head.count(b'\t') else b''
    if head in (b'P6\n30 20 255', b'P6\n30 20\n'):
        data = b''
    assert message in label(head + data)


def test_a_cut_file_with_cr_lf_is_not_shifted(label, image):
    data = b'P6\r\n30 20\r\n255\r\n' + image.tobytes()[:-1]
    assert 'take 1800 bytes, the file ends after 1799' in label(data)


@pytest.mark.parametrize(
    ('program', 'arguments', 'message'),
    [
        ('run', ['--threads', '0'], "--threads must be a number from 1 to 64, got '0'"),
        ('run', ['--threads', '-1'], "got '-1'"),
        ('run', ['--threads', '65'], "got '65'"),
        ('run', ['--threads', '4294967297'], "got '4294967297'"),
        ('run', ['--threads', 'many'], "got 'many'"),
        ('run', ['--threads', '2x'], "got '2x'"),
        ('run', ['--threads', ''], "got ''"),
        ('run', ['--threads', ' 2'], "got ' 2'"),
        ('run', ['--threads'], '--threads needs a value'),
        ('run', ['--thread', '2'], "there is no option '--thread'"),
        ('run', ['fourth'], "are three, got also 'fourth'"),
        (
            'bench',
            ['--size', '20', 'x'],
            "--size (width) must be a number from 1 to 32768, got 'x'",
        ),
        ('bench', ['--size', '20'], '--size (width) needs a value'),
        ('bench', ['--size', '0', '20'], '--size (height) must be'),
        ('bench', ['--runs', '1e3'], '--runs must be a number from 1 to 1000000'),
        ('bench', ['--threads', '1.5'], '--threads must be a number'),
        ('bench', ['second.gguf'], "one MODEL.gguf, got also 'second.gguf'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    programs, model, tmp_path, program, arguments, message
):
    paths = [model, tmp_path / 'i.ppm', tmp_path / 'o.ppm'] if program == 'run' else [model]
    done = call(programs / f'bfcn-{program}', *paths, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert message in done.stderr
    assert done.stderr.endswith(f"; try 'bfcn-{program} --help'\n")


@pytest.mark.parametrize('program', ['bfcn-run', 'bfcn-bench'])
def test_help_and_version_are_no_errors(programs, program):
    for option in ('--help', '-h'):
        done = call(programs / program, option)
        assert (done.returncode, done.stderr) == (0, '')
        assert done.stdout.startswith(f'usage: {program} MODEL.gguf')
    done = call(programs / program, 'anything', '--version')
    assert (done.returncode, done.stdout) == (0, f'{program} 0.1.0\n')
    assert call(programs / program).returncode == 2


def test_what_cannot_be_read_or_written_is_one_line(programs, model, image, tmp_path):
    source = tmp_path / 'in.ppm'
    source.write_bytes(b'P6\n30 20\n255\n' + image.tobytes())
    run = programs / 'bfcn-run'
    for arguments, message in (
        ((model, source, '/dev/full'), '/dev/full: No space left'),
        ((model, source, tmp_path), f'{tmp_path}: Is a directory'),
        ((model, tmp_path, tmp_path / 'o.ppm'), f'{tmp_path}: Is a directory'),
        ((model, tmp_path / 'none.ppm', tmp_path / 'o.ppm'), 'none.ppm: No such file'),
        ((tmp_path / 'none.gguf', source, tmp_path / 'o.ppm'), 'No such file'),
        ((tmp_path, source, tmp_path / 'o.ppm'), 'Is a directory'),
        ((source, source, tmp_path / 'o.ppm'), 'magic'),
    ):
        done = call(run, *arguments)
        assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
        assert message in done.stderr


def test_an_image_may_come_through_a_pipe(programs, model, image, expected, tmp_path):
    data = b'P6\n30 20\n255\n' + image.tobytes()
    words = [programs / 'bfcn-run', model, '/dev/stdin', '/dev/stdout']
    done = subprocess.run(words, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b'P6\n30 20\n255\n' + expected.tobytes()


def test_the_bench_tells_how_many_threads_ran(programs, model):
    for cores, wanted, ran in (('1', 8, 1), ('3', 2, 2)):
        done = subprocess.run(
            [
                programs / 'bfcn-bench',
                model,
                '--size',
                '8',
                '9',
                '--runs',
                '1',
                '--threads',
                str(wanted),
            ],
            env=os.environ | {'BFCN_CORES': cores},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1].startswith(f'8 x 9, {ran} threads, ')
