"""plane_conv compiled by NVRTC, or by nvcc where that is all there is, for the machine in numpy."""

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from ptx_machine import Machine, Memory

from bfcn_kernels.triton import nvrtc, plane_conv
from bfcn_kernels.triton.codes import Map
from bfcn_kernels.triton.plane_conv import PlaneConv, compile_plane_conv
from lab.gpu.resources import BINARIES, INEXACT


def missing() -> str | None:
    """Why nothing can be compiled here."""
    try:
        nvrtc.library()
    except RuntimeError as err:
        return None if shutil.which('nvcc') else f'no nvcc, and {err}'


def launch(conv: PlaneConv, sources: list[Map], out: Map, sm: int, edit=lambda ptx: ptx) -> None:
    """What calling conv does on a GPU. edit: of the PTX before."""
    ptx = edit(compiled(tuple(conv.constants.items()), sm))
    terms = [tensor for _, *tensors in conv._terms for tensor in tensors]
    tensors = {t.data_ptr(): t for t in (*terms, conv.bias, out.data, *(m.data for m in sources))}
    memory = [(at, t.reshape(-1).view(torch.uint8).numpy()) for at, t in tensors.items()]
    shared = int(re.search(r'\.shared [^\n]*\[(\d+)\]', ptx).group(1))
    blocks, layer = conv.layer(sources, out)
    Machine(ptx, Memory(memory), [bytes(layer)], shared).run((blocks,))


@cache
def compiled(constants: tuple, sm: int) -> str:
    """PTX; the one-bit instruction must be in the machine code itself, and nothing spilled."""
    try:
        nvrtc.library()
    except RuntimeError:
        cubin, ptx = _by_nvcc(constants, sm)
    else:
        cubin, ptx = compile_plane_conv(dict(constants), sm)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        command = [BINARIES / 'cuobjdump', '-sass', file.name]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    instruction = (
        r'\bBGMMA\.64x\d+x256\.AND' if dict(constants)['WGMMA'] else r'\bBMMA\.168256\.AND'
    )
    assert re.search(instruction, code)
    assert not re.search(r'\b(STL|LDL)\b', code), constants
    assert not INEXACT.search(ptx)
    return ptx


def _by_nvcc(constants: tuple, sm: int) -> tuple[bytes, str]:
    source = Path(plane_conv.__file__).with_suffix('.cu')
    architecture = f'{sm}a' if dict(constants)['WGMMA'] else str(sm)
    command = [
        'nvcc',
        f'-arch=sm_{architecture}',
        *nvrtc.OPTIONS,
        *(f'-D{k}={v}' for k, v in constants),
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ('kernel.cubin', 'kernel.ptx')]
        for flag, file in zip(('-cubin', '-ptx'), files, strict=True):
            subprocess.run([*command, flag, source, '-o', file], check=True)
        return files[0].read_bytes(), files[1].read_text()
