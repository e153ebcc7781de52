"""The cross compilers, emulators and models of Debian's packages, and builds with them."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).parents[2]
PACKAGES = {
    'cmake': 'cmake',
    'make': 'make',
    'cc': 'gcc',
    'qemu-arm': 'qemu-user',
    'qemu-aarch64': 'qemu-user',
    'arm-linux-gnueabihf-gcc': 'gcc-arm-linux-gnueabihf',
    'aarch64-linux-gnu-gcc': 'gcc-aarch64-linux-gnu',
    'arm-linux-gnueabihf-g++': 'g++-arm-linux-gnueabihf',
    'aarch64-linux-gnu-g++': 'g++-aarch64-linux-gnu',
    'arm-linux-gnueabihf-nm': 'binutils-arm-linux-gnueabihf',
    'aarch64-linux-gnu-nm': 'binutils-aarch64-linux-gnu',
    'llvm-mc-19': 'llvm-19',
    'llvm-mca-19': 'llvm-19',
}


@dataclass(frozen=True)
class Architecture:
    name: str
    triple: str  # of the GNU tools
    qemu: str


ARCHITECTURES = {
    'armv7': Architecture('armv7', 'arm-linux-gnueabihf', 'qemu-arm'),
    'aarch64': Architecture('aarch64', 'aarch64-linux-gnu', 'qemu-aarch64'),
}


def require(*programs: str) -> None:
    """Raise RuntimeError that names the Debian package of every program that is not installed."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        packages = ' '.join(dict.fromkeys(PACKAGES[program] for program in missing))
        raise RuntimeError(f'{", ".join(missing)} not found: apt-get install {packages}')


def require_build(*architectures: str) -> None:
    """What building for the architectures and running the result takes."""
    tools = [ARCHITECTURES[name] for name in architectures]
    require(
        'cmake', 'make', *(tool.qemu for tool in tools), *(f'{tool.triple}-gcc' for tool in tools)
    )


def build(folder: Path, architecture: str | None = None) -> Path:
    """Build the runtime, its tools and tests; architecture None is this machine's. Returns folder.

    Raises RuntimeError with the compiler's last words where it fails.
    """
    if not (KERNELS / 'CMakeLists.txt').is_file():
        raise RuntimeError(
            f'{KERNELS} has no CMakeLists.txt: run this from a checkout of the sources'
        )
    configure = ['cmake', '-S', str(KERNELS), '-B', str(folder), '-DCMAKE_BUILD_TYPE=Release']
    if architecture:
        configure.append(f'-DCMAKE_TOOLCHAIN_FILE={KERNELS}/cmake/{architecture}.cmake')
    for command in (configure, ['cmake', '--build', folder, '-j', str(os.cpu_count() or 1)]):
        call(command)
    return folder


def call(command: list, text: str | None = None) -> str:
    """What a tool says. Raises RuntimeError with its last words where it fails."""
    run = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f'{command[0]} failed:\n{(run.stdout + run.stderr).strip()[-2000:]}')
    return run.stdout


def emulator(architecture: str, cpu: str) -> list[str]:
    return [ARCHITECTURES[architecture].qemu, '-cpu', cpu]


def symbols(program: Path, architecture: str) -> dict[str, int]:
    """Addresses of a program's functions, Thumb's lowest bit cleared."""
    tool = f'{ARCHITECTURES[architecture].triple}-nm'
    require(tool)
    fields = (line.split() for line in call([tool, program]).splitlines())
    mask = ~1 if architecture == 'armv7' else ~0
    return {f[2]: int(f[0], 16) & mask for f in fields if len(f) == 3 and not f[2].startswith('$')}
