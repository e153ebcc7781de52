"""Wheel, sdist and editable install carry the packages, the C sources and the import hook."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    *('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'CHANGELOG.md', 'LICENSE'),
    'constraints.txt',
    *('bfcn_mm_compat.pth', '_bfcn_mm_compat.py', '_bfcn_command.py', 'bfcn_mm', 'kernels', 'lab'),
]
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(hook, source, target):
    """Run one of setuptools' PEP 517/660 build hooks; the path of what it wrote."""
    target.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, '-c', BUILD, hook, str(target)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the sources: a build writes beside them."""
    folder = tmp_path_factory.mktemp('checkout')
    ignore = shutil.ignore_patterns('__pycache__', '*.so', '*.o', 'build')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def wheel(checkout):
    return build('build_wheel', checkout, checkout / 'dist')


@pytest.fixture(scope='module')
def installed_python(wheel, tmp_path_factory):
    """An interpreter with the wheel in its site-packages, and this environment's packages."""
    folder = tmp_path_factory.mktemp('venv')
    venv.create(folder, symlinks=os.name != 'nt')
    paths = {'base': str(folder), 'platbase': str(folder)}
    zipfile.ZipFile(wheel).extractall(sysconfig.get_path('purelib', 'venv', vars=paths))
    python = Path(sysconfig.get_path('scripts', 'venv', vars=paths), 'python')
    site_packages = Path(importlib.util.find_spec('torch').origin).parents[1]

    def run(*arguments, cwd):
        # On PYTHONPATH .pth files are not read: the only hook is the wheel's.
        environment = os.environ | {'PYTHONPATH': str(site_packages)}
        command = [str(python), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    return run


def expected_files():
    """Every source file of the packages, as a path inside a wheel."""
    roots = {'bfcn_mm': ROOT, 'bfcn_kernels': ROOT / 'kernels'}
    for package, root in roots.items():
        for path in (root / package).rglob('*'):
            if path.suffix in {'.py', '.c', '.cpp', '.cu', '.h', '.inc'}:
                yield path.relative_to(root).as_posix()


def test_wheel_carries_packages_and_hook_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(expected_files()) <= names
    modules = {'bfcn_mm_compat.pth', '_bfcn_mm_compat.py', '_bfcn_command.py'}
    assert modules <= names
    tops = {name.split('/')[0] for name in names if '.dist-info' not in name}
    assert tops == {'bfcn_mm', 'bfcn_kernels', *modules}


def test_uninstall_removes_the_hook(wheel):
    archive = zipfile.ZipFile(wheel)
    (record,) = [name for name in archive.namelist() if name.endswith('.dist-info/RECORD')]
    recorded = [line.split(',')[0] for line in archive.read(record).decode().splitlines()]
    assert 'bfcn_mm_compat.pth' in recorded
    assert '_bfcn_mm_compat.py' in recorded


@pytest.fixture(scope='module')
def unpacked_sdist(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    sdist = build('build_sdist', checkout, folder)
    shutil.unpack_archive(sdist, folder)
    return folder / sdist.name.removesuffix('.tar.gz')


def test_sdist_builds_the_same_wheel(unpacked_sdist, wheel, tmp_path):
    again = build('build_wheel', unpacked_sdist, tmp_path / 'dist')
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('cmake'), reason='needs cmake')
def test_sdist_builds_the_c_runtime_with_its_tests(unpacked_sdist, tmp_path):
    def call(*command):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    fast = ('-DCMAKE_BUILD_TYPE=None', '-DCMAKE_C_FLAGS=-O0')
    call('cmake', '-S', unpacked_sdist / 'kernels', '-B', tmp_path, *fast)
    call(
        'cmake', '--build', tmp_path, '-j', '2', '--target', 'bfcn-run', 'bfcn-bench', 'test_trace'
    )
    model = unpacked_sdist / 'kernels' / 'tests' / 'data' / 'toy.gguf'
    assert 'median' in call(tmp_path / 'bfcn-bench', model, '--size', 8, 9, '--runs', 1)
    assert 'labels' in call(tmp_path / 'tests' / 'test_trace', model, 8, 9)


def test_the_packages_need_numpy_alone(wheel):
    """What trains needs torch, by the extras; what runs a packed model does not."""
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith('.dist-info/METADATA')]
    lines = archive.read(metadata).decode().splitlines()
    needs = [
        line.removeprefix('Requires-Dist: ') for line in lines if line[:14] == 'Requires-Dist:'
    ]
    assert [need for need in needs if 'extra ==' not in need] == ['numpy']
    for extra in ('mmseg', 'onedl', 'triton'):
        assert any('torch>=2.1' in need and f'extra == "{extra}"' in need for need in needs), extra


def test_editable_wheel_carries_the_hook(checkout, tmp_path):
    editable = zipfile.ZipFile(build('build_editable', checkout, tmp_path / 'dist'))
    hook = (ROOT / 'bfcn_mm_compat.pth').read_bytes()
    assert editable.read('bfcn_mm_compat.pth') == hook
    (record,) = [name for name in editable.namelist() if name.endswith('.dist-info/RECORD')]
    assert b'bfcn_mm_compat.pth,' in editable.read(record)


def test_hook_is_there_at_start_and_loads_nothing(installed_python, tmp_path):
    program = """
import sys
print([name for name in ('torch', 'numpy', 'mmcv', 'mmengine', 'bfcn_mm') if name in sys.modules])
print(sys.modules['_bfcn_mm_compat'].MmsegImportHook in sys.meta_path)
"""
    done = installed_python('-c', program, cwd=tmp_path)
    assert done.stdout.split('\n')[:2] == ['[]', 'True'], done.stderr


def test_hook_that_lost_its_module_stays_silent():
    line = (ROOT / 'bfcn_mm_compat.pth').read_text()
    assert line.startswith('import ')
    assert line.count('\n') == 1
    # -I -S: neither this folder nor site-packages are searched.
    done = subprocess.run([sys.executable, '-I', '-S', '-c', line], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b'')


def test_doctor_finds_nothing_broken(installed_python, tmp_path):
    done = installed_python(ROOT / 'tools' / 'doctor.py', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith('Nothing is broken.\n')


@pytest.mark.slow
def test_own_scripts_of_mmseg_run_unmodified(installed_python, tmp_path):
    """They import mmseg before they read a config, so only the installed hook can help them."""
    tools = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim' / 'tools'
    config = write_tiny_run(tmp_path)

    def script(name, *arguments):
        done = installed_python(tools / name, config, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script('train.py', '--work-dir', 'work')
    script('train.py', '--work-dir', 'work', '--resume', '--cfg-options', 'train_cfg.max_iters=3')
    checkpoint = tmp_path / 'work' / 'iter_3.pth'
    assert 'mIoU' in script('test.py', checkpoint, '--work-dir', 'work')
    assert 'Flops: ' in script('analysis_tools/get_flops.py', '--shape', '32', '32')
    benchmark = ('analysis_tools/benchmark.py', checkpoint, '--repeat-times', '1')
    assert 'fps' in script(*benchmark, '--work-dir', 'work').lower()


def write_tiny_run(folder):
    """A float segmentor on four random images, by mmseg's own modules alone."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for index in range(4):
        for kind, shape, top in (('images', (32, 32, 3), 256), ('labels', (32, 32), 3)):
            (folder / kind).mkdir(exist_ok=True)
            pixels = random.integers(0, top, shape).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f'{index}.png')
    config = folder / 'tiny.py'
    config.write_text(TINY_RUN)
    return config


TINY_RUN = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32), seg_pad_val=255),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, num_stages=4,
                  out_indices=(3, ), norm_cfg=dict(type='BN')),
    decode_head=dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, concat_input=False,
                     num_classes=3, norm_cfg=dict(type='BN'),
                     loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
loader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='BaseSegDataset', data_root='.', img_suffix='.png', seg_map_suffix='.png',
                 data_prefix=dict(img_path='images', seg_map_path='labels'),
                 metainfo=dict(classes=('a', 'b', 'c'), palette=[[0] * 3, [99] * 3, [199] * 3]),
                 pipeline=pipeline))
train_dataloader = loader
val_dataloader = dict(loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
                     logger=dict(type='LoggerHook', interval=1))
log_processor = dict(by_epoch=False)
env_cfg = dict(cudnn_benchmark=False)
"""
