"""Print the environment, what is broken in it, and the command that fixes it.

Exit status 1 if something is broken. Needs nothing but Python: whatever is missing is reported.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

STOCK = ('mmsegmentation', 'mmengine', 'mmcv-lite', 'mmcv')
FORK = ('onedl-mmsegmentation', 'onedl-mmengine', 'onedl-mmcv')
ISA_FLAGS = (
    'avx2', 'avx512f', 'avx512_vnni', 'avx512_vpopcntdq', 'amx_int8', 'neon', 'asimd', 'asimddp',
)  # fmt: skip
# A child process: a broken binary package may kill the interpreter that imports it.
IMPORT_PROBE = """
import sys
try:
    __import__(sys.argv[1])
except BaseException as error:
    print(f'{type(error).__name__}: {error}'.splitlines()[0])
    sys.exit(1)
"""
TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps([torch.version.cuda, cuda and torch.cuda.get_device_name(0)]))
"""

Finding = tuple[str, str]


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser('bfcn doctor', description=__doc__).parse_args(arguments)
    installed = versions()
    for name, value in environment(installed):
        print(f'{name:<22} {value}')
    findings = list(find_breaks(installed))
    for problem, fix in findings:
        print(f'\nBROKEN  {problem}\n   FIX  {fix}')
    print('\nNothing is broken.' if not findings else f'\n{len(findings)} broken.')
    return 1 if findings else 0


def versions() -> dict[str, str]:
    """Version of each distribution that matters and is installed."""
    names = ('torch', 'triton', 'numpy', *STOCK, *FORK, 'ftfy', 'regex', 'setuptools', 'bfcn_mm')
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment(installed: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield 'python', f'{platform.python_version()}  {sys.executable}'
    yield 'system', f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores'
    yield 'instruction sets', ' '.join(isa_flags()) or 'unknown'
    yield 'C compiler', compiler()
    yield from installed.items()
    if 'torch' in installed:
        yield 'CUDA', cuda()


def isa_flags() -> list[str]:
    """The flags among ISA_FLAGS that Linux reports; empty on other systems."""
    cpuinfo = Path('/proc/cpuinfo')
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [flag for flag in ISA_FLAGS if flag in words]


def compiler() -> str:
    command = os.environ.get('CC') or shutil.which('cc') or shutil.which('gcc')
    if not command:
        return 'none (only packed models on the CPU need one; set CC)'
    try:
        printed = subprocess.run([*command.split(), '--version'], capture_output=True, text=True)
    except OSError as error:
        return f'{command}: {error.strerror}'
    return (printed.stdout or printed.stderr).partition('\n')[0]


def cuda() -> str:
    code, printed = run_python(TORCH_PROBE)
    if code:
        return 'unknown: torch does not import'
    toolkit, device = json.loads(printed)
    if device:
        return f'{toolkit}, {device}'
    return 'torch is built without it' if toolkit is None else f'{toolkit}, but no device'


def find_breaks(installed: dict[str, str]) -> Iterator[Finding]:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield 'bfcn_mm is tested on Python 3.10 to 3.12', 'make clean demo PYTHON=python3.11'
    if importlib.util.find_spec('torch') is None:
        yield 'torch is not installed', 'pip install torch==2.13.0'
        return
    yield from mixed_stacks(installed)
    if importlib.util.find_spec('mmseg') is None:
        yield 'mmseg is not installed', install('mmseg')
        return
    for module in ('ftfy', 'regex'):
        if importlib.util.find_spec(module) is None:
            yield (
                f'{module} is missing: mmseg imports it but does not ask for it',
                (f'pip install {module}'),
            )
    yield from failing_imports('onedl' if 'onedl-mmsegmentation' in installed else 'mmseg')


def mixed_stacks(installed: dict[str, str]) -> Iterator[Finding]:
    """Distributions that own the same files: the one installed last has overwritten the others."""
    for names in (
        ('mmsegmentation', 'onedl-mmsegmentation'),
        ('mmengine', 'onedl-mmengine'),
        ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    ):
        both = [name for name in names if name in installed]
        if len(both) < 2:
            continue
        stack = FORK if 'onedl-mmsegmentation' in installed else STOCK
        keep = next((name for name in both if name in stack), both[0])
        yield (
            f'{" and ".join(both)} overwrite each other: same directory',
            f'pip uninstall -y {" ".join(both)} && pip install {keep}=={installed[keep]}',
        )
    if 'onedl-mmengine' in installed and 'mmcv-lite' in installed:
        yield (
            'mmcv-lite requires the stock mmengine, which overwrites onedl-mmengine',
            'pip uninstall -y mmcv-lite && pip install onedl-mmcv',
        )


def failing_imports(extra: str) -> Iterator[Finding]:
    """Import what every run imports, in the order in which one needs the other."""
    for module in ('mmengine', 'mmcv', 'mmseg.models', 'bfcn_mm'):
        code, printed = run_python(IMPORT_PROBE, module)
        if code:
            reason = printed or f'the interpreter died (status {code})'
            yield f'import {module}: {reason}', install(extra)


def install(extra: str) -> str:
    return f"pip install -c constraints.txt torch==2.13.0 -e '.[{extra}]'"


def run_python(program: str, *args: str) -> tuple[int, str]:
    """Exit status and last line of standard output of a small program."""
    done = subprocess.run([sys.executable, '-c', program, *args], capture_output=True, text=True)
    return done.returncode, done.stdout.strip().rpartition('\n')[2]
