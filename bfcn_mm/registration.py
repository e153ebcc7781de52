"""What `import bfcn_mm` does: fix the stack, register modules with mmseg, teach configs `quant`."""

from . import compat

compat.apply()

from . import convert, datasets, engine, models, quantizers  # noqa: E402, F401 - registers


def _kernels():
    from bfcn_kernels.triton import fake_quant

    return fake_quant


convert.config.install()
convert.other_bits.install()
datasets.check.install()
quantizers.fused.provide(_kernels)
