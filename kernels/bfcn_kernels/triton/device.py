"""Where kernels run: a GPU, or with TRITON_INTERPRET=1 the CPU; one clear error otherwise."""

import os
from contextlib import nullcontext

# Kernels are built for one of the two when they are imported.
INTERPRETED = os.environ.get('TRITON_INTERPRET', '0').lower() in ('1', 'true', 'on', 'yes', 'y')
OLDEST_TRITON = (3, 4)  # tuples of tuples as kernel arguments
OLDEST_GPU = (8, 0)  # int8 tensor cores with 32 k a step
AFTER_ONE_BIT = (10, 0)  # from here on the compiler emulates one-bit products with int8 ones


def check_triton() -> None:
    """Raise RuntimeError unless a usable triton can be imported."""
    try:
        import triton
    except ImportError as err:
        raise RuntimeError(
            "engine 'triton' needs the triton package, which torch for CUDA brings: "
            "pip install triton==3.7.1, or use engine='cpu'"
        ) from err
    release = tuple(int(part) for part in triton.__version__.split('.')[:2])
    if release < OLDEST_TRITON:
        oldest = '.'.join(map(str, OLDEST_TRITON))
        raise RuntimeError(
            f'triton must be {oldest} or later, got {triton.__version__}: pip install -U triton'
        )


def pick_device(device=None):
    """The torch device to run on. Raises RuntimeError without a GPU that can."""
    import torch

    if INTERPRETED:
        if device is not None and torch.device(device).type != 'cpu':
            raise RuntimeError(f'TRITON_INTERPRET=1 runs on the CPU, got device {str(device)!r}')
        return torch.device('cpu')
    if not torch.cuda.is_available():
        raise RuntimeError(
            "engine 'triton' needs an NVIDIA GPU and torch sees none: use engine='cpu', "
            'or set TRITON_INTERPRET=1 to run in the interpreter, slowly'
        )
    device = torch.device('cuda' if device is None else device)
    if device.type != 'cuda':
        raise RuntimeError(f"engine 'triton' runs on a cuda device, got {str(device)!r}")
    if (capability := torch.cuda.get_device_capability(device)) < OLDEST_GPU:
        raise RuntimeError(
            f"engine 'triton' needs compute capability 8.0 or later, "
            f'{torch.cuda.get_device_name(device)} has {".".join(map(str, capability))}: '
            "use engine='cpu'"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.device('cuda', index)


def check_one_bit(device):
    """Raise RuntimeError unless the device has one-bit tensor cores, and NVRTC is there to use them."""
    import torch

    from bfcn_kernels.triton import nvrtc

    if device.type != 'cuda':
        raise RuntimeError(
            'one_bit=True needs an NVIDIA GPU, and the interpreter runs without: leave it off'
        )
    capability = torch.cuda.get_device_capability(device)
    if capability >= AFTER_ONE_BIT:
        raise RuntimeError(
            'one_bit=True needs one-bit tensor cores, which compute capability 8.0 to 9.0 has, '
            f'{torch.cuda.get_device_name(device)} has {".".join(map(str, capability))}: leave it off'
        )
    nvrtc.library()


def current(device):
    """A context in which kernels are launched on `device`."""
    import torch

    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()


def free_bytes(device) -> int | None:
    """Of a GPU's memory; None for that of this machine."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else None
