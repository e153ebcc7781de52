"""Finds the C runtime, or builds it with the system's compiler, once per source, flags and machine.

In this order: PREBUILT / abi() / libbfcn.so, which a package may ship; the cache; a compiler.
docs/embedding.md describes it.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

from bfcn_kernels.cpu import elf, store

HERE = Path(__file__).parent
PREBUILT = HERE / 'prebuilt'
# clang first where it is installed: gcc 12 spills registers in the lookup kernels.
COMPILERS = ('clang', *(f'clang-{version}' for version in range(22, 13, -1)), 'cc', 'gcc')
FLAGS = (
    '-std=c11', '-D_GNU_SOURCE', '-O3', '-ffp-contract=off', '-fno-math-errno',
    '-fvisibility=hidden', '-fPIC', '-shared',
)  # fmt: skip


def open_library() -> ctypes.CDLL:
    """Load library(). One of the cache that cannot be loaded is built again, once.

    Raises RuntimeError as library() does, or if the new one cannot be loaded either.
    """
    if shipped := prebuilt():
        try:
            return ctypes.CDLL(str(shipped))
        except OSError as error:
            warnings.warn(f'{shipped} cannot be loaded, building another ({error})')
    path = _cached() or _built()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        warnings.warn(f'{path} cannot be loaded, building it again ({error})')
    try:
        return ctypes.CDLL(str(_built(instead_of=path)))
    except OSError as error:
        raise RuntimeError(
            f'the C runtime cannot be loaded from where it was built ({error}): '
            'set BFCN_CACHE to another folder'
        ) from error


def library() -> Path:
    """The shared library: shipped, cached or built now.

    Environment: BFCN_PREBUILT=0 passes over a shipped one. CC names the compiler (without it any cached
    library will do), BFCN_CFLAGS adds flags, BFCN_CACHE (or XDG_CACHE_HOME) the cache. Where several
    processes need the library, one builds it.
    Raises RuntimeError without a compiler, if it fails, or if others can write the cache, or nobody can.
    """
    return prebuilt() or _cached() or _built()


def abi() -> str:
    """The machine and its calling convention, 'x86_64-linux-gnu' or 'arm-linux-gnueabihf'."""
    triple = sysconfig.get_config_var('MULTIARCH')
    if not triple or '-' not in triple:
        triple = f'{platform.machine()}-{sys.platform}'
    return triple


def prebuilt() -> Path | None:
    """The library that the package ships for this machine, or None; a warning if there is one that will
    not do."""
    path = PREBUILT / abi() / 'libbfcn.so'
    if os.environ.get('BFCN_PREBUILT') == '0' or not path.is_file():
        return None
    trouble = elf.trouble(path)
    about = store.read_seal(path)
    if not trouble and store.is_sealed(path) and not about:
        trouble = 'is damaged'
    elif not trouble and about and about['sources'] != _source_digest():
        trouble = 'was built from other sources'
    if trouble:
        warnings.warn(f'{path} {trouble} and is not used')
        return None
    if os.environ.get('BFCN_CFLAGS'):
        warnings.warn(f'BFCN_CFLAGS has no effect on {path}: set BFCN_PREBUILT=0, too')
    return path


def prebuild(place: Path = PREBUILT) -> Path:
    """Build the library for this machine into place / abi() / libbfcn.so, for a package to ship."""
    path = place / abi() / 'libbfcn.so'
    path.parent.mkdir(parents=True, exist_ok=True)
    _build(path)
    return path


def built_by(path: Path) -> str:
    """The first line of the version of the compiler that built a library; '' where that is not known."""
    about = store.read_seal(path)
    return about['compiler'] if about else ''


def sources() -> list[Path]:
    return sorted(HERE.glob('src/**/*.c'))


def find_compiler() -> tuple[list[str], str]:
    """The command, and what tells its version. RuntimeError if there is none."""
    wanted = os.environ.get('CC')
    for name in [wanted] if wanted else COMPILERS:
        # CC may be a path with spaces in it, or a command with words of its own ('ccache gcc').
        command = [name] if shutil.which(name) else shlex.split(name)
        if not command or not shutil.which(command[0]):
            continue
        asked = subprocess.run([*command, '--version'], capture_output=True, text=True)
        if asked.returncode == 0:
            return command, f'{name} {asked.stdout}'
    tried = f'CC={wanted}' if wanted else 'clang, cc and gcc'
    raise RuntimeError(
        f'no C compiler found (tried {tried}): install one, set CC, or load with engine="numpy"'
    )


def _cached() -> Path | None:
    """A whole library of the cache; a warning for each that is not.

    Raises RuntimeError if others can write it, or the folder.
    """
    place = store.folder()
    if not place.is_dir():
        return None
    store.check_owner(place)
    for path in _candidates(place):
        store.check_owner(path)
        if store.read_seal(path):
            return path
        warnings.warn(f'{path} is damaged and is built again')
    return None


def _candidates(place: Path) -> list[Path]:
    """Libraries of these sources and flags: by the compiler that CC names, or by any."""
    return sorted(place.glob(_name() if os.environ.get('CC') else _name('*')))


def _built(instead_of: Path | None = None) -> Path:
    """Build into the cache, unless another process has done so by now.

    Damaged libraries are removed first, and so is `instead_of`.
    """
    place = store.folder()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.check_owner(place)
        with store.locked(place):
            for path in _candidates(place):
                if path == instead_of or not store.read_seal(path):
                    path.unlink()
            return _cached() or _build(place / _name())
    except OSError as error:
        raise RuntimeError(
            f'cannot keep the C runtime in {place} ({error.strerror}): '
            'set BFCN_CACHE to a folder that can be written'
        ) from error


def _name(built_by: str | None = None) -> str:
    """libbfcn-ABI-DIGEST-COMPILER.so: of sources and flags, and of what CC asks for."""
    digest = hashlib.sha256('\0'.join([_source_digest(), *_flags()]).encode()).hexdigest()[:20]
    wanted = os.environ.get('CC')
    compiler = hashlib.sha256(wanted.encode()).hexdigest()[:8] if wanted else 'any'
    return f'libbfcn-{abi()}-{digest}-{built_by or compiler}.so'


def _flags() -> list[str]:
    return [*FLAGS, *shlex.split(os.environ.get('BFCN_CFLAGS', ''))]


def _source_digest() -> str:
    digest = hashlib.sha256()
    for path in [*sources(), *sorted(HERE.glob('**/*.h')), *sorted(HERE.glob('**/*.inc'))]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _build(path: Path) -> Path:
    """Compile, seal, rename. OSError if the folder cannot be written, RuntimeError as library()."""
    room = Path(tempfile.mkdtemp(prefix='.build-', dir=path.parent))
    try:
        compiler, version = find_compiler()
        made = room / 'libbfcn.so'
        files = [str(source) for source in sources()]
        command = [
            *compiler,
            *_flags(),
            f'-I{HERE / "include"}',
            *files,
            '-o',
            str(made),
            '-lpthread',
            '-lm',
        ]
        run = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {'TMPDIR': str(room)}
        )
        if run.returncode:
            raise RuntimeError(
                f'building the C runtime failed; set CC to another compiler than '
                f'{shlex.join(compiler)!r}:\n{run.stderr[-2000:]}'
            )
        store.seal(made, sources=_source_digest(), compiler=version.splitlines()[0])
        made.chmod(0o755)
        return made.replace(path)
    finally:
        shutil.rmtree(room, ignore_errors=True)


if __name__ == '__main__':
    print(prebuild(*map(Path, sys.argv[1:2])))
