"""A script that ships with the installed mmsegmentation, run unchanged."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from .config import CfgOptions, read_config

if TYPE_CHECKING:
    from mmengine.config import Config


def run(script: str, arguments: list[str], *splits: str) -> None:
    """Check that the config's data is there, then run the script with these arguments.

    splits: the dataloaders that the script reads.
    """
    path = _path(script)
    if {'-h', '--help'} & set(arguments):
        _print_help(path)
        return
    config = given_config(arguments)
    from ..datasets import check_data

    check_data(config, splits)
    sys.argv[:] = [str(path), *arguments]
    runpy.run_path(str(path), run_name='__main__')


def given_config(arguments: list[str]) -> Config:
    """The config among the arguments, with its --cfg-options; what else is there is the script's."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    args, _ = parser.parse_known_args(arguments)
    return read_config(args.config, args.cfg_options)


def _path(script: str) -> Path:
    # Not find_spec at once: it asks our import hook, which imports torch.
    spec = PathFinder.find_spec('mmseg') or importlib.util.find_spec('mmseg')
    if spec is None:
        raise ImportError(
            "mmseg is not installed: pip install 'bfcn_mm[mmseg]'; bfcn doctor says more"
        )
    return Path(spec.origin).parent / '.mim' / 'tools' / script


def _print_help(path: Path) -> None:
    """What the script's own parse_args prints, without the imports of the script, which take seconds."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    parse = [node for node in tree.body if getattr(node, 'name', '') == 'parse_args']
    names = {'argparse': argparse, 'os': os, 'DictAction': argparse.Action}
    exec(compile(ast.Module(parse, []), str(path), 'exec'), names)  # as running the script would
    sys.argv[:] = [f'bfcn {path.stem}', '--help']
    names['parse_args']()
