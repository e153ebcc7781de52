"""The Triton engine: packed networks on NVIDIA GPUs; and fused fake quantization for training."""

from bfcn_kernels.triton.device import check_triton

check_triton()

from bfcn_kernels.triton.engine import Engine  # noqa: E402 - only after the check

__all__ = ['Engine']
