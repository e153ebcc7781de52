"""Two questions about a packed model: do engines agree, and how far is training from the integers?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from bfcn_kernels import Graph, fast, reference
from bfcn_kernels.records import encode

from ..quantizers import ActivationQuantizer
from .emit import Origin

SCORE_ERROR = 1e-4  # of the largest score; float32 rounding stays below 1e-5


@dataclass(frozen=True)
class Difference:
    """The first op whose value is not the oracle's."""

    op: str
    what: str


@dataclass
class Flips:
    """Counts over images for one map of the float model. codes: compared; end_to_end: that differ from
    the integer run; local: that differ when the op reads the float model's own codes. Of scores, error:
    the largest difference when the op reads the float model's own codes; largest: magnitude."""

    codes: int = 0
    end_to_end: int = 0
    local: int = 0
    error: float = 0.0
    largest: float = 0.0


@dataclass
class FakeQuantReport:
    """flips by op name; pixels compared and differing in their label; labels for mIoU of both.

    scores: of the head that were compared with what follows from the float model's own codes;
    scores_differ: by more than SCORE_ERROR of the largest.
    not_finite: maps of the float model (by module) and of the integer run that hold NaN or Inf.
    """

    flips: dict[str, Flips] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)
    scores: int = 0
    scores_differ: int = 0
    pixels: int = 0
    pixels_differ: int = 0
    fake_counts: np.ndarray | None = None  # (classes, classes), rows are the truth
    integer_counts: np.ndarray | None = None


def oracle(graph: Graph, image: np.ndarray) -> dict[str, np.ndarray]:
    """Every value by op name, from the numpy oracle."""
    return reference.run(graph, image, fast.bit_conv_accumulate)


def slow_oracle(graph: Graph) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The oracle with its convolutions pixel by pixel: what holds 'numpy' to its definition."""
    return lambda image: reference.run(graph, image)


def first_difference(
    graph: Graph, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]
) -> Difference | None:
    """Walk the ops in order; floats are compared by their bits."""
    for op in graph.ops:
        a, b = expected[op.name], got.get(op.name)
        if b is None:
            return Difference(op.name, 'is missing')
        if a.dtype != b.dtype or a.shape != b.shape:
            return Difference(op.name, f'is {b.dtype} {b.shape}, not {a.dtype} {a.shape}')
        bits = np.uint32 if a.dtype == np.float32 else a.dtype
        wrong = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)
        if wrong.any():
            at = tuple(map(int, np.argwhere(wrong)[0]))
            return Difference(
                op.name,
                f'differs in {wrong.sum()} of {wrong.size} numbers, first at {at}: '
                f'{b[at]!s}, the oracle has {a[at]!s}',
            )
    return None


def graphs_differ(ours: Graph, theirs: Graph) -> Difference | None:
    """The first op of `ours` (from the checkpoint) that the file has in another form."""
    if ops_differ := [
        a.name
        for a, b in zip(ours.ops, theirs.ops, strict=False)
        if (a.name, type(a)) != (b.name, type(b))
    ]:
        return Difference(ops_differ[0], 'is not the op that the file has there')
    if len(ours.ops) != len(theirs.ops):
        return Difference(
            ours.ops[-1].name, f'is op {len(ours.ops)}, the file has {len(theirs.ops)}'
        )
    (words, tensors), (their_words, their_tensors) = encode(ours), encode(theirs)
    for name, array in tensors.items():
        if not np.array_equal(array, their_tensors.get(name)):
            return Difference(
                name.rpartition('.')[0].split(':')[0], f'has another {name} in the file'
            )
    if not np.array_equal(words, their_words):
        return Difference('bfcn.graph', 'has other records in the file')
    return None


def compare_fake_quant(
    report: FakeQuantReport,
    segmentor: nn.Module,
    graph: Graph,
    origins: dict[str, Origin],
    sample: dict,
) -> None:
    """Add one sample (uint8 BGR `inputs`, `data_samples`) to the report."""
    image = np.ascontiguousarray(sample['inputs'].flip(0).permute(1, 2, 0).numpy())
    batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    batch = segmentor.data_preprocessor(batch, False)
    if tuple(batch['inputs'].shape[2:]) != image.shape[:2]:
        raise ValueError(
            f'the data_preprocessor makes {tuple(batch["inputs"].shape[2:])} of an image of '
            f'{image.shape[:2]}: a packed model takes images as they are'
        )
    with torch.no_grad(), _watched(segmentor, origins, report.not_finite) as seen:
        fake = segmentor.decode_head.forward(segmentor.extract_feat(batch['inputs']))
    _note(report.not_finite, 'the scores of fake-quantized evaluation', fake)
    fake_maps = {name: _slice(seen, origin) for name, origin in origins.items()}
    integer_maps = oracle(graph, image)
    own = _count_flips(report, graph, image, fake_maps, integer_maps)
    _count_scores(report, fake[0].permute(1, 2, 0).cpu().numpy(), own[graph.logits])
    integer = torch.from_numpy(integer_maps[graph.logits]).permute(2, 0, 1)[None]
    _note(report.not_finite, 'the scores of the integers', integer)
    _count_pixels(report, segmentor, fake, integer.to(fake), batch)


def miou(counts: np.ndarray) -> float:
    """Mean over classes that occur of intersection over union, in percent."""
    hits, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    return float(100 * np.mean(hits[union > 0] / union[union > 0])) if union.any() else float('nan')


def _count_flips(
    report: FakeQuantReport,
    graph: Graph,
    image: np.ndarray,
    fake_maps: dict[str, np.ndarray],
    integer_maps: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns every value as the float model has it, or as it follows from that."""
    values, grids = graph.validate(), graph.shapes(*image.shape[:2])
    own = {'image': image}
    for op in graph.ops:
        sources = [(own[name], values[name]) for name in op.data_sources]
        local = reference.run_op(op, sources, grids[op.name], fast.bit_conv_accumulate)
        fake = fake_maps.get(op.name)
        own[op.name] = local if fake is None else fake
        if fake is None:
            continue
        flips = report.flips.setdefault(op.name, Flips())
        if values[op.name].kind == 'scores':
            flips.error = max(flips.error, float(np.abs(fake - local).max()))
            flips.largest = max(flips.largest, float(np.abs(fake).max()))
            continue
        flips.codes += fake.size
        flips.local += int((fake != local).sum())
        flips.end_to_end += int((fake != integer_maps[op.name]).sum())
    return own


def _count_scores(report: FakeQuantReport, fake: np.ndarray, own: np.ndarray) -> None:
    report.scores += fake.size
    far = ~(np.abs(fake - own) <= SCORE_ERROR * np.abs(fake).max())
    report.scores_differ += int(far.sum())


def _count_pixels(
    report: FakeQuantReport, segmentor: nn.Module, fake: Tensor, integer: Tensor, batch: dict
) -> None:
    """Both through mmseg's own resizing, against each other and the truth."""
    samples, size = batch['data_samples'], batch['inputs'].shape[2:]
    head, labels = segmentor.decode_head, []
    for scores in (fake, integer):
        full = nn.functional.interpolate(
            scores, size, mode='bilinear', align_corners=head.align_corners
        )
        result = segmentor.postprocess_result(full, [samples[0].clone()])
        labels.append(result[0].pred_sem_seg.data[0].cpu().numpy())
    report.pixels += labels[0].size
    report.pixels_differ += int((labels[0] != labels[1]).sum())
    if 'gt_sem_seg' not in samples[0]:
        return
    truth, classes = samples[0].gt_sem_seg.data[0].cpu().numpy(), fake.shape[1]
    known = truth < classes
    for key, predicted in zip(('fake_counts', 'integer_counts'), labels, strict=True):
        index = truth[known].astype(np.int64) * classes + predicted[known]
        counts = np.bincount(index, minlength=classes**2).reshape(classes, classes)
        before = getattr(report, key)
        setattr(report, key, counts if before is None else before + counts)


@contextmanager
def _watched(
    segmentor: nn.Module, origins: dict[str, Origin], not_finite: list[str]
) -> Iterator[dict]:
    """Codes of quantizers and scores of layers by (module name, call), (h, w, channels), batch of 1."""
    seen: dict[str, list[np.ndarray]] = {}
    modules, hooks = dict(segmentor.named_modules()), []

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, out: Tensor) -> None:
            codes = isinstance(module, ActivationQuantizer)
            _note(not_finite, name, args[0] if codes else out)
            value = module.codes(args[0]) if codes else out
            array = value[0].permute(1, 2, 0).cpu().numpy()
            seen.setdefault(name, []).append(np.ascontiguousarray(array))

        return hook

    for name in {origin.module for origin in origins.values()}:
        hooks.append(modules[name].register_forward_hook(watch(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _note(not_finite: list[str], name: str, values: Tensor) -> None:
    if name not in not_finite and not torch.isfinite(values).all():
        not_finite.append(name)


def _slice(seen: dict, origin: Origin) -> np.ndarray:
    return seen[origin.module][origin.call][..., origin.start : origin.start + origin.channels]
