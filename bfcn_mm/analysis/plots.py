"""The paper's figures from one's own runs: class scores, training curves, pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .report import smooth

COLOURS = ('#4c566a', '#d1495b', '#2e86ab', '#edae49', '#66a182', '#8f5d9f', '#7a6c5d')
IGNORED = (0, 0, 0)


def plot_classes(
    path: Path, classes: Sequence[str], scores: Mapping[str, np.ndarray], palette: Sequence
) -> None:
    """IoU of each class and model (above) and its change against the first model (below).

    scores: for each label the IoU in percent, (len(classes),), nan where a class does not occur.
    palette: an RGB triple in 0..255 for each class.
    """
    labels = list(scores)
    below = len(labels) > 1
    figure = Figure(figsize=(max(7, 1.5 + 0.62 * len(classes)), 6 if below else 4), dpi=140)
    grid = figure.subplots(2 if below else 1, 1, sharex=True, squeeze=False)[:, 0]
    x = np.arange(len(classes))
    width = 0.8 / len(labels)
    for k, label in enumerate(labels):
        mean = np.nanmean(scores[label])
        at = x + (k - (len(labels) - 1) / 2) * width
        style = dict(width=width * 0.92, color=COLOURS[k % len(COLOURS)])
        grid[0].bar(at, scores[label], label=f'{label} (mean {mean:.1f})', **style)
        if k:
            grid[1].bar(at, scores[label] - scores[labels[0]], **style)
    grid[0].set(ylabel='IoU, %', ylim=(0, 100))
    grid[0].legend(
        loc='lower left', bbox_to_anchor=(0, 1.0), ncols=min(4, len(labels)), frameon=False
    )
    if below:
        grid[1].set(ylabel=f'change against\n{labels[0]}, points')
        grid[1].axhline(0, color='black', linewidth=0.8)
    grid[-1].set_xticks(x, classes, rotation=35, ha='right', rotation_mode='anchor')
    for tick, colour in zip(grid[-1].get_xticklabels(), palette, strict=True):
        tick.set_bbox(dict(facecolor=(*_unit(colour), 0.45), edgecolor='none', pad=1.5))
    for axes in grid:
        _open(axes)
        axes.grid(axis='y', alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path, bbox_inches='tight')


def plot_curves(path: Path, curves: Mapping[str, Sequence[dict]]) -> None:
    """Training loss over iterations (Figure 3): a thin line as logged, a thick one averaged.

    curves: for each label the records of read_curve(). Where the bit-width falls, the point is marked
    with the new bits of weights and activations.
    """
    figure = Figure(figsize=(8, 4.2), dpi=140)
    axes = figure.subplots()
    for k, (label, records) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        steps = [record['step'] for record in records]
        losses = [record['loss'] for record in records]
        mean = smooth(losses, max(1, len(losses) // 20))
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, mean, color=colour, linewidth=1.8, label=label)
        for i, bits in _falls(records):
            axes.plot(steps[i], mean[i], 'o', color=colour, markersize=4)
            axes.annotate(
                bits, (steps[i], mean[i]), (0, 9), textcoords='offset points', color=colour,
                ha='center', fontsize=8,
            )  # fmt: skip
    axes.set(xlabel='iteration', ylabel='training loss')
    top = np.quantile([r['loss'] for records in curves.values() for r in records], 0.98)
    axes.set_ylim(0, 1.15 * float(top))
    axes.legend(frameon=False)
    _open(axes)
    axes.grid(alpha=0.3)
    figure.savefig(path, bbox_inches='tight')


def plot_pictures(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[Sequence[np.ndarray]],
    classes: Sequence[str],
    palette: Sequence,
) -> None:
    """A grid of pictures (Figure 4), a legend of the classes below.

    rows: for each image RGB uint8 pictures (H, W, 3), one for each title.
    """
    height, width = rows[0][0].shape[:2]
    cell = 2.4 if width >= height else 2.4 * width / height
    tall = cell * height / width
    figure = Figure(figsize=(cell * len(titles), tall * len(rows)), dpi=140)
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for a, picture in zip(axes, row, strict=True):
            a.imshow(picture, interpolation='nearest')
            a.set_axis_off()
    for a, title in zip(grid[0], titles, strict=True):
        a.set_title(title, fontsize=10)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.02, hspace=0.03)
    patches = [
        Patch(color=_unit(colour), label=name)
        for name, colour in zip(classes, palette, strict=True)
    ]
    lines = -(-len(classes) // max(4, int(2.3 * len(titles))))
    figure.legend(
        handles=patches, loc='upper center', bbox_to_anchor=(0.5, -0.01), frameon=False,
        ncols=-(-len(classes) // lines), fontsize=9,
        handlelength=1.2, handleheight=1.0, columnspacing=1.2,
    )  # fmt: skip
    figure.savefig(path, bbox_inches='tight', pad_inches=0.08)


def colour_map(labels: np.ndarray, palette: Sequence) -> np.ndarray:
    """RGB uint8 (H, W, 3) of class labels (H, W); what is no class (255, ignored) is black."""
    table = np.tile(np.array(IGNORED, np.uint8), (256, 1))
    table[: len(palette)] = palette
    return table[labels.astype(np.uint8)]


def _falls(records: Sequence[dict]) -> list[tuple[int, str]]:
    """(index, 'w/a') of the first record and of each one with other bits than the one before."""
    bits = [(r['w_bits'], r['a_bits']) if 'w_bits' in r else None for r in records]
    return [
        (i, f'{now[0]:.0f}/{now[1]:.0f}')
        for i, now in enumerate(bits)
        if now is not None and (i == 0 or now != bits[i - 1])
    ]


def _unit(colour: Sequence[int]) -> tuple[float, ...]:
    return tuple(c / 255 for c in colour)


def _open(axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)
