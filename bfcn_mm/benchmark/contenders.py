"""What can be timed: ours and the peers, each loaded from a file into a function without arguments.

Nothing here imports a library before its contender is asked for: a process that measures one contender's
memory holds no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# What keeps a library from instructions beyond an ISA. ONNX Runtime has no such switch.
CAPS = {
    'avx512': dict.fromkeys(
        ('ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA', 'OV_CPU_MAX_ISA'), 'AVX512_CORE_BF16'
    ),
    'avx2': dict(
        ONEDNN_MAX_CPU_ISA='AVX2',
        DNNL_MAX_CPU_ISA='AVX2',
        OV_CPU_MAX_ISA='AVX2',
        ATEN_CPU_CAPABILITY='avx2',
    ),
}


@dataclass
class Contender:
    """run() computes once: a peer returns float32 scores (1, classes, h, w), ours the labels (h, w).

    isa: the most that it may use here, as far as the library tells. sizes: bytes that it knows of.
    """

    name: str
    precision: str
    version: str
    isa: str
    run: Callable[[], np.ndarray]
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f'{self.name} {self.precision}'


def load(entry: dict, threads: int, isa: str, arrays: dict[str, np.ndarray]) -> Contender | None:
    """An entry of a plan: name, precision, file. None if the CPU lacks the precision."""
    return _LOADERS[entry['name']](entry, threads, isa, arrays)


def _load_bfcn(entry: dict, threads: int, isa: str, arrays: dict) -> Contender:
    import bfcn_kernels
    from bfcn_kernels.cpu import Engine

    engine = Engine(entry['file'], threads=threads, isa=isa)
    image = arrays['image']

    engine(image)
    sizes = dict(activations=engine.peak_bytes, weights=engine.weight_bytes(*image.shape[:2]))
    version = getattr(bfcn_kernels, '__version__', '0.1.0')
    return Contender('bfcn', entry['precision'], version, isa, lambda: engine(image), sizes)


def _load_onnxruntime(entry: dict, threads: int, isa: str, arrays: dict) -> Contender:
    import onnxruntime

    from bfcn_kernels.cpu import isas

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    providers = ['CPUExecutionProvider']
    session = onnxruntime.InferenceSession(entry['file'], options, providers=providers)
    feed = {session.get_inputs()[0].name: arrays['input']}
    return Contender(
        'onnxruntime',
        entry['precision'],
        onnxruntime.__version__,
        isas()[0],
        lambda: session.run(None, feed)[0],
    )


def _load_openvino(entry: dict, threads: int, isa: str, arrays: dict) -> Contender | None:
    import openvino

    from bfcn_kernels.cpu import isas

    core = openvino.Core()
    able = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if entry['precision'] == 'bf16' and 'BF16' not in able:
        return None
    hint = 'bf16' if entry['precision'] == 'bf16' else 'f32'
    settings = dict(
        INFERENCE_NUM_THREADS=threads,
        NUM_STREAMS=1,
        PERFORMANCE_HINT='LATENCY',
        INFERENCE_PRECISION_HINT=hint,
    )
    model = core.compile_model(entry['file'], 'CPU', settings)
    request, tensor = model.create_infer_request(), arrays['input']
    ops = model.get_runtime_model().get_ops()
    kernels = ' '.join(op.get_rt_info()['primitiveType'].astype(str) for op in ops)
    return Contender(
        'openvino',
        entry['precision'],
        openvino.__version__.split('-')[0],
        next((known for known in ('amx', 'avx512', 'avx2') if known in kernels), isas()[0]),
        lambda: request.infer({0: tensor}, share_inputs=True, share_outputs=True)[0],
    )


def _load_torch(entry: dict, threads: int, isa: str, arrays: dict) -> Contender:
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(entry['file']).module().to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(arrays['input']).contiguous(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return module(tensor).numpy()

    capability = torch.backends.cpu.get_cpu_capability().lower()
    return Contender('torch', entry['precision'], torch.__version__, capability, run)


_LOADERS = {
    'bfcn': _load_bfcn,
    'onnxruntime': _load_onnxruntime,
    'openvino': _load_openvino,
    'torch': _load_torch,
}
