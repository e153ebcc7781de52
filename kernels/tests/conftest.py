"""Triton's kernels run in its interpreter, on CPU tensors; without triton their tests are left out.
The C runtime runs the threads that a test wants, however many cores there are."""

import os
from importlib.util import find_spec

os.environ['TRITON_INTERPRET'] = '1'  # before anything imports triton
os.environ.setdefault('BFCN_CORES', '64')

collect_ignore_glob = [] if find_spec('triton') and find_spec('torch') else ['test_triton_*.py']


def pytest_report_header() -> str | None:
    return 'no triton: its kernels are not tested' if collect_ignore_glob else None
