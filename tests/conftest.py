"""What every test shares: one thread a worker, and Python programs run apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is imported. One thread a worker: pytest-xdist already fills the cores.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Before triton is imported. Its kernels run in the interpreter, on CPU tensors.
os.environ['TRITON_INTERPRET'] = '1'

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: one begun at the end would keep one worker while the others wait."""
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)


@pytest.fixture
def run_program(tmp_path):
    """A function (program, *arguments) -> CompletedProcess of a fresh interpreter in tmp_path.

    It sees this checkout, and the environment without an installed import hook.
    """

    def run(program, *arguments):
        unhook = "import sys; sys.modules.pop('_bfcn_mm_compat', None); sys.meta_path[:] = " + (
            "[f for f in sys.meta_path if getattr(f, '__module__', '') != '_bfcn_mm_compat']"
        )
        return subprocess.run(
            [sys.executable, '-c', f'{unhook}\n{program}', *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "kernels"}'},
            capture_output=True,
            text=True,
        )

    return run
