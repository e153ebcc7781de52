"""CONFIG and --cfg-options KEY=VALUE ..., as mmseg's scripts have them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


class CfgOptions(argparse.Action):
    """Keeps KEY=VALUE texts for read_config; ends with an error where a value has no key."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes KEY=VALUE, got {value!r}')
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), *values])


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE',
        help='change keys of the config, as in model.backbone.depth=18',
    )  # fmt: skip


def read_config(path: str, options: list[str] | None = None) -> Config:
    """The config with its options. Imports torch and mmseg, and registers bfcn_mm with them."""
    import bfcn_mm

    bfcn_mm.register()
    from mmengine.config import Config

    config = Config.fromfile(path)
    config.merge_from_dict(parsed(options))
    return config


def parsed(options: list[str] | None) -> dict:
    """KEY=VALUE texts as mmengine reads them: numbers, lists, names."""
    from mmengine.config import DictAction

    if not options:
        return {}
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *options]).cfg_options
