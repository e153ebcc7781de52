"""Runs a script that ships with the installed mmsegmentation, unchanged."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ('', 'kernels')]

import bfcn_mm  # noqa: E402, F401, I001 - before mmseg, whose imports it mends
import mmseg  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402

from bfcn_mm.datasets import check_data  # noqa: E402

SELF_EXPLAINING = (ValueError, OSError, RuntimeError, MemoryError, ImportError, SyntaxError)


class CfgOptions(DictAction):
    """mmengine's action of --cfg-options KEY=VALUE ...; says so where a value has no key."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes KEY=VALUE, got {value!r}')
        super().__call__(parser, namespace, values, option_string)


def main(script: str, *splits: str) -> None:
    """Check that the config's data is there, then run mmseg's script on this process's command line.

    splits: the dataloaders that the script reads.
    """
    path = Path(mmseg.__file__).parent / '.mim' / 'tools' / script
    with errors_in_one_line():
        if not {'-h', '--help'} & set(sys.argv):
            check_data(given_config(), splits)
        runpy.run_path(str(path), run_name='__main__')


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """An error becomes one line on stderr and exit status 1.

    Errors whose text seldom tells what they are about also name the line of code. With
    BFCN_TRACEBACK=1 an error is raised as it is. Ctrl-C ends with status 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get('BFCN_TRACEBACK') == '1':
            raise
        text = ' '.join(str(error).split())
        if not isinstance(error, SELF_EXPLAINING) or not text:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f'{text} [{Path(place.filename).name}, line {place.lineno}]'.lstrip()
        sys.exit(f'{type(error).__name__}: {text} (BFCN_TRACEBACK=1 shows where)')


def given_config() -> Config:
    """The config on the command line, with its --cfg-options; what else is there is the script's."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    args, _ = parser.parse_known_args()
    config = Config.fromfile(args.config)
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    return config
