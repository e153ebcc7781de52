"""Scripts in an interpreter of their own, as an installed package would run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
SCRIPTS = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim' / 'tools'

# What the .pth file of the installed package does, then the script, unmodified.
_RUN = """
import runpy, sys
import _bfcn_mm_compat
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition('/')[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def environment(**more: str) -> dict[str, str]:
    """os.environ with this checkout importable, one thread a process."""
    path = os.pathsep.join(map(str, [ROOT, ROOT / 'kernels']))
    return os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS='1') | more


def command(script: Path, *arguments: object) -> list[str]:
    """The command line that runs a script with the import hook in place."""
    return [sys.executable, '-c', _RUN, str(script), *map(str, arguments)]


def run_script(script: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script to its end; stdout and stderr are text."""
    return subprocess.run(
        command(script, *arguments), cwd=cwd, env=environment(), capture_output=True, text=True
    )
