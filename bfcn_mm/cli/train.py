"""Train a segmentor: mmseg's tools/train.py, with what is wrong in one line."""

from . import mmseg_script


def main(arguments: list[str]) -> None:
    mmseg_script.run('train.py', arguments, 'train', 'val')
