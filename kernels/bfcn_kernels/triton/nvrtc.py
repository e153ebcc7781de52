"""CUDA C compiled at run time by NVRTC, which every torch for CUDA brings; no toolkit is needed."""

import ctypes
import site
import sys
from functools import cache
from pathlib import Path

import torch

OPTIONS = ('--fmad=false', '--std=c++17')
_FOLDERS = ('nvidia/cu13/lib', 'nvidia/cuda_nvrtc/lib')  # of the nvidia-cuda-nvrtc packages


def compile_cuda(source: str, constants: dict[str, int], architecture: str) -> tuple[bytes, str]:
    """(cubin, PTX) for an architecture such as '80' or '90a', each constant a macro.

    Float operations are rounded one by one and keep denormals. Raises RuntimeError where NVRTC is
    missing or refuses the source, with its first error.
    """
    nvrtc, program = library(), ctypes.c_void_p()
    code = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b'kernel.cu', 0, None, None
    )
    _check(nvrtc, code, 'cannot start')
    try:
        options = [f'--gpu-architecture=sm_{architecture}', *OPTIONS]
        options += [f'-D{name}={value}' for name, value in constants.items()]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if code := nvrtc.nvrtcCompileProgram(program, len(options), given):
            log = _text(nvrtc, program, 'ProgramLog').decode(errors='replace')
            _check(nvrtc, code, next((line for line in log.splitlines() if 'error' in line), log))
        return _text(nvrtc, program, 'CUBIN'), _text(nvrtc, program, 'PTX').rstrip(b'\0').decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def library() -> ctypes.CDLL:
    """NVRTC from an installed package, else as the loader finds it; that of torch's CUDA comes first.

    Raises RuntimeError without one.
    """
    majors = dict.fromkeys(((torch.version.cuda or '13').partition('.')[0], '13', '12'))
    names = [f'libnvrtc.so.{major}' for major in majors]
    packages = [Path(p) for p in dict.fromkeys((*sys.path, *site.getsitepackages())) if p]
    found = [p / folder / name for name in names for p in packages for folder in _FOLDERS]
    found = [path for path in found if path.exists()]
    for path in (*found, *names):
        try:
            if path in found:  # beside it lies what it opens by name, and finds once that is loaded
                for builtins in path.parent.glob('libnvrtc-builtins.so.*'):
                    ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise RuntimeError(
        'NVRTC is missing, which torch for CUDA brings: pip install nvidia-cuda-nvrtc, '
        'or leave one_bit off'
    )


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """The program's log, PTX or cubin."""
    size = ctypes.c_size_t()
    code = getattr(nvrtc, f'nvrtcGet{what}Size')(program, ctypes.byref(size))
    _check(nvrtc, code, what)
    text = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f'nvrtcGet{what}')(program, text), what)
    return text.raw


def _check(nvrtc: ctypes.CDLL, code: int, what: str) -> None:
    if code:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f'{nvrtc.nvrtcGetErrorString(code).decode()}: {what}')
