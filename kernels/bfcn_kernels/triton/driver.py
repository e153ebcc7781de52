"""Kernels of a cubin, launched through the driver that torch has loaded."""

import ctypes
from functools import cache

import torch


class Kernel:
    """One kernel of a cubin, on the device that is current when it is made."""

    def __init__(self, cubin: bytes, name: str):
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        torch.cuda.current_stream().synchronize()  # the device's context is now current
        _check(_driver().cuModuleLoadData(ctypes.byref(self._module), cubin), 'cuModuleLoadData')
        code = _driver().cuModuleGetFunction(
            ctypes.byref(self._function), self._module, name.encode()
        )
        _check(code, 'cuModuleGetFunction')

    def __call__(self, blocks: int, threads: int, parameter: ctypes.Structure) -> None:
        """Launch on the current stream, `parameter` passed by value."""
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(parameter))
        code = _driver().cuLaunchKernel(
            self._function, blocks, 1, 1, threads, 1, 1, 0, stream, parameters, None
        )
        _check(code, 'cuLaunchKernel')


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL('libcuda.so.1')
    except OSError as err:
        raise RuntimeError(
            'the NVIDIA driver is missing (libcuda.so.1): leave one_bit off'
        ) from err


def _check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f'{what} failed: {(text.value or b"unknown error").decode()} ({code})')
