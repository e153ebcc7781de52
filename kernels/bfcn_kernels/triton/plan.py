"""A graph laid out for one image size and batch: steps, maps in one arena, a CUDA graph of it all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from bfcn_kernels import ops
from bfcn_kernels.graph import Graph, named_layer
from bfcn_kernels.limits import Limits, weight_bytes
from bfcn_kernels.ops import BitConv
from bfcn_kernels.triton import tuning
from bfcn_kernels.triton.arena import Life, place
from bfcn_kernels.triton.argmax import ArgMax
from bfcn_kernels.triton.bit_conv import Config, PackedConv
from bfcn_kernels.triton.codes import Map, form_of, storage
from bfcn_kernels.triton.concat import Concat
from bfcn_kernels.triton.device import current, free_bytes
from bfcn_kernels.triton.image_codes import ImageCodes
from bfcn_kernels.triton.mask import Mask
from bfcn_kernels.triton.max_pool import MaxPool
from bfcn_kernels.triton.mean_pool import MeanPool
from bfcn_kernels.triton.plane_conv import PlaneConv, serves
from bfcn_kernels.triton.resize import Resize
from bfcn_kernels.triton.table import Table
from bfcn_kernels.values import GraphError

MAX_NUMBERS = 2**31 - 1  # kernels count in int32
_REPEATS = 10  # of a step that is timed


class Add:
    """The sum of two scores, a torch op: nothing is won by another kernel."""

    def __init__(self, op: ops.Add, device: torch.device):
        pass

    def __call__(self, sources: list[Map], out: Map) -> None:
        torch.add(sources[0].data, sources[1].data, out=out.data)


KERNELS = {
    ops.ImageCodes: ImageCodes,
    ops.Table: Table,
    ops.MaxPool: MaxPool,
    ops.AvgPool: MeanPool,
    ops.AdaptiveAvgPool: MeanPool,
    ops.Resize: Resize,
    ops.Add: Add,
    ops.Concat: Concat,
    ops.Mask: Mask,
    ops.ArgMax: ArgMax,
}


@dataclass(frozen=True)
class Step:
    """One launch: the op whose value it writes, what runs, and the values that it reads."""

    op: ops.Op
    kernel: object
    sources: tuple[str, ...]


class Network:
    """A graph's kernels with their parameters on the device, shared by all plans."""

    def __init__(self, graph: Graph, device: torch.device, one_bit: bool = False):
        """one_bit: by plane_conv what it serves; `planes` has those layers."""
        self.graph, self.device = graph, device
        self.values, self.tuned = graph.validate(), tuning.Tuned(device)
        self.wgmma = device.type == 'cuda' and torch.cuda.get_device_capability(device)[0] >= 9
        self._kernels = {
            op.name: KERNELS[type(op)](op, device) for op in graph.ops if type(op) in KERNELS
        }
        self._packed: dict[tuple, PackedConv] = {}
        self.planes = self._planes() if one_bit else {}
        for op in graph.ops:  # what cannot run is refused now, not at the first image
            if isinstance(op, BitConv) and op.name not in self.planes:
                self.conv(op, tuning.default(op, self.forms(op), 1, self.wgmma))

    def _planes(self) -> dict[str, PlaneConv]:
        """By name, the layers that one-bit tensor cores run."""
        return {
            op.name: PlaneConv(op, self.forms(op), self.device, self.wgmma)
            for op in self.graph.ops
            if isinstance(op, BitConv) and serves(op, self.forms(op))
        }

    def conv(self, op: BitConv, config: Config) -> PackedConv:
        """A bit_conv with its weights packed for a configuration."""
        key = op.name, config.k, config.as_bytes
        if key not in self._packed:
            with named_layer(op.name):
                self._packed[key] = PackedConv(op, self.forms(op), *key[1:], self.device)
        return self._packed[key]

    def forget(self, configs: dict[str, Config]) -> None:
        """Keep only what these configurations need; a plan holds what it has chosen."""
        needed = {(name, config.k, config.as_bytes) for name, config in configs.items()}
        self._packed = {key: conv for key, conv in self._packed.items() if key in needed}

    def forms(self, op: BitConv) -> list:
        """Form of each term's source."""
        return [form_of(self.values[term.source]) for term in op.terms]

    def steps(self, fused: bool) -> list[Step]:
        """Launches in order; fused: a resize of scores that one add reads is part of that add."""
        joined = self._joined() if fused else {}
        resizes = {resize.name for resize in joined.values()}
        steps = []
        for op in self.graph.ops:
            if op.name in resizes:
                continue
            kernel, sources = self._kernels.get(op.name), op.data_sources
            if op.name in joined:
                resize = joined[op.name]
                (other,) = (name for name in op.sources if name != resize.name)
                kernel, sources = self._kernels[resize.name], (resize.source, other)
            steps.append(Step(op, kernel, sources))
        return steps

    def _joined(self) -> dict[str, ops.Resize]:
        """By an add's name, the resize that it alone reads."""
        by_name = {op.name: op for op in self.graph.ops}
        readers: dict[str, list[str]] = {}
        for op in self.graph.ops:
            for name in op.sources:
                readers.setdefault(name, []).append(op.name)
        joined = {}
        for op in self.graph.ops:
            if isinstance(op, ops.Add) and op.sources[0] != op.sources[1]:
                for name in op.sources:
                    if isinstance(by_name[name], ops.Resize) and readers[name] == [op.name]:
                        joined[op.name] = by_name[name]
                        break
        return joined


class Plan:
    """Runs a network on (batch, height, width); `maps` hold values until the next run.

    traced: every op by itself, so that trace() can show each value. peak_bytes: of the arena. Raises
    MemoryError for an arena and weights of more bytes than limits allow.
    """

    def __init__(
        self,
        network: Network,
        batch: int,
        height: int,
        width: int,
        traced: bool = False,
        limits: Limits | None = None,
    ):
        self.network, self.device, self.limits = network, network.device, limits or Limits()
        self.batch = batch
        self.grids = network.graph.shapes(height, width)
        self.schedule = network.steps(fused=not traced)
        self._profile: list[tuple[str, str, float]] = []
        self._captured = None
        self._check_sizes()
        self._lay_out()
        with current(self.device):
            self._choose()
            if self.device.type == 'cuda' and not traced:
                for index in range(len(self.schedule)):  # compiles
                    self.launch(index)
                self._captured = self._graph(range(len(self.schedule)))

    def run(self, images: torch.Tensor) -> None:
        """Run on uint8 (batch, h, w, 3), on any device."""
        self.maps['image'].data.copy_(images.reshape(-1, 3))
        if self._captured is not None:
            with current(self.device):
                self._captured.replay()
            return
        self._profile = []
        for _ in self._launches():
            pass

    def trace(self, images: torch.Tensor) -> Iterator[tuple[str, Map]]:
        """Run step by step, yielding (name, map); a map may be overwritten after the next step."""
        self.maps['image'].data.copy_(images.reshape(-1, 3))
        self._profile = []
        for step in self._launches():
            yield step.op.name, self.maps[step.op.name]

    def _launches(self) -> Iterator[Step]:
        for index, step in enumerate(self.schedule):
            start = time.perf_counter()
            self.launch(index)
            self._note(index, time.perf_counter() - start)
            yield step

    def launch(self, index: int) -> None:
        """Launch one step of the schedule."""
        step = self.schedule[index]
        sources = [self.maps[name] for name in step.sources]
        extra = (self._scratch[index],) if index in self._scratch else ()
        out = self.maps[step.op.name]
        with current(self.device):
            if isinstance(step.op, BitConv):
                self._convs[step.op.name](sources, out, self.configs.get(step.op.name))
            else:
                step.kernel(sources, out, *extra)

    def _check_sizes(self) -> None:
        for name, grid in self.grids.items():
            shape, _ = storage(self.network.values[name], self.batch * grid[0] * grid[1])
            if math.prod(shape) > MAX_NUMBERS:
                raise GraphError(
                    f'layer {name!r}: {math.prod(shape)} words for {self.batch} images are more than '
                    f'{MAX_NUMBERS}: run fewer or smaller images at once'
                )

    def _lay_out(self) -> None:
        """Place every value, and what a step needs besides, in one arena."""
        last = len(self.schedule)
        death = {self.network.graph.output: last, self.network.graph.logits: last}
        for index, step in enumerate(self.schedule):
            for name in (*step.sources, step.op.name):
                death[name] = max(death.get(name, 0), index)
        needs = []  # (name or step, shape, dtype, birth, death)
        for index, step in enumerate(self.schedule):
            name = step.op.name
            shape = storage(self.network.values[name], self._pixels(name))
            needs.append((name, *shape, index, death[name]))
            if hasattr(step.kernel, 'scratch'):
                needs.append((index, *step.kernel.scratch(self._pixels(name)), index, index))
        lives = [Life(math.prod(s) * d.itemsize, birth, end) for _, s, d, birth, end in needs]
        offsets, self.peak_bytes = place(lives)
        needed = self.peak_bytes + weight_bytes(self.network.graph)
        what = f'{self.batch} images of {self.grids["image"]} take'
        self.limits.check_bytes(needed, what, free_bytes(self.device))
        pixels = self._pixels('image')
        try:
            arena = torch.empty(self.peak_bytes, dtype=torch.uint8, device=self.device)
            image = torch.empty((pixels, 3), dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError as err:
            raise RuntimeError(
                f'{self.device} has no room for {self.peak_bytes} bytes of maps of {self.batch} '
                f'images of {self.grids["image"]}: run fewer or smaller images at once'
            ) from err
        self.maps = {'image': self._map('image', image)}
        self._scratch = {}
        for (name, shape, dtype, *_), life, offset in zip(needs, lives, offsets, strict=True):
            view = arena[offset : offset + life.size].view(dtype).view(shape)
            if isinstance(name, int):
                self._scratch[name] = view
            else:
                self.maps[name] = self._map(name, view)

    def _choose(self) -> None:
        """A configuration for every bit_conv, from the table, by measuring or by the rule."""
        tried = {}
        for step in self.schedule:
            if isinstance(step.op, BitConv) and step.op.name not in self.network.planes:
                key = step.op, self.network.forms(step.op), self.maps[step.op.name].pixels
                tried[step.op.name] = step, key, self._to_try(key)
        if self.device.type == 'cuda':
            tuning.compile_together(
                self._conv_call(step, config, PackedConv.compile)
                for step, _, configs in tried.values()
                for config in configs
            )
        self.configs: dict[str, Config] = {}
        for name, (step, key, configs) in tried.items():
            if len(configs) > 1:
                calls = {c: self._conv_call(step, c, PackedConv.__call__) for c in configs}
                configs = [tuning.fastest(calls)]
                self.network.tuned.put(*key, configs[0])
            self.configs[name] = configs[0]
        self._convs = {name: self._conv(step.op) for name, (step, *_) in tried.items()}
        self._convs |= self.network.planes
        self.network.forget(self.configs)

    def _to_try(self, key: tuple) -> list[Config]:
        tuned, wgmma = self.network.tuned, self.network.wgmma
        if (known := tuned.get(*key)) is not None:
            return [known]
        if tuned.measures:
            return tuning.candidates(*key, wgmma)
        return [tuning.default(*key, wgmma)]

    def _conv_call(self, step: Step, config: Config, method) -> Callable[[], None]:
        sources, out = [self.maps[name] for name in step.sources], self.maps[step.op.name]
        return lambda: method(self.network.conv(step.op, config), sources, out, config)

    def _conv(self, op: BitConv) -> PackedConv:
        return self.network.conv(op, self.configs[op.name])

    @property
    def profile(self) -> list[tuple[str, str, float]]:
        """(op's name, 'bit_conv', 'plane_conv' etc., seconds): of the latest run, or on a GPU of each
        step by itself, timed when first asked for."""
        if self._captured is not None and not self._profile:
            with current(self.device):
                for index in range(
                    len(self.schedule)
                ):  # in order: each finds its sources as in a run
                    self._note(index, _seconds(self._graph([index] * _REPEATS)) / _REPEATS)
        return self._profile

    def _note(self, index: int, seconds: float) -> None:
        op = self.schedule[index].op
        kind = 'plane_conv' if op.name in self.network.planes else op.opname
        self._profile.append((op.name, kind, seconds))

    def _graph(self, steps: Iterable[int]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(self.device)):
            for index in steps:
                self.launch(index)
        return graph

    def _map(self, name: str, data: torch.Tensor) -> Map:
        return Map(data, self.network.values[name], self.batch, self.grids[name])

    def _pixels(self, name: str) -> int:
        height, width = self.grids[name]
        return self.batch * height * width


def _seconds(graph: torch.cuda.CUDAGraph) -> float:
    """Of one replay, after one that warms up."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
