"""Rounding a signal is what makes an op: the one place where ops of the integer graph are written."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from bfcn_kernels import ops
from bfcn_kernels.ops import BitConv, Residual

from ..quantizers import ActivationQuantizer
from .capture import Captured
from .sides import MapSides
from .signals import (
    Averaged,
    Codes,
    ExportError,
    Image,
    Linear,
    Parts,
    Resized,
    Scores,
    Sum,
    identity,
)

f32 = np.float32
_LONGEST = 48
_TRIES = 8  # sizes at which the network is tried to tell two maps apart
_ROUND_FIRST = (
    'its output is not rounded: put a ReLU (which quant= converts) or a convolution between'
)


@dataclass(frozen=True)
class Origin:
    """Where the float model has a value of the integer graph: in the output of the call-th call of a
    quantizer (or, for scores, of a layer), in `channels` channels from `start` on."""

    module: str
    call: int
    start: int
    channels: int


class Emitter:
    """Collects ops. origins: by op, where known. `node` is the one whose map an op computes."""

    def __init__(
        self, quantizers: dict[str, ActivationQuantizer], image: ImageInput, captured: Captured
    ):
        self.ops: list[ops.Op] = []
        self.origins: dict[str, Origin] = {}
        self._quantizers, self._image, self._captured = quantizers, image, captured
        self._nodes: dict[str, fx.Node] = {'image': captured.image}
        self._sides = MapSides(captured.step)
        self._calls: Counter[str] = Counter()
        self._scores: dict[int, tuple[Linear, Scores]] = {}

    def add(self, op: ops.Op, node: fx.Node) -> str:
        """Add an op; its name is shortened and made distinct. Returns that name."""
        op = replace(op, name=self._distinct(op.name))
        self.ops.append(op)
        self._nodes[op.name] = node
        self._sides.add(op)
        return op.name

    def like(self, node: fx.Node) -> str | None:
        """The latest value (the image too) that has the grid of `node` at every size of the image.

        Where values agree in that at the captured sizes and not at another, one more export decides.
        """
        captured = self._captured
        while True:
            grids = captured.grids(node)
            names = [n for n, own in self._nodes.items() if captured.grids(own) == grids]
            sides = self._sides.apart(names)
            tried = sides[:: max(1, len(sides) // _TRIES)][:_TRIES]
            side = next((n for n in tried if captured.trial.takes((n, n))), None)
            if side is None:
                return names[-1] if names else None
            captured.add((side, side))

    def quantize(self, signal, name: str, node: fx.Node) -> Codes | Parts:
        """The codes that the quantizer `name` makes of a signal."""
        call = self._calls[name]
        self._calls[name] += 1
        parts = signal.parts if isinstance(signal, Parts) else (signal,)
        out, start = [], 0
        for i, part in enumerate(parts):
            label = _label(part, name) + (f'.{i}' if len(parts) > 1 else '')
            codes = self._round(part, self._quantizers[name], label, node)
            self.origins[codes.name] = Origin(name, call, start, codes.channels)
            out.append(codes)
            start += codes.channels
        return Parts(tuple(out)) if len(out) > 1 else out[0]

    def scores(self, signal, node: fx.Node, what: str) -> Scores:
        """float32 scores of an unrounded signal; what: reads them, for the error."""
        if isinstance(signal, Scores):
            return signal
        if isinstance(signal, Sum):
            name = f'{signal.fine.name}.sum'
            return Scores(self.add(ops.Add(name, (signal.up.name, signal.fine.name)), node))
        if not isinstance(signal, Linear) or not signal.terms or signal.unsigned:
            raise ExportError(f'{what}: class scores must come from a convolution, {_ROUND_FIRST}')
        if id(signal) not in self._scores:
            call = self._calls[signal.layer]
            self._calls[signal.layer] += 1
            name = self.add(_conv(signal, signal.layer, 1.0, None, 0), node)
            if len(signal.terms) == 1:
                self.origins[name] = Origin(signal.layer, call, 0, len(signal.bias))
            self._scores[id(signal)] = signal, Scores(name)
        return self._scores[id(signal)][1]

    def _round(self, signal, quantizer: ActivationQuantizer, label: str, node: fx.Node) -> Codes:
        bits, zero_point, step = grid_of(quantizer)
        if isinstance(signal, Codes):
            return self._table(signal, quantizer, label, node)
        if isinstance(signal, Image):
            tables = self._image.tables(quantizer)
            op = ops.ImageCodes(label, tables, self._image.order, bits, zero_point)
            return Codes(self.add(op, node), 3, bits, zero_point, step)
        if isinstance(signal, Linear):
            if signal.unsigned and zero_point:
                raise ExportError(f'{label}: a ReLU is followed by a signed quantizer: retrain it')
            op = _conv(signal, label, step, bits, zero_point)
            return Codes(self.add(op, node), len(signal.bias), bits, zero_point, step)
        if isinstance(signal, Averaged | Resized):
            source = signal.source
            A, B = f32(source.step / step).item(), float(zero_point)
            rounding = dict(A=A, B=B, bits=bits, zero_point=zero_point)
            op = _mean_or_resize(signal, label, rounding)
            return Codes(self.add(op, node), source.channels, bits, zero_point, step)
        raise ExportError(f'{label}: cannot round {type(signal).__name__.lower()}: {_ROUND_FIRST}')

    def _table(
        self, source: Codes, quantizer: ActivationQuantizer, label: str, node: fx.Node
    ) -> Codes:
        """Codes to codes, by the very float32 arithmetic of training."""
        bits, zero_point, step = grid_of(quantizer)
        if source.grid == (bits, zero_point, step):
            return source
        numbers = torch.arange(2**source.bits, dtype=torch.float32) - source.zero_point
        values = numbers * torch.tensor(source.step, dtype=torch.float32)
        table = quantizer.codes(values.to(quantizer.step.device)).cpu().numpy()
        op = ops.Table(label, source.name, table, bits, zero_point)
        return Codes(self.add(op, node), source.channels, bits, zero_point, step)

    def _distinct(self, name: str) -> str:
        name = re.sub(r'[^A-Za-z0-9_.-]', '_', name)
        while len(name) > _LONGEST and '.' in name:
            name = name.split('.', 1)[1]
        name = base = name[-_LONGEST:]
        count = 1
        while name in self._nodes:
            count += 1
            name = f'{base[-_LONGEST + 4 :]}.{count}'
        return name


class ImageInput:
    """Mean, standard deviation and channel order of a SegDataPreProcessor."""

    def __init__(self, preprocessor) -> None:
        self.mean = _by_channel(preprocessor, 'mean')
        self.std = _by_channel(preprocessor, 'std')
        names = ('channel_conversion', '_channel_conversion')  # mmseg 1.2, its fork
        swaps = any(getattr(preprocessor, name, False) for name in names)
        self.order = (0, 1, 2) if swaps else (2, 1, 0)  # images are loaded as BGR

    def tables(self, quantizer: ActivationQuantizer) -> np.ndarray:
        """uint8 (3, 256): the code of each pixel value, by the preprocessor's float32 arithmetic."""
        values = torch.arange(256, dtype=torch.float32).view(1, 1, 256).expand(3, 1, 256)
        values = self.floats(values).to(quantizer.step.device)
        return quantizer.codes(values).cpu().numpy()[:, 0]

    def floats(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the network reads for float32 pixels (3, h, w) in its order of channels."""
        return pixels if self.mean is None else (pixels - self.mean) / self.std

    def rgb(self, name: str) -> tuple[float, ...]:
        """'mean' or 'std' as R, G, B; () where images are not normalized."""
        values = getattr(self, name)
        if values is None:
            return ()
        flat = values.flatten().tolist()
        return tuple(flat[self.order.index(channel)] for channel in range(3))


def _by_channel(preprocessor, name: str) -> torch.Tensor | None:
    """'mean' or 'std', (3, 1, 1) on the CPU; one number stands for three."""
    values = getattr(preprocessor, name, None)
    if values is None:
        return None
    if values.numel() not in (1, 3):
        raise ExportError(
            f'data_preprocessor.{name} has {values.numel()} numbers: a packed model takes RGB images'
        )
    return values.detach().cpu().reshape(-1, 1, 1).expand(3, 1, 1)


def grid_of(quantizer: ActivationQuantizer) -> tuple[int, int, float]:
    """(bits, zero point, step) as its forward uses them."""
    return quantizer.bits, quantizer.zero_point, float(quantizer.step.detach())


def _label(signal, quantizer: str) -> str:
    """Name of the op: of its convolution, or of the layer that rounds its own input."""
    if isinstance(signal, Linear) and signal.layer:
        return signal.layer
    owner, _, last = quantizer.rpartition('.')
    return f'{owner}.input' if last.endswith('_quant') else owner.removesuffix('.quants')


def _conv(signal: Linear, name: str, step: float, bits: int | None, zero_point: int) -> BitConv:
    """Fold in float64, round once to float32."""
    terms, joined = signal.terms, signal.joined
    if not terms:
        terms, joined = (identity(joined[0]),), joined[1:]
    return BitConv(
        name,
        tuple(replace(term, scale=(scale / step).astype(f32)) for term, scale in terms),
        (signal.bias / step + zero_point).astype(f32),
        bits,
        zero_point,
        tuple(Residual(codes.name, f32(codes.step / step).item()) for codes in joined),
    )


def _mean_or_resize(signal: Averaged | Resized, label: str, rounding: dict) -> ops.Op:
    source = signal.source.name
    if isinstance(signal, Resized):
        return ops.Resize(label, source, signal.mode, **signal.target, **rounding)
    if signal.size is not None:
        return ops.AdaptiveAvgPool(label, source, signal.size, **rounding)
    return ops.AvgPool(label, source, **signal.window, **rounding)
