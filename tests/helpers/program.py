"""Scripts in an interpreter of their own, as an installed package would run them, or in this one."""

from __future__ import annotations

import importlib.util
import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

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


def run_here(script: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """The same in this process, which has imported everything already (seconds): for scripts that end
    before they train or change what a process shares."""
    words = [str(script), *map(str, arguments)]
    out, err, before, status = io.StringIO(), io.StringIO(), os.getcwd(), 0
    os.chdir(cwd)
    try:
        with (
            patch.object(sys, 'argv', words),
            patch.object(sys, 'path', [str(script.parent), *sys.path]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            runpy.run_path(str(script), run_name='__main__')
    except SystemExit as end:  # as the interpreter takes it: a text is said, and means 1
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        err.write(f'{end.code}\n' if isinstance(end.code, str) else '')
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())
