"""Train a segmentor: mmseg's tools/train.py, with errors in the config told in one line."""

from _mmseg import main

if __name__ == '__main__':
    main('train.py', 'train', 'val')
