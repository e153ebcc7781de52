"""The library that is built at first use: where it is kept, who may write it, who builds it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfcn_kernels.cpu import build, store

# Stands for the runtime, which takes longer to build.
SOURCE = '__attribute__((visibility("default"))) int bfcn_answer(void) { return 42; }'
FIND = """
import sys
from pathlib import Path
from bfcn_kernels.cpu import build
build.sources = lambda: [Path(sys.argv[1])]
print(build.library())
"""


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / 'source.c'
    path.write_text(SOURCE)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch, source) -> Path:
    """An empty cache, for a small source, with the compilers of the machine."""
    monkeypatch.setattr(build, 'sources', lambda: [source])
    monkeypatch.setattr(build, 'PREBUILT', tmp_path / 'prebuilt')
    monkeypatch.setenv('BFCN_CACHE', str(tmp_path / 'cache'))
    for name in ('CC', 'BFCN_CFLAGS', 'BFCN_PREBUILT'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / 'cache'


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    def remove() -> None:
        (tmp_path / 'empty').mkdir()
        monkeypatch.setenv('PATH', str(tmp_path / 'empty'))

    return remove


def start(source: Path, cache: Path, **more: object) -> subprocess.Popen:
    """A process of its own that wants the library."""
    environment = os.environ | {'BFCN_CACHE': str(cache), 'BFCN_PREBUILT': '0'}
    environment |= {'PYTHONPATH': str(Path(build.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, '-c', FIND, str(source)],
        env=environment | {name: str(value) for name, value in more.items()},
        stdout=subprocess.PIPE,
        text=True,
    )


def compiler(path: Path, script: str) -> Path:
    """A compiler that runs a line of shell before it compiles."""
    path.parent.mkdir(exist_ok=True)
    real = shutil.which('cc')
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) ;; *) {script};; esac\nexec {real} "$@"\n'
    )
    path.chmod(0o755)
    return path


def answer(library) -> int:
    return library.bfcn_answer()


def test_no_compiler_is_a_clear_error(cache, monkeypatch):
    monkeypatch.setenv('CC', 'no-such-compiler')
    with pytest.raises(RuntimeError, match=r'no C compiler found .*set CC'):
        build.library()


def test_a_cache_that_cannot_be_written_is_a_clear_error(cache, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'cache'):
        monkeypatch.setenv('BFCN_CACHE', str(folder))
        with pytest.raises(RuntimeError, match=r'cannot keep the C runtime in .*set BFCN_CACHE'):
            build.library()


def test_a_library_that_is_there_needs_no_compiler(cache, no_compiler):
    built = build.library()
    assert built.parent == cache
    assert cache.stat().st_mode & 0o077 == 0
    no_compiler()
    assert build.library() == built
    assert answer(build.open_library()) == 42


def test_a_library_by_one_compiler_serves_who_names_none_but_not_who_names_another(
    cache, monkeypatch
):
    monkeypatch.setenv('CC', 'gcc')
    by_gcc = build.library()
    monkeypatch.delenv('CC')
    assert build.library() == by_gcc
    assert build.built_by(by_gcc).startswith('gcc gcc')
    monkeypatch.setenv('CC', 'cc')
    assert build.library() != by_gcc


def test_machine_source_and_flags_are_in_the_name(cache, monkeypatch, source):
    names = {build.library().name}
    assert names.pop().startswith(f'libbfcn-{build.abi()}-')
    for change in (
        lambda: monkeypatch.setenv('BFCN_CFLAGS', '-O0'),
        lambda: source.write_text(SOURCE + ' '),
        lambda: monkeypatch.setattr(build, 'abi', lambda: 'riscv64-linux-gnu'),
    ):
        change()
        names.add(build.library().name)
    assert len(names) == 3


@pytest.mark.parametrize('kept', [0, 1, 100, 2000, -1])
def test_a_cut_library_is_built_again_once(cache, kept):
    path = build.library()
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.warns(UserWarning, match='is damaged and is built again'):
        library = build.open_library()
    assert answer(library) == 42
    assert store.read_seal(path)
    assert build.library() == path


def test_a_library_with_a_wrong_byte_is_built_again(cache):
    path = build.library()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match='is damaged'):
        assert answer(build.open_library()) == 42


def test_a_whole_library_that_does_not_load_is_built_again_once(cache):
    """As one that needs a newer C library than this system of a shared home has."""
    path = build.library()
    path.write_bytes(b'no library')
    store.seal(path, sources='', compiler='')
    with pytest.warns(UserWarning, match='cannot be loaded, building it again'):
        assert answer(build.open_library()) == 42
    assert answer(build.open_library()) == 42


def test_a_cache_that_others_can_write_is_refused(cache):
    path = build.library()
    for target in (cache, path):
        mode = target.stat().st_mode
        for others in (0o020, 0o002):
            target.chmod(mode | others)
            with pytest.raises(RuntimeError, match=rf'{target} can be written by others') as error:
                build.open_library()
            assert '\n' not in str(error.value)
        target.chmod(mode)
    assert build.library() == path


def test_a_cache_of_another_user_is_refused(cache, monkeypatch):
    path = build.library()
    if os.geteuid():
        monkeypatch.setattr(os, 'geteuid', lambda: 12345)
    for target in (cache, path):
        if not os.geteuid():
            os.chown(target, 12345, -1)
        with pytest.raises(RuntimeError, match=r'belongs to user \d+, not to you \(\d+\)'):
            build.open_library()
        if not os.geteuid():
            os.chown(target, 0, -1)


def test_a_new_cache_of_another_user_is_refused_before_anything_is_built(cache, monkeypatch):
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(RuntimeError, match='can be written by others'):
        build.library()
    assert not list(cache.iterdir())


def test_four_processes_run_one_compiler(tmp_path, source):
    log = tmp_path / 'log'
    slow = compiler(tmp_path / 'bin' / 'cc', f'echo run >> {log}; sleep 1')
    started = [start(source, tmp_path / 'cache', CC=slow) for _ in range(4)]
    paths = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(paths) == 1
    assert log.read_text() == 'run\n'
    assert [path.suffix for path in (tmp_path / 'cache').glob('[!.]*')] == ['.so']


def test_a_killed_builder_leaves_the_lock_and_what_it_left_is_removed(tmp_path, source):
    cache, reached = tmp_path / 'cache', tmp_path / 'reached'
    stuck = compiler(tmp_path / 'bin' / 'stuck', f'echo $$ > {reached}; exec sleep 60')
    first = start(source, cache, CC=stuck)
    while not (reached.exists() and reached.read_text()):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert list(cache.glob('.build-*'))
    second = start(source, cache, CC='cc')
    path = Path(second.communicate(timeout=50)[0].strip())
    assert store.read_seal(path)
    assert not list(cache.glob('.build-*'))
    os.kill(int(reached.read_text()), signal.SIGKILL)


def test_a_compiler_may_have_spaces_in_its_path_or_words_after_it(cache, monkeypatch, tmp_path):
    spaced = compiler(tmp_path / 'my tools' / 'c c', ':')
    for command in (str(spaced), 'env cc', f"env '{spaced}'"):
        monkeypatch.setenv('CC', command)
        assert store.read_seal(build.library())


def test_the_compiler_needs_no_other_folder_that_can_be_written(cache, monkeypatch):
    monkeypatch.setenv('TMPDIR', '/proc')
    assert answer(build.open_library()) == 42


def test_a_shipped_library_comes_first_and_needs_no_compiler(cache, no_compiler):
    shipped = build.prebuild(build.PREBUILT)
    assert shipped == build.PREBUILT / build.abi() / 'libbfcn.so'
    no_compiler()
    assert build.library() == shipped
    assert answer(build.open_library()) == 42
    assert not cache.exists()


def test_a_shipped_library_may_lack_a_seal(cache, no_compiler):
    shipped = build.prebuild(build.PREBUILT)
    subprocess.run(['strip', shipped], check=True)
    assert store.read_seal(shipped) is None
    no_compiler()
    assert answer(build.open_library()) == 42


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda data: data[: len(data) // 2], 'is cut off'),
        (lambda data: data[:30], 'is cut off'),
        (lambda data: data[:18] + b'\xb7\x00' + data[20:], 'is for another machine'),
        (lambda data: b'no library', 'is not an ELF file'),
        (lambda data: data[:-3000] + b'?' + data[-2999:], 'is damaged'),
    ],
)  # fmt: skip
def test_a_shipped_library_that_will_not_do_is_named_and_another_is_built(cache, change, message):
    shipped = build.prebuild(build.PREBUILT)
    if os.uname().machine == 'aarch64' and message == 'is for another machine':
        pytest.skip('the machine that this test writes is this one')
    shipped.write_bytes(change(shipped.read_bytes()))
    with pytest.warns(UserWarning, match=f'libbfcn.so {message} and is not used'):
        path = build.library()
    assert path.parent == cache


def test_a_shipped_library_of_other_sources_is_named(cache, source):
    build.prebuild(build.PREBUILT)
    source.write_text(SOURCE.replace('42', '43'))
    with pytest.warns(UserWarning, match='was built from other sources'):
        assert answer(build.open_library()) == 43


def test_a_shipped_library_can_be_passed_over(cache, monkeypatch):
    shipped = build.prebuild(build.PREBUILT)
    monkeypatch.setenv('BFCN_CFLAGS', '-O0')
    with pytest.warns(UserWarning, match=r'BFCN_CFLAGS has no effect .*BFCN_PREBUILT=0'):
        assert build.library() == shipped
    monkeypatch.setenv('BFCN_PREBUILT', '0')
    assert build.library().parent == cache
