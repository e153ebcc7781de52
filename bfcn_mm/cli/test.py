"""Test a segmentor: mmseg's tools/test.py, with what is wrong in one line.

CONFIG x.gguf tests a packed model instead; --cfg-options model.engine=torch chooses its engine.
"""

from . import mmseg_script


def main(arguments: list[str]) -> None:
    file = packed_file(arguments)
    if file is not None and not {'-h', '--help'} & set(arguments):
        check_test_time(arguments)
    mmseg_script.run('test.py', packed_options(arguments, file), 'test')


def packed_file(arguments: list[str]) -> str | None:
    """The packed file that stands for the checkpoint."""
    return next((a for a in arguments if a.endswith('.gguf') and '=' not in a), None)


def packed_options(arguments: list[str], file: str | None) -> list[str]:
    """The command line with the config's model replaced, if a packed file stands for the checkpoint.

    Options of `quant` are left out: a packed file has the bits that it has.
    """
    if file is None:
        return arguments
    arguments = [a for a in arguments if not a.startswith(('quant.', 'quant='))]
    options = [
        'quant=None',
        'model._delete_=True',
        'model.type=PackedSegmentor',
        f'model.file={file}',
    ]
    if '--cfg-options' not in arguments:
        return [*arguments, '--cfg-options', *options]
    at = arguments.index('--cfg-options') + 1
    return [*arguments[:at], *options, *arguments[at:]]


def check_test_time(arguments: list[str]) -> None:
    """What the config does at test time must be what the packed file does."""
    config = mmseg_script.given_config(arguments)
    from ..export.checkpoint import model_of
    from ..export.test_time import check_config

    if config.model.get('type') != 'PackedSegmentor':
        check_config(model_of(config))
