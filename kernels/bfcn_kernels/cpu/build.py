"""Builds the C runtime with the system's compiler at first use, once per source, compiler and flags."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# clang first where it is installed: gcc 12 spills registers in the lookup kernels.
COMPILERS = ('clang', *(f'clang-{version}' for version in range(22, 13, -1)), 'cc', 'gcc')
FLAGS = (
    '-std=c11', '-D_GNU_SOURCE', '-O3', '-ffp-contract=off', '-fno-math-errno',
    '-fvisibility=hidden', '-fPIC', '-shared',
)  # fmt: skip


def library() -> Path:
    """The shared library, built now unless the cache has it.

    Environment: CC names the compiler, BFCN_CFLAGS adds flags, BFCN_CACHE (or XDG_CACHE_HOME) the
    cache. Safe when several processes build at once: each builds its own file, the rename is atomic.
    Raises RuntimeError if there is no compiler, it fails, or the cache cannot be written.
    """
    compiler, version = find_compiler()
    flags = [*FLAGS, *os.environ.get('BFCN_CFLAGS', '').split()]
    path = _cache() / f'libbfcn-{_digest(version, flags)}.so'
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _build([*compiler, *flags], path)
        except OSError as error:
            raise RuntimeError(
                f'cannot keep the C runtime in {path.parent} ({error.strerror}): '
                'set BFCN_CACHE to a folder that can be written'
            ) from error
    return path


def sources() -> list[Path]:
    return sorted(HERE.glob('src/**/*.c'))


def find_compiler() -> tuple[list[str], str]:
    """The command, and what tells its version. RuntimeError if there is none."""
    wanted = os.environ.get('CC')
    for name in [wanted] if wanted else COMPILERS:
        command = name.split()
        if not shutil.which(command[0]):
            continue
        asked = subprocess.run([*command, '--version'], capture_output=True, text=True)
        if asked.returncode == 0:
            return command, f'{name} {asked.stdout}'
    tried = f'CC={wanted}' if wanted else 'clang, cc and gcc'
    raise RuntimeError(
        f'no C compiler found (tried {tried}): install one, set CC, or load with engine="numpy"'
    )


def _cache() -> Path:
    if 'BFCN_CACHE' in os.environ:
        return Path(os.environ['BFCN_CACHE'])
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'bfcn_kernels'


def _digest(version: str, flags: list[str]) -> str:
    digest = hashlib.sha256('\0'.join([version, *flags]).encode())
    for path in [*sources(), *sorted(HERE.glob('**/*.h')), *sorted(HERE.glob('**/*.inc'))]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def _build(command: list[str], path: Path) -> None:
    handle, made = tempfile.mkstemp(suffix='.so', dir=path.parent)
    os.close(handle)
    try:
        files = [str(source) for source in sources()]
        full = [*command, f'-I{HERE / "include"}', *files, '-o', made, '-lpthread', '-lm']
        run = subprocess.run(full, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(
                f'building the C runtime failed; set CC to another compiler than '
                f'{command[0]!r}:\n{run.stderr[-2000:]}'
            )
        os.chmod(made, 0o755)
        os.replace(made, path)
    finally:
        Path(made).unlink(missing_ok=True)
