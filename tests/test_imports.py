"""Who may import whom, read from the sources; and what importing the packages must not do."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {'bfcn_mm', 'bfcn_kernels', 'lab', '_bfcn_mm_compat', '_bfcn_command'}

ANY = None
# A part of bfcn_mm, and what of ours it may import. The root module may import anything.
QUANTIZERS, LAYERS, CONVERT = 'bfcn_mm.quantizers', 'bfcn_mm.layers', 'bfcn_mm.convert'
MAY_IMPORT = {
    'bfcn_mm.compat': {'_bfcn_mm_compat'},
    'bfcn_mm.quantizers': set(),
    'bfcn_mm.layers': {QUANTIZERS},
    'bfcn_mm.convert': {QUANTIZERS, LAYERS},
    'bfcn_mm.models': {QUANTIZERS, LAYERS, CONVERT, 'bfcn_mm.export', 'bfcn_kernels'},
    'bfcn_mm.engine': {QUANTIZERS, LAYERS, CONVERT},
    'bfcn_mm.export': {QUANTIZERS, LAYERS, 'bfcn_kernels'},
    'bfcn_mm.analysis': {QUANTIZERS, LAYERS, 'bfcn_mm.datasets'},
    'bfcn_mm.datasets': set(),
    'bfcn_mm.cli': ANY,
    'bfcn_mm.registration': ANY,
    'bfcn_mm.__main__': ANY,
    'bfcn_mm.benchmark': {
        'bfcn_mm.analysis',
        'bfcn_mm.export',
        'bfcn_kernels',
        'bfcn_mm',
        '_bfcn_command',
    },
    'bfcn_kernels': set(),
    '_bfcn_mm_compat': set(),
}


def modules():
    """(dotted name, path) of every module of ours."""
    for base, pattern in (
        (ROOT, 'bfcn_mm/**/*.py'),
        (ROOT / 'kernels', 'bfcn_kernels/**/*.py'),
        (ROOT, '_bfcn_mm_compat.py'),
    ):
        for path in sorted(base.glob(pattern)):
            parts = path.relative_to(base).with_suffix('').parts
            yield '.'.join(parts), path


def imported(name, source):
    """Dotted names that the module `name` imports, at any depth of its code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split('.')[: -node.level] if node.level else []
            base = '.'.join([*package, *(node.module or '').split('.')]).strip('.')
            yield from (f'{base}.{alias.name}' for alias in node.names)


def part(name):
    """The part of the house that a dotted name lies in: two levels of bfcn_mm, one of others."""
    return '.'.join(name.split('.')[: 2 if name.startswith('bfcn_mm.') else 1])


def forbidden(name, source):
    """Imports that the module `name` must not have."""
    home = part(name)
    for target in imported(name, source):
        top = target.split('.')[0]
        if top in OURS and home not in ('bfcn_mm.__init__', part(target)):
            if MAY_IMPORT[home] is not ANY and part(target) not in MAY_IMPORT[home]:
                yield target
        elif home == 'bfcn_kernels' and top in {'torch', 'triton'}:
            if not name.startswith('bfcn_kernels.triton.'):
                yield target
        elif home == 'bfcn_kernels' and top in {'mmseg', 'mmengine', 'mmcv'}:
            yield target


@pytest.mark.parametrize(('name', 'path'), [pytest.param(*pair, id=pair[0]) for pair in modules()])
def test_module_imports_only_what_it_may(name, path):
    assert list(forbidden(name, path.read_text())) == []


def test_every_package_is_seen():
    names = [name for name, _ in modules()]
    for package in ('bfcn_mm', 'bfcn_mm.quantizers', 'bfcn_mm.convert', 'bfcn_kernels'):
        assert f'{package}.__init__' in names


@pytest.mark.parametrize(
    ('name', 'source', 'found'),
    [
        ('bfcn_mm.quantizers.grids', 'from ..layers import QuantConv', 'bfcn_mm.layers.QuantConv'),
        ('bfcn_mm.layers.base', 'from .. import convert', 'bfcn_mm.convert'),
        ('bfcn_mm.models.head', 'import bfcn_mm.engine', 'bfcn_mm.engine'),
        ('bfcn_mm.datasets.camvid', 'from bfcn_mm import quantize_', 'bfcn_mm.quantize_'),
        ('bfcn_mm.convert.plan', 'def f():\n    import bfcn_kernels', 'bfcn_kernels'),
        ('bfcn_kernels.packing', 'from torch import nn', 'torch.nn'),
        ('bfcn_kernels.cpu.binding', 'import triton.language as tl', 'triton.language'),
        ('bfcn_kernels.engine', 'import bfcn_mm', 'bfcn_mm'),
    ],
)
def test_rules_catch_a_forbidden_import(name, source, found):
    assert list(forbidden(name, source)) == [found]


@pytest.mark.parametrize(
    ('name', 'source'),
    [
        ('bfcn_mm.__init__', 'from . import convert, engine'),
        ('bfcn_mm.engine.decay', 'from ..convert import set_cap\nfrom .guard import Guard'),
        ('bfcn_mm.export.lower', 'from bfcn_kernels.graph import Graph'),
        ('bfcn_kernels.triton.bit_conv', 'import torch, triton'),
        ('bfcn_kernels.engine', 'import numpy\nfrom bfcn_kernels import fast'),
    ],
)
def test_rules_let_an_allowed_import_pass(name, source):
    assert list(forbidden(name, source)) == []


WATCHED = """
import sys
started = []
sys.addaudithook(lambda event, args: started.append(args) if event in {'subprocess.Popen',
    'os.exec', 'os.posix_spawn', 'os.system', 'ctypes.dlopen'} else None)
%s
import json
print(json.dumps([sorted(sys.modules), [str(args[0]) for args in started if args[0]]]))
"""


def watch(run_program, statement):
    """Modules loaded and programs or libraries started by a statement."""
    done = run_program(WATCHED % statement)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_importing_bfcn_mm_meets_no_kernel_and_no_compiler(run_program):
    names, started = watch(run_program, 'import bfcn_mm')
    loaded_by_bfcn_mm = {'triton', 'bfcn_kernels.triton', 'bfcn_kernels.cpu'} & set(names)
    if 'triton' in loaded_by_bfcn_mm:
        others, _ = watch(run_program, 'import _bfcn_mm_compat, mmseg.apis')
        loaded_by_bfcn_mm -= set(others)
    assert loaded_by_bfcn_mm == set()
    assert not [command for command in started if 'bfcn' in command or command.endswith('cc')]


def test_importing_bfcn_kernels_needs_no_torch(run_program):
    names, started = watch(run_program, 'import bfcn_kernels')
    assert not {'torch', 'triton', 'mmseg', 'mmengine', 'bfcn_mm'} & set(names)
    assert started == []
