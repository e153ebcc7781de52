"""Test a segmentor: mmseg's tools/test.py, with errors in the config told in one line.

CONFIG x.gguf tests a packed model instead; --cfg-options model.engine=torch chooses its engine.
"""

import sys

from _mmseg import main


def packed_options(arguments: list[str]) -> list[str]:
    """The command line with the config's model replaced, if a packed file stands for the checkpoint.

    Options of `quant` are left out: a packed file has the bits that it has.
    """
    file = next((a for a in arguments if a.endswith('.gguf') and '=' not in a), None)
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


if __name__ == '__main__':
    sys.argv[1:] = packed_options(sys.argv[1:])
    main('test.py', 'test')
