"""Build for ARM, run every test under qemu on each CPU level, compare whole models with this machine."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bfcn_kernels.arm import toolchain
from bfcn_kernels.gguf_io import Metadata, Model, write
from bfcn_kernels.nets import resnet_bfcn
from bfcn_kernels.testing import random_graph


@dataclass(frozen=True)
class Level:
    """A CPU model of qemu that has just these instruction sets, best first."""

    architecture: str
    cpu: str
    isas: tuple[str, ...]

    def command(self, *arguments: str | Path) -> list[str]:
        return [*toolchain.emulator(self.architecture, self.cpu), *map(str, arguments)]


LEVELS = (
    Level('armv7', 'cortex-a15', ('neon', 'portable')),
    Level('aarch64', 'cortex-a53', ('neon', 'portable')),
    Level('aarch64', 'cortex-a72', ('neon', 'portable')),
    Level('aarch64', 'cortex-a76', ('dotprod', 'neon', 'portable')),
    Level('aarch64', 'neoverse-n1', ('dotprod', 'neon', 'portable')),
    Level('aarch64', 'max', ('i8mm', 'dotprod', 'neon', 'portable')),
)
TOY = toolchain.KERNELS / 'tests' / 'data' / 'toy.gguf'


class Failure(Exception):
    """What differs, in one line."""


def run(folder: Path, jobs: int) -> int:
    """Every check, `jobs` at a time, a line each as they end; the exit status.

    folder holds the builds and models between runs.
    """
    toolchain.require_build('armv7', 'aarch64')
    folder.mkdir(parents=True, exist_ok=True)
    native = toolchain.build(folder / 'native')
    for name in toolchain.ARCHITECTURES:
        toolchain.build(folder / name, name)
    passed = failed = 0
    for title, failure in _ended(_checks(folder, native, _models(folder)), jobs):
        if failure is None:
            passed += 1
            print(f'ok      {title}', flush=True)
        else:
            failed += 1
            print(f'FAILED  {title}: {failure}', file=sys.stderr, flush=True)
    print(f'{passed} passed, {failed} failed')
    return int(failed > 0)


Check = tuple[str, Callable[[], None]]


def _ended(checks: Iterable[Check], jobs: int) -> Iterator[tuple[str, Failure | None]]:
    """Title and outcome of each check when it ends, `jobs` at a time. After Ctrl-C none begins."""
    running: dict[Future, str] = {}
    with ThreadPoolExecutor(jobs) as pool:  # each waits for an emulator
        for title, check in checks:
            if len(running) == jobs:
                yield from _next(running)
            running[pool.submit(_tried, check)] = title
        while running:
            yield from _next(running)


def _next(running: dict[Future, str]) -> Iterator[tuple[str, Failure | None]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def _tried(check: Callable[[], None]) -> Failure | None:
    try:
        check()
    except Failure as failure:
        return failure
    return None


def _checks(folder: Path, native: Path, models: list[tuple[Path, int, int]]) -> Iterator[Check]:
    for name in toolchain.ARCHITECTURES:
        yield f'{name}: C tests but those of kernels', partial(_ctest, folder / name)
    yield (
        'armv7: a map that 32 bits cannot address',
        partial(_too_large, LEVELS[0], folder / 'armv7'),
    )
    references, seen = {}, set()
    for level in LEVELS:
        again = (level.architecture, level.isas) in seen  # the same code ran on another CPU
        seen.add((level.architecture, level.isas))
        build = folder / level.architecture
        where = f'{level.architecture} {level.cpu}'
        if not again:
            yield f'{where}: every kernel of {level.isas[0]}', partial(_kernels, level, build)
        for path, height, width in models:
            if again and path.stem.startswith(('r18', 'r50')):
                continue
            if path not in references:
                references[path] = _trace([str(native / 'tests/test_trace')], path, height, width)
            yield (
                f'{where}: every value of {path.name} at {height} x {width}',
                partial(_equal, level, build, path, height, width, references[path]),
            )
        yield f'{where}: bfcn-run', partial(_run_image, level, build, native, folder)


def _models(folder: Path) -> list[tuple[Path, int, int]]:
    """Model files and image sizes: every op and odd channels; random graphs; whole networks."""
    models = [(TOY, 33, 37)]
    graphs = {f'graph{seed}': (random_graph(seed), 12, 17) for seed in range(3)}
    graphs['r18_2w2a'] = resnet_bfcn(18, 2, 2, classes=11), 90, 120  # CamVid's classes and ratio
    graphs['r18_4w4a'] = resnet_bfcn(18, 4, 4, classes=11, width=32), 33, 65
    graphs['r50_1w2a'] = resnet_bfcn(50, 1, 2), 160, 256
    for name, (graph, height, width) in graphs.items():
        path = folder / f'{name}.gguf'
        write(path, Model(graph, Metadata(name)))
        models.append((path, height, width))
    return models


def _call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise Failure(
            f'{Path(command[-1]).name} exits with {done.returncode}: {" / ".join(said[-3:])}'
        )
    return done.stdout


def _ctest(build: Path) -> None:
    """All but what _kernels runs on each level."""
    own = '^(kernels|epilogue)$'
    _call(['ctest', '--test-dir', str(build), '--output-on-failure', '--exclude-regex', own])


def _kernels(level: Level, build: Path) -> None:
    """test_kernels and test_epilogue pass, and they ran the kernels of this level, no more, no less."""
    said = _call(level.command(build / 'tests/test_kernels'))
    lines = [line.split(None, 1) for line in said.splitlines()]
    ran = {name.rpartition('__')[2] for name, rest in lines if rest.endswith('shapes')}
    if ran != set(level.isas):
        raise Failure(f'kernels of {sorted(ran)} ran, expected {sorted(level.isas)}')
    said = _call(level.command(build / 'tests/test_epilogue'))
    if not said.strip().endswith(f'against {" ".join(level.isas)}'):
        raise Failure(f'the epilogues ran {said.strip()}')


def _too_large(level: Level, build: Path) -> None:
    """One clear line, before anything is allocated."""
    command = level.command(build / 'tests/test_trace', TOY, 30000, 30000)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 1 or 'more than this machine addresses' not in done.stderr:
        raise Failure(f'exit {done.returncode}, says {done.stderr.strip()[-200:]!r}')


def _trace(prefix: list[str], model: Path, height: int, width: int) -> dict[str, list[str]]:
    """Kernel and digest by op; the instruction sets by 'isas', activations and weights by 'bytes'."""
    said = _call([*prefix, str(model), str(height), str(width)])
    return {line.split()[0]: line.split()[1:] for line in said.splitlines()}


def _equal(
    level: Level, build: Path, model: Path, height: int, width: int, expected: dict[str, list[str]]
) -> None:
    """Every value equals this machine's, and the best instruction set's kernels ran the layers."""
    got = _trace(level.command(build / 'tests/test_trace'), model, height, width)
    if tuple(got.pop('isas')) != level.isas:
        raise Failure(f'this build has other instruction sets than {level.isas}')
    got.pop('bytes')
    for name, (kernel, digest) in got.items():
        if expected[name][1] != digest:
            raise Failure(f'op {name!r} differs (kernel {kernel})')
    kernels = {kernel for kernel, _ in got.values() if kernel != '-'}
    portable = {kernel for kernel in kernels if kernel.endswith('__portable')}
    if portable:
        raise Failure(f'kernels {sorted(portable)} ran, where {level.isas[0]} has its own')
    best = [kernel for kernel in kernels if kernel.endswith(f'__{level.isas[0]}')]
    if not best:
        raise Failure(f'no kernel of {level.isas[0]} ran, only {sorted(kernels)}')


def _run_image(level: Level, build: Path, native: Path, folder: Path) -> None:
    """bfcn-run writes the same picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    pictures = []
    with tempfile.TemporaryDirectory(dir=folder) as own:
        source, out = Path(own, 'in.ppm'), Path(own, 'out.ppm')
        source.write_bytes(b'P6\n56 40\n255\n' + pixels.tobytes())
        for prefix, program in (([], native / 'bfcn-run'), (level.command(), build / 'bfcn-run')):
            _call([*prefix, str(program), str(TOY), str(source), str(out)])
            pictures.append(out.read_bytes())
    if pictures[0] != pictures[1]:
        raise Failure('the pictures differ')
