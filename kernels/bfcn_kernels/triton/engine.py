"""A packed model on a GPU, or without one in Triton's interpreter."""

from __future__ import annotations

import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bfcn_kernels import Graph, Model, read
from bfcn_kernels.image import check_image
from bfcn_kernels.lifecycle import Closable
from bfcn_kernels.limits import READING, Limits
from bfcn_kernels.triton.codes import Map, to_codes
from bfcn_kernels.triton.device import check_one_bit, pick_device
from bfcn_kernels.triton.plan import Network, Plan

_PLANS_KEPT = 4  # one per batch and image size
# Launches and captures of one device are one thread's at a time, in all engines.
_turns: defaultdict[torch.device, threading.RLock] = defaultdict(threading.RLock)
if hasattr(os, 'register_at_fork'):  # not on Windows
    os.register_at_fork(after_in_child=_turns.clear)


class _Report:
    """What is known of one call: in its plan until the plan runs for another thread, then in copies."""

    def __init__(self, plan: Plan, logits: str):
        self._plan, self._name = plan, logits
        self._logits: np.ndarray | None = None
        self._profile: list[tuple[str, str, float]] | None = None
        self.peak_bytes = plan.peak_bytes

    def logits(self) -> np.ndarray:
        return _array(self._plan.maps[self._name]) if self._logits is None else self._logits

    def profile(self) -> list[tuple[str, str, float]]:
        return self._plan.profile if self._profile is None else self._profile

    def keep(self) -> None:
        self._logits, self._profile = self.logits(), self.profile()


class Engine(Closable):
    """An engine as in `bfcn_kernels.load`, from a file, a Model or a Graph; `run` takes batches.

    Any number of threads may call it; a device runs one call at a time.

    Plans are made per batch and image size and the latest few are kept: an arena for all maps and, on a
    GPU, a CUDA graph of the whole network; `profile` then tells of each step run by itself.
    threads is accepted as by every engine, and has no effect. one_bit: layers that plane_conv serves run
    on one-bit tensor cores, compiled by NVRTC; `one_bit_layers` names them.
    Limits as in `bfcn_kernels.load`; on a GPU, half of its free memory is the default of max_bytes.
    Raises RuntimeError without a GPU (see docs/gpu.md), FileError or GraphError for a bad file.
    """

    def __init__(
        self,
        model: str | Path | Model | Graph,
        threads: int = 1,
        device: str | torch.device | None = None,
        one_bit: bool = False,
        max_bytes: int | None = None,
        max_ops: int | None = None,
    ):
        super().__init__()
        self.limits = Limits(max_bytes, max_ops)
        self.device = pick_device(device)
        if one_bit:
            check_one_bit(self.device)
        if not isinstance(model, Model | Graph):
            model = Path(model)
            self.limits.check_file(model, times=READING)
            model = read(model)
        self.graph = model if isinstance(model, Graph) else model.graph
        self.network = Network(self.graph, self.device, one_bit)
        self._plans: dict[tuple, Plan] = {}
        self._one_bit = one_bit
        self._reports: weakref.WeakKeyDictionary[Plan, weakref.ref] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple:
        """A copy plans and captures for itself."""
        self._check_open()
        limits = (self.limits.max_bytes, self.limits.max_ops)
        return type(self), (self.graph, 1, self.device, self._one_bit, *limits)

    def _release(self) -> None:
        self._plans.clear()
        self.network = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Labels uint8 (h, w) of a uint8 RGB image (h, w, 3), or the last op's value."""
        with self._turn():
            plan = self._run(_batch(image))
            return _array(plan.maps[self.graph.output])

    def trace(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Every value by op name: codes and labels uint8, scores float32, (h, w, channels)."""
        with self._turn():
            return {name: _array(value) for name, value in self._trace(_batch(image))}

    def run(self, images: torch.Tensor, keep: Iterable[str]) -> dict[str, torch.Tensor]:
        """The values in `keep` for uint8 RGB images (n, 3, h, w) on any device: codes uint8 and scores
        float32 (n, channels, h, w), labels uint8 (n, h, w), on the engine's device."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f'images must be uint8 (n, 3, h, w) RGB, got {images.dtype} {tuple(images.shape)}'
            )
        keep, images = set(keep), images.permute(0, 2, 3, 1)
        if unknown := keep - {op.name for op in self.graph.ops}:
            raise ValueError(f'the graph has no value named {sorted(unknown)[0]!r}')
        with self._turn():
            if keep <= {self.graph.output, self.graph.logits}:
                plan = self._run(images)
                return {name: _tensor(plan.maps[name]) for name in keep}
            return {name: _tensor(value) for name, value in self._trace(images) if name in keep}

    @property
    def one_bit_layers(self) -> list[str]:
        """Names of the layers that run on one-bit tensor cores."""
        return list(self.network.planes)

    @property
    def logits(self) -> np.ndarray | None:
        """float32 (h, w, classes) of the first image of this thread's latest call."""
        with _turns[self.device]:
            return self._latest.report and self._latest.report.logits()

    @property
    def profile(self) -> list[tuple[str, str, float]]:
        """(op's name, 'bit_conv', 'plane_conv' etc., seconds) of this thread's latest call; on a GPU, of
        its plan."""
        with _turns[self.device]:
            return self._latest.report.profile() if self._latest.report else []

    @property
    def peak_bytes(self) -> int:
        """Of the arena that holds every map of this thread's latest call."""
        return self._latest.report.peak_bytes if self._latest.report else 0

    def plan(self, batch: int, height: int, width: int, traced: bool = False) -> Plan:
        """What runs images of one size: made at the first call, kept for the latest few sizes."""
        key = batch, height, width, traced
        with self._turn():
            if key not in self._plans:
                self.limits.check_work(self.graph, height, width)
                while len(self._plans) >= _PLANS_KEPT:
                    self._plans.pop(next(iter(self._plans)))
                self._plans[key] = Plan(self.network, *key, limits=self.limits)
            return self._plans[key]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._call(), _turns[self.device]:
            yield

    def _run(self, images: torch.Tensor) -> Plan:
        plan = self.plan(*images.shape[:3])
        self._report_on(plan)
        plan.run(images)
        return plan

    def _trace(self, images: torch.Tensor) -> Iterator[tuple[str, Map]]:
        plan = self.plan(*images.shape[:3], traced=True)
        self._report_on(plan)
        return plan.trace(images)

    def _report_on(self, plan: Plan) -> None:
        """Have this thread's reports come from a plan that is about to run, and keep another's."""
        self._latest.report = None
        previous = self._reports[plan]() if plan in self._reports else None
        if previous is not None:
            previous.keep()
        report = self._latest.report = _Report(plan, self.graph.logits)
        self._reports[plan] = weakref.ref(report)


def _batch(image: np.ndarray) -> torch.Tensor:
    image = np.require(check_image(image), requirements='CW')  # torch warns of what it cannot write
    return torch.from_numpy(image)[None]


def _tensor(value: Map) -> torch.Tensor:
    """A copy in the order (n, channels, h, w); labels (n, h, w)."""
    if value.value.kind == 'codes':
        return to_codes(value).permute(0, 3, 1, 2).contiguous()
    if value.value.kind == 'labels':
        return value.data.reshape(value.batch, *value.grid).clone()
    scores = value.data.reshape(value.batch, *value.grid, -1)
    return scores.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)


def _array(value: Map) -> np.ndarray:
    """The first image of a map, (h, w, channels) or (h, w)."""
    if value.value.kind == 'codes':
        return to_codes(value)[0].cpu().numpy()
    shape = (value.batch, *value.grid, *value.data.shape[1:])
    return value.data.reshape(shape)[0].cpu().numpy().copy()
