"""`bfcn COMMAND ...`, also `python -m bfcn_mm COMMAND ...` and `python tools/COMMAND.py ...`.

Each command is a module here with main(arguments). It parses before it imports what it needs, so that
`--help` and a wrong argument take no time.
"""

from __future__ import annotations

import difflib
import sys
from importlib import import_module

from .errors import errors_in_one_line

COMMANDS = {
    'train': 'train a config, with or without quant',
    'test': 'test a checkpoint or a packed model: mIoU and other metrics',
    'export': 'pack a checkpoint into one file',
    'verify': 'check that every engine gives the same numbers as the reference',
    'run': 'segment pictures, folders or videos with a packed model',
    'benchmark': 'time a packed model beside other runtimes, or a training step',
    'complexity': 'weights, bits and operations of a config',
    'compare': 'several trained models side by side: classes, pictures, curves',
    'doctor': 'what is installed, what is broken, how to fix it',
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; arguments: without the program's name, those of this process by default."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ('-h', '--help'):
        print(_usage())
        return 0
    if words[0] == '--version':
        from .. import __version__

        print(f'bfcn {__version__}')
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f', did you mean {near[0]}?' if near else ''
        print(f'bfcn: no command {name!r}{hint} See bfcn --help.', file=sys.stderr)
        return 2
    with errors_in_one_line():
        return import_module(f'.{name}', __package__).main(rest) or 0


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {text}' for name, text in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: bfcn COMMAND ...',
            '',
            'Low-bit segmentation networks for MMSegmentation.',
            '',
            *lines,
            '',
            'bfcn COMMAND --help lists the arguments of a command.',
        ]
    )
