"""What tests share: a segmentor that trains in milliseconds, its config, and programs run apart."""

from .config import tiny_config, tiny_model, write_config
from .program import ROOT, SCRIPTS, TOOLS, command, environment, run_here, run_script

__all__ = [
    'ROOT',
    'SCRIPTS',
    'TOOLS',
    'command',
    'environment',
    'run_here',
    'run_script',
    'tiny_config',
    'tiny_model',
    'write_config',
]
