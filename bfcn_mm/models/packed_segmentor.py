"""A packed model in the place of a trained one: mmseg's own tools run on what is deployed."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

ENGINES = ('numpy', 'torch', 'cpu', 'triton')


@MODELS.register_module()
class PackedSegmentor(BaseSegmentor):
    """Runs a packed file: model = dict(type='PackedSegmentor', file='x.gguf', engine='cpu').

    It has no parameters and cannot be trained. Mean, standard deviation and channel order are part of
    the file: its preprocessor only turns the BGR that mmseg loads into RGB. Images are run whole;
    scores are resized to the image and, by mmseg, to ori_shape. Once one has been built, a .gguf
    file is also accepted where mmengine expects a checkpoint.

    Args:
        file: the packed model, or its name in the zoo.
        engine: 'numpy', 'torch' (a GPU if there is one), 'cpu' or 'triton'.
        threads: of the 'cpu' engine.
        one_bit: with 'triton', layers of few bits run on one-bit tensor cores.
        max_bytes, max_ops: what the file may make the engine take, as in `bfcn_kernels.load`.
        data_preprocessor: the float model's, which mmengine hands over; only read for padding.
        train_cfg, pretrained: set by mmseg.apis.init_model, and without effect.

    Raises ValueError for an unknown engine, for one_bit with another than 'triton', and for a test_cfg
    with padding or windows that slide; FileError or GraphError for a bad file; and what
    an engine says that cannot start.
    """

    def __init__(
        self,
        file: str,
        engine: str = 'cpu',
        threads: int = 1,
        one_bit: bool = False,
        max_bytes: int | None = None,
        max_ops: int | None = None,
        data_preprocessor: dict | None = None,
        test_cfg: dict | None = None,
        train_cfg: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        from ..export.test_time import check_settings

        check_settings(test_cfg, data_preprocessor or {})
        super().__init__(data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True))
        self.file = _resolve(file)
        limits = dict(max_bytes=max_bytes, max_ops=max_ops)
        self.engine = _load(file, engine, threads, one_bit, limits)
        self.mode, self.out_channels, metadata = _describe(self.file)
        self.align_corners = self.mode == 'align_corners'
        self.dataset_meta = dict(classes=metadata.classes, palette=metadata.palette)
        CheckpointLoader.register_scheme(r'.*\.gguf$', load_from_packed, force=True)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Scores at the head's resolution, float32 (n, classes, h, w), for (n, 3, H, W) pixels in RGB."""
        images = inputs.to(torch.uint8)
        if not torch.equal(images.to(inputs.dtype), inputs):
            raise ValueError(
                f'a packed model reads whole pixels in 0..255, got {inputs.min():.3f}..{inputs.max():.3f}'
            )
        if hasattr(self.engine, 'run'):
            name = self.engine.graph.logits
            return self.engine.run(images, {name})[name].to(inputs.device)
        return torch.stack([self._scores(image) for image in images]).to(inputs.device)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list | None = None) -> Tensor:
        """Scores at the images' size, by the interpolation that the packed argmax uses."""
        from ..export.torch_engine import interpolate

        return interpolate(self.extract_feat(inputs), tuple(inputs.shape[2:]), self.mode)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        return self.postprocess_result(self.encode_decode(inputs), data_samples)

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        return self.extract_feat(inputs)

    def loss(self, inputs: Tensor, data_samples: list) -> dict:
        raise RuntimeError(f'{self.file} is packed and cannot be trained: train its checkpoint')

    def _scores(self, image: Tensor) -> Tensor:
        self.engine(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
        return torch.from_numpy(np.ascontiguousarray(self.engine.logits)).permute(2, 0, 1).clone()


def load_from_packed(filename: str, map_location: object = None) -> dict:
    """What a packed file is as a checkpoint: no weights, and the data set's meta."""
    _, _, metadata = _describe(filename)
    meta = dict(classes=metadata.classes, palette=metadata.palette)
    return dict(state_dict={}, meta=dict(dataset_meta=meta))


def _resolve(file: str) -> str:
    from bfcn_kernels import zoo

    return str(zoo.resolve(file))


def _load(file: str, engine: str, threads: int, one_bit: bool, limits: dict) -> object:
    if engine not in ENGINES:
        raise ValueError(f'engine must be one of {ENGINES}, got {engine!r}')
    if engine == 'torch':
        if one_bit:
            raise ValueError("one_bit=True is for engine='triton', got engine='torch'")
        from ..export.torch_engine import TorchEngine

        return TorchEngine(_resolve(file), **limits)
    import bfcn_kernels

    return bfcn_kernels.load(file, engine, threads, one_bit, **limits)


def _describe(file: str) -> tuple[str, int, object]:
    """(how scores are resized to the image, classes, metadata). ValueError if there is no argmax."""
    from bfcn_kernels import ops, read

    model = read(file)
    last = model.graph.ops[-1]
    if not isinstance(last, ops.ArgMax):
        raise ValueError(f'{file}: the last op must be an argmax, got {last.opname}')
    return last.mode, model.graph.validate()[last.source].channels, model.metadata
