"""Triton's kernels run in its interpreter, on CPU tensors; without triton their tests are left out.
The C runtime runs the threads that a test wants, however many cores there are."""

import os
from importlib.util import find_spec

import pytest

from bfcn_kernels import Model, write
from bfcn_kernels.builder import Builder
from bfcn_kernels.ops import ArgMax

os.environ['TRITON_INTERPRET'] = '1'  # before anything imports triton
os.environ.setdefault('BFCN_CORES', '64')

collect_ignore_glob = [] if find_spec('triton') and find_spec('torch') else ['test_triton_*.py']


def pytest_report_header() -> str | None:
    return 'no triton: its kernels are not tested' if collect_ignore_glob else None


@pytest.fixture(scope='session')
def tiny_file(tmp_path_factory):
    """A network of two convolutions that every engine runs in a moment."""
    pytest.importorskip('gguf')
    net = Builder(3)
    net.image_codes('pixels')
    net.conv('stem', [net.term('pixels', 8, 3, bits=8, form=1, stride=2)], 2)
    net.conv('scores', [net.term('stem', 4, 3, bits=1)], None)
    net.add(ArgMax('labels', 'scores', 'bilinear'))
    path = tmp_path_factory.mktemp('tiny') / 'tiny.gguf'
    write(path, Model(net.graph()))
    return path
