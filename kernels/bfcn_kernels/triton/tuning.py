"""Which tile bit_conv uses: a rule, or on a GPU the fastest of a few, measured once and remembered."""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
import triton

from bfcn_kernels.ops import BitConv
from bfcn_kernels.triton.bit_conv import Config
from bfcn_kernels.triton.codes import Form, field_bits
from bfcn_kernels.triton.device import INTERPRETED
from bfcn_kernels.triton.weights import GROUP_TILE

FILE_VERSION = 1  # of the table of configurations: raise it when a kernel changes


def default(op: BitConv, sources: list[Form], pixels: int, wgmma: bool = False) -> Config:
    """The rule: the widest tile of channels that the layer fills, fewer pixels for small maps.

    wgmma: the instructions from sm_90 on, which read weights from shared memory: as bytes they get there
    without passing through registers; packed they are expanded in registers and stored again.
    """
    if INTERPRETED:  # where a program costs more than its numbers
        rows, most, k = min(1024, max(16, triton.next_power_of_2(pixels))), 512, 512
    else:
        rows, most, k = 128 if pixels >= 128 * 132 else 64, 128, 128
    if any(term.groups > 1 for term in op.terms):
        most = GROUP_TILE
    if wgmma and len(op.terms) > 1:  # a sum beside an accumulator: wider tiles would spill
        most = 64
    channels = min(most, max(32, triton.next_power_of_2(len(op.bias))))
    as_bytes = wgmma and packs(op)
    return _tile(op, wgmma, Config(0, 0, block(op, sources, k), 0, 3, as_bytes), rows, channels)


def block(op: BitConv, sources: list[Form], most: int) -> int:
    """The block of k: the largest power of two that some tap fills, from 32 to `most`."""
    longest = max(source.padded for source in sources)
    if longest % 64:  # several taps share a block
        taps = max(term.kernel[0] * term.kernel[1] for term in op.terms)
        return 64 if longest * taps > 32 else 32
    return min(most, longest & -longest)


def candidates(op: BitConv, sources: list[Form], pixels: int, wgmma: bool = False) -> list[Config]:
    """What a GPU tries: the rule's choice, one step from it in each direction, weights the other way."""
    first = default(op, sources, pixels, wgmma)
    grouped = any(term.groups > 1 for term in op.terms)
    widest = GROUP_TILE if grouped else min(256, triton.next_power_of_2(len(op.bias)))
    other = 64 if first.pixels > 64 else 128
    configs = [first, _tile(op, wgmma, first, other, first.channels)]
    if first.channels > 32:
        configs.append(_tile(op, wgmma, first, first.pixels, first.channels // 2))
    if 2 * first.channels <= widest and len(op.terms) == 1:  # two sums of that size would spill
        configs.append(_tile(op, wgmma, first, 128, 2 * first.channels))
    if first.k > 64:
        configs.append(replace(first, k=64))
    if packs(op):
        both = configs[:1] + configs[-1:]
        configs += [replace(config, as_bytes=not config.as_bytes) for config in both]
    return list(dict.fromkeys(configs))


def packs(op: BitConv) -> bool:
    """Whether some weights can be kept in less than bytes."""
    return any(term.groups == 1 and field_bits(term.bits) < 8 for term in op.terms)


def _tile(op: BitConv, wgmma: bool, config: Config, pixels: int, channels: int) -> Config:
    """The configuration with another tile, and as many warps as hold its numbers in registers."""
    numbers = pixels * channels * (2 if wgmma and len(op.terms) > 1 else 1)
    return replace(config, pixels=pixels, channels=channels, warps=8 if numbers > 8192 else 4)


class Tuned:
    """The table of configurations by layer, in a JSON file a GPU and Triton version.

    BFCN_CACHE (or XDG_CACHE_HOME) names the folder; BFCN_TUNE=0 takes the rule instead of measuring.
    """

    def __init__(self, device: torch.device):
        self.measures = device.type == 'cuda' and os.environ.get('BFCN_TUNE', '1') != '0'
        self._path, self._table = None, {}
        if self.measures:
            name = torch.cuda.get_device_name(device).replace(' ', '-')
            self._path = _cache() / f'{name}-triton-{triton.__version__}-{FILE_VERSION}.json'
            if self._path.exists():
                self._table = json.loads(self._path.read_text())

    def get(self, op: BitConv, sources: list[Form], pixels: int) -> Config | None:
        """The configuration in the table."""
        found = self._table.get(key(op, sources, pixels))
        return None if found is None else Config(**found)

    def put(self, op: BitConv, sources: list[Form], pixels: int, config: Config) -> None:
        """Remember a configuration, on disk too."""
        self._table[key(op, sources, pixels)] = vars(config)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f'.{os.getpid()}')
        draft.write_text(json.dumps(self._table, indent=1, sort_keys=True))
        draft.replace(self._path)


def key(op: BitConv, sources: list[Form], pixels: int) -> str:
    """All that the choice may depend on, as text; maps of a size within a factor of two share it."""
    terms = [
        f'{s.channels}a{s.bits} {"x".join(map(str, t.kernel))} s{t.stride[0]} d{t.dilation[0]} '
        f'g{t.groups} w{t.bits}'
        for t, s in zip(op.terms, sources, strict=True)
    ]
    size, out = triton.next_power_of_2(pixels), f'{len(op.bias)}a{op.bits} +{len(op.residuals)}'
    return f'{size} px, {" + ".join(terms)} -> {out}'


def fastest(calls: dict[Config, Callable[[], None]]) -> Config:
    """The configuration whose call takes least time; those that do not fit on the GPU are left out."""
    times = {}
    for config, call in calls.items():
        try:
            times[config] = triton.testing.do_bench(call, warmup=3, rep=10)
        except triton.runtime.errors.OutOfResources:
            continue
    return min(times, key=times.get)


def compile_together(calls: Iterable[Callable[[], object]]) -> None:
    """Make calls that compile kernels and launch none, in as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads, triton.AsyncCompileMode(threads):
        for call in calls:
            call()


def _cache() -> Path:
    if 'BFCN_CACHE' in os.environ:
        return Path(os.environ['BFCN_CACHE'])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'bfcn_kernels'
