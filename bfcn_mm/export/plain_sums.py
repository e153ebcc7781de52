"""Settings of torch under which a convolution is a plain sum of products in float32 or float64."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import ExitStack

import torch


class PlainSums:
    """`with plain_sums:` algorithms that are not plain sums (Winograd, FFT, TF32) are off.

    These settings belong to the whole process: the first thread inside sets them, the last one out sets
    them back.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._threads: list[int] = []  # inside
        self._before = ExitStack()  # sets them back

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._before = ExitStack()
                _set(self._before)
            self._threads.append(threading.get_ident())

    def __exit__(self, *_) -> None:
        with self._lock:
            self._threads.remove(threading.get_ident())
            if not self._threads:
                self._set_back()

    def after_fork(self) -> None:
        """In a child of fork(): threads of the parent do not come out."""
        self._lock = threading.Lock()
        left = [thread for thread in self._threads if thread == threading.get_ident()]
        if self._threads and not left:
            self._set_back()
        self._threads = left

    def _set_back(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self._before.close()


def _set(before: ExitStack) -> None:
    matmul = torch.backends.cuda.matmul
    before.callback(setattr, matmul, 'allow_tf32', matmul.allow_tf32)
    matmul.allow_tf32 = False
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the flags mention hardware that is not there
        for backend in (torch.backends.cudnn, torch.backends.mkldnn, torch.backends.nnpack):
            before.enter_context(backend.flags(enabled=False))


plain_sums = PlainSums()
if hasattr(os, 'register_at_fork'):  # not on Windows
    os.register_at_fork(after_in_child=plain_sums.after_fork)
