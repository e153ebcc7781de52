"""What a street scene is drawn with: dice, a pinhole camera, a canvas of colours and classes.

Only +, -, *, /, floor and comparisons of float64 and Generator.random() are used, which IEEE 754
fixes to the last bit: the same seed gives the same pixels on any machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLASSES = ('sky', 'road', 'sidewalk', 'building', 'tree', 'car', 'person', 'sign', 'pole')
SKY, ROAD, SIDEWALK, BUILDING, TREE, CAR, PERSON, SIGN, POLE = range(len(CLASSES))

Colour = Sequence[float] | np.ndarray  # RGB in [0, 1], (3,) or broadcastable to (h, w, 3)


class Dice:
    """Random choices, every one made from Generator.random()."""

    def __init__(self, *seed: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def count(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int(float(self.rng.random()) * (high - low + 1))

    def pick(self, items: Sequence) -> object:
        return items[self.count(0, len(items) - 1)]

    def colour(self, palette: Sequence[Colour], jitter: float = 0.06) -> np.ndarray:
        """A colour of the palette, moved by at most `jitter` in each channel."""
        base = np.array(self.pick(palette), dtype=np.float64)
        return np.clip(base + (2 * self.rng.random(3) - 1) * jitter, 0, 1)

    def table(self, size: int = 64) -> np.ndarray:
        """Random values in [0, 1), (size, size), for `noise`."""
        return self.rng.random((size, size))


def noise(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth noise in [0, 1): the table read bilinearly at (x, y), repeating."""
    size = len(table)
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    i, j = x0.astype(np.int64) % size, y0.astype(np.int64) % size
    i1, j1 = (i + 1) % size, (j + 1) % size
    top = table[j, i] * (1 - fx) + table[j, i1] * fx
    bottom = table[j1, i] * (1 - fx) + table[j1, i1] * fx
    return top * (1 - fy) + bottom * fy


def frac(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


@dataclass(frozen=True)
class Camera:
    """A pinhole: X to the right, Y up from the ground, Z ahead, in metres; pixels from top left."""

    focal: float  # pixels
    cx: float  # vanishing point, pixels
    horizon: float
    height: float  # metres above the ground

    def scale(self, z: float) -> float:
        """Pixels per metre at depth z."""
        return self.focal / z

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        s = self.scale(z)
        return self.cx + x * s, self.horizon + (self.height - y) * s


@dataclass(frozen=True)
class Light:
    """What the air and the sun do to a colour."""

    haze: np.ndarray  # RGB that far things fade to
    reach: float  # metres at which half of the colour is haze
    sun: int  # the side that is lit: -1 left, 1 right

    def at(self, colour: Colour, z: float | np.ndarray) -> np.ndarray:
        """The colour seen from distance z; z a number or (h, w)."""
        t = np.asarray(z / (z + self.reach), dtype=np.float64)[..., None]
        return np.asarray(colour) * (1 - t) + self.haze * t


class Canvas:
    """RGB in [0, 1], float64 (h, w, 3), and the class of each pixel, uint8 (h, w)."""

    def __init__(self, height: int, width: int) -> None:
        self.rgb = np.zeros((height, width, 3))
        self.classes = np.zeros((height, width), dtype=np.uint8)

    @property
    def shape(self) -> tuple[int, int]:
        return self.classes.shape

    def window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
        """The part of the canvas in a box, and its pixel centres x (1, n), y (m, 1); or None."""
        h, w = self.shape
        x0, x1 = max(0, int(np.floor(left))), min(w, int(np.floor(right)) + 1)
        y0, y1 = max(0, int(np.floor(top))), min(h, int(np.floor(bottom)) + 1)
        if x0 >= x1 or y0 >= y1:
            return None
        where = (slice(y0, y1), slice(x0, x1))
        return where, np.arange(x0, x1)[None, :] + 0.5, np.arange(y0, y1)[:, None] + 0.5

    def paint(self, where: tuple[slice, slice], mask: np.ndarray, colour: Colour, cls: int) -> None:
        """Colour the masked pixels of a window. mask: bool (m, n)."""
        mask = np.broadcast_to(mask, self.classes[where].shape)
        colour = np.broadcast_to(colour, (*mask.shape, 3))
        self.rgb[where][mask] = colour[mask]
        self.classes[where][mask] = cls

    def darken(self, where: tuple[slice, slice], mask: np.ndarray, factor: float) -> None:
        """A shadow: the classes stay."""
        mask = np.broadcast_to(mask, self.classes[where].shape)
        self.rgb[where][mask] *= factor

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour, cls: int) -> None:
        """Fill a convex polygon given by its corners in pixels, in either direction."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        box = self.window(min(xs), min(ys), max(xs), max(ys))
        if box is None:
            return
        where, x, y = box
        inside = outside = True
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            inside = inside & (side >= 0)
            outside = outside & (side <= 0)
        self.paint(where, inside | outside, colour, cls)
