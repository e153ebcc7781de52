"""tools/COMMAND.py is `bfcn COMMAND` or a module of lab/, also where bfcn_mm is not installed."""

import sys
from importlib import import_module
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ('', 'kernels')]

import _bfcn_command  # noqa: E402, F401 - this process is a command
import bfcn_mm  # noqa: E402
from bfcn_mm.cli import main  # noqa: E402
from bfcn_mm.cli.errors import errors_in_one_line  # noqa: E402


def enter(command: str) -> None:
    """Run `bfcn COMMAND` with the arguments of this process."""
    sys.exit(main([command, *sys.argv[1:]]))


def enter_lab(module: str, mmseg: bool = False) -> None:
    """Run lab.MODULE's main(); mmseg: import it first, and what bfcn_mm adds to it."""
    with errors_in_one_line():
        if mmseg:
            bfcn_mm.register()
        sys.exit(import_module(f'lab.{module}').main())
