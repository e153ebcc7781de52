"""A float network as the files that peers read: ONNX, int8 ONNX, OpenVINO's int8, torch.export."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bfcn_kernels.builder import random_image

from .network import Network, Scores, preprocessed

# peer -> what it needs installed
PACKAGES = {
    'onnxruntime': ('onnx', 'onnxruntime'),
    'openvino': ('onnx', 'openvino', 'nncf'),
    'torch': (),
}
_CALIBRATION_IMAGES, _CALIBRATION_SIZE = 4, (160, 256)


def require(peers: list[str]) -> None:
    """Raise RuntimeError, with the pip command, if a peer's packages are missing."""
    for peer in peers:
        missing = [name for name in PACKAGES[peer] if find_spec(name) is None]
        if missing:
            raise RuntimeError(
                f'the peer {peer} needs {", ".join(missing)}: pip install -c constraints.txt '
                f"'.[bench]', or leave it out of --peers"
            )


def reference(network: Network, size: tuple[int, int], folder: Path, seed: int = 99) -> Path:
    """An .npz of a uint8 image, the float input that it becomes, and the float network's scores."""
    image = random_image(*size, seed=seed)
    tensor = preprocessed(network.segmentor, image)
    with torch.inference_mode():
        scores = Scores(network.segmentor).eval()(tensor)
    path = folder / 'reference.npz'
    np.savez(path, image=image, input=tensor.numpy(), scores=scores.numpy())
    return path


def prepare(network: Network, peers: list[str], folder: Path) -> None:
    """Quantize for the peers, once for all sizes, on images of one moderate size: `folder` then holds
    int8.any.onnx and int8.any.xml, of any image size."""
    if not {'onnxruntime', 'openvino'} & set(peers):
        return
    images = [random_image(*_CALIBRATION_SIZE, seed=1 + i) for i in range(_CALIBRATION_IMAGES)]
    samples = [preprocessed(network.segmentor, image).numpy() for image in images]
    _export_onnx(network, _CALIBRATION_SIZE, folder / 'float32.any.onnx', any_size=True)
    if 'onnxruntime' in peers:
        _quantize_onnx(folder / 'float32.any.onnx', samples, folder / 'int8.any.onnx')
    if 'openvino' in peers:
        _quantize_openvino(folder / 'float32.any.onnx', samples, folder / 'int8.any.xml')


def contenders(
    network: Network, size: tuple[int, int], peers: list[str], folder: Path
) -> list[dict]:
    """The peers' files for one image size, each as an entry of a worker's plan. They know the size: a
    fixed shape is what lets a peer plan best. `folder` lies in the one that was prepared."""
    entries = []
    if {'onnxruntime', 'openvino'} & set(peers):
        _export_onnx(network, size, folder / 'float32.onnx')
    if 'onnxruntime' in peers:
        _fix_onnx(folder.parent / 'int8.any.onnx', size, folder / 'int8.onnx')
        entries += [_entry('onnxruntime', 'float32', folder / 'float32.onnx')]
        entries += [_entry('onnxruntime', 'int8', folder / 'int8.onnx')]
    if 'openvino' in peers:
        _fix_openvino(folder.parent / 'int8.any.xml', size, folder / 'int8.xml')
        entries += [
            _entry('openvino', precision, folder / 'float32.onnx')
            for precision in ('float32', 'bf16')
        ]
        entries += [_entry('openvino', 'int8', folder / 'int8.xml')]
    if 'torch' in peers:
        _export_torch(network, size, folder / 'float32.pt2')
        entries += [_entry('torch', 'float32', folder / 'float32.pt2')]
    return entries


def small(network: Network, size: tuple[int, int], peers: list[str], folder: Path) -> list[dict]:
    """The float peers at another, small size: what they hold there is all but feature maps."""
    entries = []
    if {'onnxruntime', 'openvino'} & set(peers):
        _export_onnx(network, size, folder / 'float32.onnx')
    for peer in set(peers) & {'onnxruntime', 'openvino'}:
        entries.append(_entry(peer, 'float32', folder / 'float32.onnx'))
    if 'torch' in peers:
        _export_torch(network, size, folder / 'float32.pt2')
        entries.append(_entry('torch', 'float32', folder / 'float32.pt2'))
    return entries


def _entry(name: str, precision: str, path: Path) -> dict:
    return dict(name=name, precision=precision, file=str(path))


def _export_onnx(
    network: Network, size: tuple[int, int], path: Path, any_size: bool = False
) -> None:
    axes = {'image': {2: 'height', 3: 'width'}, 'scores': {2: 'rows', 3: 'columns'}}
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            Scores(network.segmentor).eval(),
            (torch.zeros(1, 3, *size),),
            str(path),
            opset_version=17,
            input_names=['image'],
            output_names=['scores'],
            dynamic_axes=axes if any_size else None,
            dynamo=False,  # the other exporter wants one more package, for the same graph
        )


def _export_torch(network: Network, size: tuple[int, int], path: Path) -> None:
    """Batch norms folded, as mmcv does it for deployment."""
    from mmcv.cnn.utils import fuse_conv_bn

    fused = Scores(fuse_conv_bn(copy.deepcopy(network.segmentor))).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        program = torch.export.export(fused, (torch.zeros(1, 3, *size),), strict=False)
        torch.export.save(program, path)


def _quantize_onnx(source: Path, samples: list[np.ndarray], path: Path) -> None:
    """Static QDQ: uint8 activations, int8 weights with a scale for each channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> dict | None:
            sample = next(self.left, None)
            return None if sample is None else {'image': sample}

    prepared = path.with_suffix('.prepared.onnx')
    with _quiet():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()


def _fix_onnx(source: Path, size: tuple[int, int], path: Path) -> None:
    import onnx
    from onnxruntime.tools.onnx_model_utils import make_input_shape_fixed

    model = onnx.load(str(source))
    make_input_shape_fixed(model.graph, 'image', [1, 3, *size])
    onnx.save(model, str(path))


def _quantize_openvino(source: Path, samples: list[np.ndarray], path: Path) -> None:
    """NNCF's post-training quantization, preset for speed."""
    with _quiet():
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize(
            openvino.convert_model(str(source)),
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(samples),
            fast_bias_correction=True,
        )
        openvino.save_model(quantized, str(path))


def _fix_openvino(source: Path, size: tuple[int, int], path: Path) -> None:
    with _quiet():
        import openvino

        model = openvino.Core().read_model(str(source))
        model.reshape([1, 3, *size])
        openvino.save_model(model, str(path))


@contextlib.contextmanager
def _quiet():
    """Without the libraries' own progress bars and advice; what they raise passes. Nor do they send usage
    data, which OpenVINO does from its import on unless CI is set."""
    level, ci = logging.root.manager.disable, os.environ.get('CI')
    logging.disable(logging.WARNING)
    os.environ['CI'] = 'true'
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        os.environ.pop('CI')
        if ci is not None:
            os.environ['CI'] = ci
