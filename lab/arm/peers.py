"""Other libraries on a model's convolutions, counted and costed as ours are.

Debian's packages for the foreign architecture, unpacked and not installed. Convolutions alone: a peer is
charged neither for pooling nor for upsampling.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bfcn_kernels.arm import toolchain
from bfcn_kernels.gguf_io import read
from lab.arm import blocks
from lab.arm.cycles import Core
from lab.arm.timing import Row, layers_of, rows_of, total_of

KINDS = ('float32', 'int8')
_DEBIAN = {'armv7': 'armhf', 'aarch64': 'arm64'}
_BASE = ('libstdc++6', 'libgcc-s1', 'libc6')


@dataclass(frozen=True)
class Library:
    """source: a program beside this file that takes a kind, reads shapes, and marks where each runs."""

    name: str
    source: str
    compiler: str  # of the GNU tools: gcc or g++
    packages: tuple[str, ...]
    links: tuple[str, ...]


LIBRARIES = (
    Library(
        'xnnpack', 'xnnpack_layers.c', 'gcc',
        ('libxnnpack-dev', 'libxnnpack0', 'libpthreadpool0', 'libpthreadpool-dev', 'libcpuinfo0'),
        ('XNNPACK', 'pthreadpool'),
    ),
    Library(
        'acl', 'acl_layers.cpp', 'g++',
        ('libarm-compute-dev', 'libarm-compute20'), ('arm_compute', 'arm_compute_core'),
    ),
)  # fmt: skip


def time_peer(
    library: Library, path: Path, core: Core, size: tuple[int, int], kind: str, folder: Path
) -> list[Row]:
    """Rows of every convolution of the model in a library, kind 'float32' or 'int8', and their total."""
    layers = layers_of(read(path), size)
    toolchain.require_build(core.architecture)
    triple = toolchain.ARCHITECTURES[core.architecture].triple
    root = sysroot(library, core.architecture, folder)
    program = _build(library, core.architecture, root, folder)
    mark = toolchain.symbols(program, core.architecture)['bfcn_mark']
    shapes = list(dict.fromkeys(layer.shape for layer in layers))
    paths = ':'.join(f'{root}/{part}lib/{triple}' for part in ('usr/', ''))
    listed, phases, _ = blocks.count(
        [*toolchain.emulator(core.architecture, core.qemu), '-L', str(root),
         '-E', f'LD_LIBRARY_PATH={paths}'],
        blocks.build_plugin(folder),
        [mark],
        [str(program), kind],
        folder,
        text=''.join(' '.join(map(str, shape)) + '\n' for shape in shapes),
    )  # fmt: skip
    ran = [phase for phase in phases if phase.mark == mark][
        ::2
    ]  # from the first mark to the second
    engine = f'{library.name} {kind}'
    names = [('x'.join(map(str, shape)), library.name, 0) for shape in shapes]
    by_shape = dict(zip(shapes, rows_of(core, engine, names, ran, listed), strict=True))
    rows = []
    for layer in layers:
        row = by_shape[layer.shape]
        rows.append(Row(core.name, core.ghz, row.engine, layer.op, library.name, layer.macs,
                        row.instructions, row.cycles, row.ms))  # fmt: skip
    weights = sum(
        layer.outputs * layer.kernel**2 * layer.channels // layer.groups for layer in layers
    )
    return [*rows, total_of(rows, weights * (4 if kind == 'float32' else 1), 0)]


def sysroot(library: Library, architecture: str, folder: Path) -> Path:
    """Debian's packages of a library and of what it needs, unpacked once."""
    root, done = folder / f'{library.name}-{architecture}', 'unpacked'
    if (root / done).exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    debian = _DEBIAN[architecture]
    names = [f'{name}:{debian}' for name in (*library.packages, *_BASE)]
    fetch = subprocess.run(
        ['apt-get', 'download', '-q', *names], cwd=root, capture_output=True, text=True
    )
    if fetch.returncode:
        raise RuntimeError(
            f'{names[0]} cannot be fetched: dpkg --add-architecture {debian} && apt-get update'
        )
    for package in root.glob('*.deb'):
        toolchain.call(['dpkg', '-x', package, root])
    (root / done).touch()
    return root


def _build(library: Library, architecture: str, root: Path, folder: Path) -> Path:
    triple = toolchain.ARCHITECTURES[architecture].triple
    compiler = f'{triple}-{library.compiler}'
    toolchain.require(compiler)
    program = folder / f'{library.name}_layers_{architecture}'
    include, libraries = root / 'usr' / 'include', root / 'usr' / 'lib' / triple
    command = [
        compiler, '-O2', '-no-pie', '-Wno-psabi', Path(__file__).with_name(library.source),
        f'-I{include}', f'-I{include}/{triple}', f'-I{include}/{triple}/arm_compute',
        f'-L{libraries}', *(f'-l{name}' for name in library.links),
        f'-Wl,-rpath-link,{libraries}:{root}/lib/{triple}', '-Wl,--allow-shlib-undefined',
        '-o', program,
    ]  # fmt: skip
    toolchain.call(command)
    return program
