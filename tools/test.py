"""Test a segmentor: mmseg's tools/test.py, with errors in the config told in one line.

CONFIG x.gguf tests a packed model instead; --cfg-options model.engine=torch chooses its engine.
"""

import sys

from _mmseg import errors_in_one_line, given_config, main


def packed_file(arguments: list[str]) -> str | None:
    """The packed file that stands for the checkpoint."""
    return next((a for a in arguments if a.endswith('.gguf') and '=' not in a), None)


def packed_options(arguments: list[str]) -> list[str]:
    """The command line with the config's model replaced, if a packed file stands for the checkpoint.

    Options of `quant` are left out: a packed file has the bits that it has.
    """
    file = packed_file(arguments)
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


def check_test_time() -> None:
    """What the config does at test time must be what the packed file does."""
    from bfcn_mm.export.checkpoint import model_of
    from bfcn_mm.export.test_time import check_config

    config = given_config()
    if config.model.get('type') != 'PackedSegmentor':
        check_config(model_of(config))


if __name__ == '__main__':
    if packed_file(sys.argv[1:]) and not {'-h', '--help'} & set(sys.argv):
        with errors_in_one_line():
            check_test_time()
    sys.argv[1:] = packed_options(sys.argv[1:])
    main('test.py', 'test')
