"""libbfcn as C and C++ users meet it: symbols, pkg-config, find_package, add_subdirectory, programs."""

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bfcn_kernels import load

KERNELS = Path(__file__).parents[1]
EMBED = KERNELS / 'tests' / 'embed'
TOY = KERNELS / 'tests' / 'data' / 'toy.gguf'
KINDS = ('static', 'shared')
FAST = ('-DCMAKE_BUILD_TYPE=None', '-DCMAKE_C_FLAGS=-O0')  # these tests are about linking

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ('cmake', 'pkg-config', 'nm', 'cc', 'c++'))),
        reason='needs cmake, pkg-config, nm and compilers for C and C++',
    ),
]


def call(*command, **environment) -> str:
    """What a command prints. Its output is the message where it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout}{done.stderr}'
    return done.stdout


@pytest.fixture(scope='session')
def room(tmp_path_factory) -> Path:
    """A folder that the workers of one run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'embedding'
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope='session', params=KINDS)
def installed(request, room) -> tuple[str, Path]:
    """(kind, a prefix with a space in its name): built once, installed to one place, moved to another."""
    kind = request.param
    prefix = room / f'moved {kind}'
    with (room / f'{kind}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not prefix.exists():
            configure(kind, room / kind)
            call('cmake', '--build', room / kind, '-j', '2')
            call('cmake', '--install', room / kind, '--prefix', room / f'first {kind}')
            (room / f'first {kind}').rename(prefix)
    return kind, prefix


def configure(kind: str, folder: Path, *more: str) -> None:
    shared = 'ON' if kind == 'shared' else 'OFF'
    common = (f'-DBUILD_SHARED_LIBS={shared}', '-DBUILD_TESTING=OFF', *FAST)
    call('cmake', '-S', KERNELS, '-B', folder, *common, *more)


@pytest.fixture(scope='session')
def expected() -> str:
    """What use.c and use.cpp must print, by the numpy oracle."""
    counts = np.arange(3 * 37 * 61, dtype=np.uint32)
    rgb = (counts * np.uint32(2654435761) >> 13).astype(np.uint8)
    labels = load(TOY)(rgb.reshape(37, 61, 3))
    total = 0
    for label in labels.flat:
        total = (total * 31 + int(label)) % 2**32
    return f'{total:08x} {labels.max()}\n'


def api() -> set[str]:
    """Functions of bfcn.h."""
    header = (KERNELS / 'bfcn_kernels/cpu/include/bfcn.h').read_text()
    return set(re.findall(r'^BFCN_API [^;]*?\b(bfcn_\w+)\(', header, re.MULTILINE))


def test_every_global_symbol_begins_with_bfcn(installed):
    kind, prefix = installed
    if kind == 'static':
        lines = call('nm', '-g', '--defined-only', prefix / 'lib/libbfcn.a').splitlines()
    else:
        lines = call('nm', '-D', '--defined-only', prefix / 'lib/libbfcn.so').splitlines()
    names = {fields[2] for line in lines if len(fields := line.split()) == 3}
    assert names >= api()
    assert not [name for name in names if not name.startswith('bfcn_')]
    if kind == 'shared':
        assert names == api()


def test_pkg_config_links_c_and_cpp_programs(installed, expected, tmp_path):
    kind, prefix = installed
    found = dict(PKG_CONFIG_PATH=prefix / 'lib/pkgconfig')
    for compiler, source in (('cc -std=c99', 'use.c'), ('c++ -std=c++11', 'use.cpp')):
        command = (
            f'{compiler} -Wall -Werror -pedantic "{EMBED / source}" -o "{tmp_path / source}.out" '
            + call('pkg-config', '--cflags', '--libs', 'bfcn', **found)
        )
        call('sh', '-c', command)
        printed = call(f'{tmp_path / source}.out', TOY, LD_LIBRARY_PATH=prefix / 'lib')
        assert printed == expected, f'{source}, {kind}'
    assert call('pkg-config', '--modversion', 'bfcn', **found) == '0.1.0\n'


@pytest.mark.parametrize('languages', ['C;CXX', 'CXX'])
def test_find_package_links_c_and_cpp_programs(installed, expected, tmp_path, languages):
    _, prefix = installed
    options = (f'-DCMAKE_PREFIX_PATH={prefix}', f'-DLANGUAGES={languages}')
    call('cmake', '-S', EMBED / 'find', '-B', tmp_path, *options)
    call('cmake', '--build', tmp_path)
    programs = ('use_c', 'use_cpp') if languages == 'C;CXX' else ('use_cpp',)
    assert [call(tmp_path / program, TOY) for program in programs] == [expected] * len(programs)


def test_installed_programs_find_their_library(installed, tmp_path):
    _, prefix = installed
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    (tmp_path / 'in.ppm').write_bytes(b'P6 10 12 255\n' + image.tobytes())
    call(prefix / 'bin/bfcn-run', TOY, tmp_path / 'in.ppm', tmp_path / 'out.ppm')
    assert len((tmp_path / 'out.ppm').read_bytes()) == len(b'P6\n10 12\n255\n') + image.size
    said = call(prefix / 'bin/bfcn-bench', TOY, '--size', 12, 10, '--runs', 1)
    assert said.splitlines()[-1].startswith('12 x 10, 1 threads, ')


def test_absolute_folders_of_an_install_are_in_the_pc_file(tmp_path):
    build = tmp_path / 'build'
    folders = dict(PREFIX='configured', LIBDIR='abs/lib', INCLUDEDIR='include')
    options = [f'-DCMAKE_INSTALL_{name}={tmp_path / path}' for name, path in folders.items()]
    configure('static', build, '-DBFCN_TOOLS=OFF', *options)
    (build / 'libbfcn.a').write_bytes(b'!<arch>\n')  # an archive, to be installed
    relative = '-DCMAKE_INSTALL_INCLUDEDIR=include'
    for more, prefix, include in (
        ((), 'configured', tmp_path / 'include'),
        ((relative,), 'given', tmp_path / 'given/include'),
    ):
        call('cmake', *more, build)
        call('cmake', '--install', build, '--prefix', tmp_path / prefix)
        found = dict(PKG_CONFIG_PATH=tmp_path / 'abs/lib/pkgconfig')
        assert call('pkg-config', '--variable=libdir', 'bfcn', **found) == f'{tmp_path}/abs/lib\n'
        assert call('pkg-config', '--variable=prefix', 'bfcn', **found) == f'{tmp_path / prefix}\n'
        assert call('pkg-config', '--variable=includedir', 'bfcn', **found) == f'{include}\n'
        assert (include / 'bfcn.h').is_file()


def test_a_parent_project_keeps_its_tests_and_its_install(expected, tmp_path):
    call('cmake', '-S', EMBED / 'sub', '-B', tmp_path / 'build', f'-DBFCN_SOURCE={KERNELS}', *FAST)
    call('cmake', '--build', tmp_path / 'build', '-j', '2')
    assert call(tmp_path / 'build/use_cpp', TOY) == expected
    assert 'Total Tests: 1\n' in call('ctest', '--test-dir', tmp_path / 'build', '-N')
    call('cmake', '--install', tmp_path / 'build', '--prefix', tmp_path / 'prefix')
    files = [path for path in (tmp_path / 'prefix').rglob('*') if not path.is_dir()]
    assert files == [tmp_path / 'prefix/bin/use_cpp']
