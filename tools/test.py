"""Test a segmentor: mmseg's tools/test.py, with errors in the config told in one line."""

from _mmseg import main

if __name__ == '__main__':
    main('test.py', 'test')
