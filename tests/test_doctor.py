"""tools/doctor.py: silent on a sound environment, exact on a broken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bfcn_mm import compat

ROOT = Path(__file__).parents[1]
DOCTOR = ROOT / 'tools' / 'doctor.py'
SOUND = {'mmsegmentation': '1.2.2', 'mmengine': '0.10.7', 'mmcv-lite': '2.1.0'}
FORK = {
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
}


@pytest.fixture(scope='module')
def doctor():
    from bfcn_mm.cli import doctor

    return doctor


@pytest.mark.skipif(
    not compat.has_distribution('mmsegmentation') or compat.has_distribution('mmcv'),
    reason='only stock mmseg beside mmcv-lite needs the installed hook',
)
def test_missing_hook_is_reported(tmp_path):
    # In front of an installed hook: a module of its name that hooks only when bfcn_mm asks it to.
    late = (
        f'def install():\n    import runpy; runpy.run_path({str(ROOT / "_bfcn_mm_compat.py")!r})\n'
    )
    (tmp_path / '_bfcn_mm_compat.py').write_text(late)
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / 'kernels')))
    done = subprocess.run(
        [sys.executable, str(DOCTOR)],
        env=os.environ | {'PYTHONPATH': paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (
        "BROKEN  import mmseg.models: ModuleNotFoundError: No module named 'mmcv._ext'\n"
        "   FIX  pip install -c constraints.txt torch==2.13.0 -e '.[mmseg]'\n\n1 broken."
    ) in done.stdout


def test_bare_python_is_told_to_install_torch():
    # No site-packages, so nothing is installed.
    done = subprocess.run([sys.executable, '-E', '-S', str(DOCTOR)], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'BROKEN  torch is not installed\n   FIX  pip install torch==2.13.0' in done.stdout


@pytest.mark.parametrize('installed', [SOUND, FORK, {}])
def test_one_stack_alone_is_sound(doctor, installed):
    assert list(doctor.mixed_stacks(installed)) == []


def test_mmcv_lite_beside_the_fork_has_overwritten_its_mmengine(doctor):
    installed = FORK | {'mmengine': '0.10.7', 'mmcv-lite': '2.2.0'}
    engine, mmcv, cause = doctor.mixed_stacks(installed)
    assert engine == (
        'mmengine and onedl-mmengine overwrite each other: same directory',
        'pip uninstall -y mmengine onedl-mmengine && pip install onedl-mmengine==0.10.12',
    )
    assert mmcv[1] == 'pip uninstall -y mmcv-lite onedl-mmcv && pip install onedl-mmcv==2.3.6'
    assert cause[1] == 'pip uninstall -y mmcv-lite && pip install onedl-mmcv'


def test_full_mmcv_is_kept_on_the_stock_stack(doctor):
    ((_, fix),) = doctor.mixed_stacks(SOUND | {'mmcv': '2.1.0'})
    assert fix == 'pip uninstall -y mmcv mmcv-lite && pip install mmcv==2.1.0'


def test_failing_import_names_the_error_and_the_extra(doctor, monkeypatch):
    answers = {'mmcv': (1, 'ImportError: undefined symbol'), 'bfcn_mm': (-11, '')}
    monkeypatch.setattr(doctor, 'run_python', lambda _, name: answers.get(name, (0, 'noise')))
    mmcv, ours = doctor.failing_imports('onedl')
    assert mmcv == ('import mmcv: ImportError: undefined symbol', doctor.install('onedl'))
    assert ours[0] == 'import bfcn_mm: the interpreter died (status -11)'
