"""One street scene from one seed: sky, ground and houses in perspective, then what stands there."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import street_objects as objects
from .street_canvas import (
    BUILDING,
    ROAD,
    SIDEWALK,
    SKY,
    TREE,
    Camera,
    Canvas,
    Dice,
    Light,
    frac,
    noise,
)

SKIES = (  # zenith, horizon, light on the street
    ((0.32, 0.5, 0.8), (0.75, 0.84, 0.93), (1.0, 0.98, 0.94)),
    ((0.55, 0.58, 0.62), (0.72, 0.73, 0.74), (0.86, 0.88, 0.9)),
    ((0.78, 0.79, 0.8), (0.86, 0.86, 0.85), (0.95, 0.95, 0.95)),
    ((0.42, 0.45, 0.62), (0.93, 0.72, 0.5), (1.0, 0.85, 0.7)),
    ((0.2, 0.23, 0.33), (0.48, 0.45, 0.46), (0.62, 0.64, 0.74)),
)
ASPHALT = ((0.33, 0.33, 0.34), (0.42, 0.42, 0.44), (0.28, 0.29, 0.32), (0.45, 0.42, 0.39))
PAVING = ((0.55, 0.53, 0.5), (0.42, 0.42, 0.43), (0.52, 0.42, 0.36), (0.36, 0.36, 0.35))
WALLS = (
    (0.55, 0.3, 0.22), (0.7, 0.62, 0.5), (0.48, 0.47, 0.46), (0.78, 0.76, 0.72),
    (0.36, 0.3, 0.27), (0.62, 0.66, 0.7), (0.45, 0.5, 0.42), (0.66, 0.5, 0.36),
)  # fmt: skip
DETAILS = ((0.14, 0.16, 0.19), (0.35, 0.45, 0.55), (0.6, 0.68, 0.75), (0.75, 0.65, 0.4))
AWNINGS = ((0.6, 0.15, 0.15), (0.15, 0.35, 0.25), (0.2, 0.25, 0.5), (0.8, 0.7, 0.4))
FAR = 75.0  # metres: houses end here
LENS_WIDTH = (0.8, 1.05)  # focal length / image width


@dataclass(frozen=True)
class Street:
    """The plan, in metres; the camera is at (0, 0)."""

    middle: float  # x of the road's middle
    half: float  # half of the road's width
    walk: float  # width of each sidewalk
    crossing: tuple[float, float] | None  # z range of a side street


def draw_scene(height: int, width: int, *seed: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 (height, width, 3) and classes uint8 (height, width): one scene for each seed."""
    dice = Dice(*seed)
    canvas = Canvas(height, width)
    camera = Camera(
        focal=width * dice.between(*LENS_WIDTH),
        cx=width * dice.between(0.36, 0.64),
        horizon=height * dice.between(0.38, 0.5),
        height=dice.between(1.5, 2.3),
    )
    street = _plan(dice)
    zenith, low, tint = (np.array(c) for c in dice.pick(SKIES))
    light = Light(haze=low, reach=dice.between(90, 300), sun=dice.pick((-1, 1)))
    _draw_sky(canvas, camera, dice, zenith, low)
    _draw_skyline(canvas, camera, light, dice)
    _draw_ground(canvas, camera, light, dice, street)
    _draw_houses(canvas, camera, light, dice, street)
    for draw, x, z in _things(dice, street):
        draw(canvas, camera, light, dice, x, z)
    return _photograph(canvas.rgb * tint, dice), canvas.classes


def _plan(dice: Dice) -> Street:
    half = dice.between(3.0, 6.0)
    start = dice.between(11, 30)
    crossing = (start, start + dice.between(6, 9)) if dice.chance(0.4) else None
    return Street(half * dice.between(-0.55, 0.55), half, dice.between(1.8, 4.0), crossing)


def _draw_sky(
    canvas: Canvas, camera: Camera, dice: Dice, zenith: np.ndarray, low: np.ndarray
) -> None:
    h, w = canvas.shape
    y, x = np.arange(h)[:, None] + 0.5, np.arange(w)[None, :] + 0.5
    up = np.clip((camera.horizon - y) / camera.horizon, 0, 1)
    sky = low + (zenith - low) * up[..., None]
    table, size = dice.table(), dice.between(0.12, 0.3) * h
    # clouds are wide and flat
    cloud = 0.65 * noise(table, x / (2.2 * size), y / size)
    cloud = cloud + 0.35 * noise(table, x / (0.6 * size) + 17, y / (0.35 * size) + 5)
    cover = np.clip((cloud - dice.between(0.4, 0.75)) * 4, 0, 1)[..., None]
    white = np.clip(low * 1.08, 0, 1)
    canvas.rgb[:] = sky + (white - sky) * cover * 0.85
    canvas.classes[:] = SKY


def _draw_skyline(canvas: Canvas, camera: Camera, light: Light, dice: Dice) -> None:
    """What closes the street: far roofs and tree tops."""
    x = -120.0
    while x < 120:
        wide, tall, z = dice.between(5, 18), dice.between(3, 16), dice.between(80, 120)
        leafy, wall, leaf = dice.chance(0.45), dice.colour(WALLS), dice.colour(objects.LEAVES)
        left, top = camera.project(x, tall * (0.6 if leafy else 1), z)
        right, foot = camera.project(x + wide, 0, z)
        table = dice.table(16)
        box = canvas.window(left, top, right, foot)
        x += wide * 0.8
        if box is None:
            continue
        where, px, py = box
        bumpy = noise(table, px * 0.7, 0 * px) * (foot - top) * 0.5
        mask = py >= top + bumpy if leafy else (py >= top) & (px >= left)
        colour = light.at(leaf if leafy else wall, z)
        canvas.paint(where, mask, colour, TREE if leafy else BUILDING)


def _draw_ground(canvas: Canvas, camera: Camera, light: Light, dice: Dice, street: Street) -> None:
    h, w = canvas.shape
    box = canvas.window(0, camera.horizon + 0.5, w, h)
    where, px, py = box
    z = camera.focal * camera.height / np.maximum(py - camera.horizon, 0.25)
    x = (px - camera.cx) * z / camera.focal
    z = z + 0 * x
    off = np.abs(x - street.middle)
    table = dice.table()
    grain = 0.6 * noise(table, x * 2.3 + 500, z * 1.1) + 0.4 * noise(table, x * 9 + 700, z * 4)
    patch = noise(table, x * 0.35 + 300, z * 0.14 + 9)
    wet = dice.chance(0.25) * 0.35

    walk = dice.colour(PAVING) * (0.8 + 0.3 * grain + 0.2 * (patch - 0.5))[..., None]
    tile, detail = dice.between(0.5, 1.3), np.clip(9 / z, 0, 1)
    joint = ((frac(x / tile + 90) < 0.07) | (frac(z / tile) < 0.07)) * 0.22 * detail
    walk = walk * (1 - joint)[..., None]
    canvas.paint(where, z > 0, light.at(walk, z), SIDEWALK)

    on_road = off < street.half
    if street.crossing:
        on_road = on_road | ((z >= street.crossing[0]) & (z < street.crossing[1]))
    road = dice.colour(ASPHALT) * (0.78 + 0.3 * grain + 0.4 * (patch - 0.5))[..., None]
    road = road + (light.haze - road) * (np.clip(patch - 0.45, 0, 1) * 2 * wet)[..., None]
    road = _mark_road(road, dice, street, x, z, off)
    canvas.paint(where, on_road, light.at(road, z), ROAD)
    kerb = (off >= street.half) & (off < street.half + 0.22) & ~on_road
    canvas.paint(where, kerb, light.at((0.62, 0.61, 0.6), z), SIDEWALK)
    if dice.chance(0.6):
        edge = dice.between(-0.4, 0.9) * street.half
        canvas.darken(where, (x - street.middle) * light.sun > edge, dice.between(0.5, 0.75))


def _mark_road(
    road: np.ndarray, dice: Dice, street: Street, x: np.ndarray, z: np.ndarray, off: np.ndarray
) -> np.ndarray:
    """White paint: a dashed middle line, edge lines, a zebra; all of it is road."""
    period, fill = dice.between(3, 6), dice.between(0.35, 1.0)
    line = (off < 0.09) & (frac(z / period) < fill) & dice.chance(0.8)
    if dice.chance(0.4):
        line = line | ((off > street.half - 0.45) & (off < street.half - 0.3))
    if street.crossing:
        line = line & ((z < street.crossing[0]) | (z >= street.crossing[1]))
    zebra = street.crossing[0] - 3.4 if street.crossing else dice.between(6, 25)
    if dice.chance(0.5):
        stripes = (z >= zebra) & (z < zebra + 2.6) & (off < street.half - 0.2)
        line = line | (stripes & (frac((x - street.middle) / 1.1 + 50) < 0.5))
    worn = dice.between(0.45, 0.85)
    return road + (0.85 - road) * (line * worn)[..., None]


def _draw_houses(canvas: Canvas, camera: Camera, light: Light, dice: Dice, street: Street) -> None:
    """Rows of houses on both sides, far ones first; trees stand in the gaps."""
    jobs = []
    for side in (-1, 1):
        front = street.middle + side * (street.half + street.walk)
        z = dice.between(-6, 2)
        while z < FAR:
            end = z + dice.between(6, 18)
            if street.crossing and z < street.crossing[1] + 1 and end > street.crossing[0] - 1:
                end = street.crossing[0] - 1
                if end > z + 2:
                    jobs.append((z, side, front, end, 'house'))
                z = street.crossing[1] + 1
                continue
            if dice.chance(0.82):
                jobs.append((z, side, front + side * dice.between(0, 0.8), end, 'house'))
            else:
                for _ in range(dice.count(1, 3)):
                    at = dice.between(max(z, 4.0), max(end, 5.0))
                    jobs.append((at, side, front + side * dice.between(2, 6), at, 'tree'))
            z = end
    for z, side, front, end, kind in sorted(jobs, reverse=True):
        if kind == 'tree':
            objects.draw_tree(canvas, camera, light, dice, front, max(z, 4.0))
        else:
            _draw_house(canvas, camera, light, dice, side, front, max(z, 1.0), max(end, 1.5))


def _draw_house(
    canvas: Canvas, camera: Camera, light: Light, dice: Dice, side: int, front: float,
    z0: float, z1: float,
) -> None:  # fmt: skip
    """The wall that faces the camera, then the facade along the street."""
    tall, wall = dice.between(4.5, 17), dice.colour(WALLS)
    facade = _Facade(dice, wall)
    lit = 1.0 if side != light.sun else 0.72
    w = canvas.shape[1]
    if front * side <= 0.3:  # the camera stands in the row: nothing to see
        return
    near_x, top = camera.project(front, tall, z0)
    far_x = camera.project(front, 0, z1)[0]
    foot = camera.project(front, 0, z0)[1]
    outer = w if side > 0 else 0
    box = canvas.window(min(near_x, outer), top, max(near_x, outer), foot)
    if box is not None and (near_x < w if side > 0 else near_x > 0):
        where, px, py = box
        across = (px - near_x) * side * z0 / camera.focal
        up = camera.height - (py - camera.horizon) * z0 / camera.focal + 0 * px
        mask = (across >= 0) & (across < 14) & (up < tall) & (up >= 0)
        colour = facade.colours(across + 0 * up, up, tall, camera.scale(z0), shops=False)
        canvas.paint(where, mask, light.at(colour * (1.6 - lit) * 0.8, z0), BUILDING)
    box = canvas.window(min(near_x, far_x), top, max(near_x, far_x), foot)
    if box is None:
        return
    where, px, py = box
    ray = np.maximum((px - camera.cx) * side, 0.05)
    z = front * side * camera.focal / ray
    up = camera.height - (py - camera.horizon) * z / camera.focal
    mask = (z >= z0) & (z < z1) & (up < tall) & (up >= 0)
    # columns shrink with 1 / z**2 along the facade
    fine = camera.focal * front * side / (z * z)
    colour = facade.colours(z - z0 + 0 * up, up, tall, fine, shops=True)
    canvas.paint(where, mask, light.at(colour * lit, z + 0 * up), BUILDING)


class _Facade:
    """The look of one house: wall, rows of windows, a shop at the bottom, a poster."""

    def __init__(self, dice: Dice, wall: np.ndarray) -> None:
        self.wall, self.pane = wall, dice.colour(DETAILS)
        self.shop, self.awning = dice.colour(DETAILS), dice.colour(AWNINGS)
        self.table = dice.table(32)
        self.pitch, self.storey = dice.between(1.8, 3.6), dice.between(2.8, 3.6)
        glassy = dice.chance(0.2)
        self.open_u, self.open_v = (0.92, 0.8) if glassy else (dice.between(0.35, 0.6), 0.52)
        self.has_shop, self.poster = dice.chance(0.45), dice.between(1, 9)
        self.bricks = dice.chance(0.4)

    def colours(
        self, along: np.ndarray, up: np.ndarray, tall: float, fine: float | np.ndarray, shops: bool
    ) -> np.ndarray:
        """RGB (m, n, 3) at metres along and up the wall; fine: pixels per metre along it."""
        stain = noise(self.table, along * 0.5, up * 0.7) - 0.5
        grain = noise(self.table, along * 6, up * 6) - 0.5
        colour = self.wall * (1 + 0.28 * stain + 0.16 * grain)[..., None]
        if self.bricks:
            rows = (frac(up / 0.45) < 0.25) * 0.14 * np.clip(fine / 16, 0, 1)
            colour = colour * (1 - rows)[..., None]
        cell_u, cell_v = along / self.pitch, up / self.storey
        edge_u, edge_v = (1 - self.open_u) / 2, (1 - self.open_v) / 2
        u, v = frac(cell_u), frac(cell_v)
        window = (u > edge_u) & (u < 1 - edge_u) & (v > edge_v) & (v < 1 - edge_v)
        window = window & (up < tall - 0.7)
        each = self.table[
            np.floor(cell_v).astype(np.int64) % 32, np.floor(cell_u).astype(np.int64) % 32
        ]
        glass = self.pane * (0.6 + 0.8 * each)[..., None]
        # windows narrower than a few pixels melt into the wall
        clear = np.clip(fine * self.pitch / 3 - 0.4, 0.35, 1) * np.ones_like(up)
        colour = np.where(window[..., None], colour + (glass - colour) * clear[..., None], colour)
        if shops and self.has_shop:
            ground = (up < 3.0) & (frac(along / 4.5) > 0.08)
            colour = np.where(ground[..., None], self.shop * (0.8 + 0.4 * grain)[..., None], colour)
            cloth = (up >= 2.5) & (up < 3.2)
            stripes = np.where(frac(along / 0.8) < 0.5, 1.0, 0.75)[..., None]
            colour = np.where(cloth[..., None], self.awning * stripes, colour)
        elif shops:
            poster = (np.abs(along - self.poster) < 0.9) & (np.abs(up - 2.0) < 0.6)
            colour = np.where(poster[..., None], self.awning, colour)
        cornice = (up >= tall - 0.35)[..., None]
        return np.where(cornice, colour * 0.75, colour)


def _things(dice: Dice, street: Street) -> list[tuple[Callable, float, float]]:
    """What stands in the street, as (draw, x, z), far ones first."""
    things = []

    def add(draw: Callable, low: int, high: int, place: Callable[[int], float], far: float) -> None:
        for _ in range(dice.count(low, high)):
            side = dice.pick((-1, 1))
            # squaring brings more of them near, where they are large
            t = dice.between(0, 1)
            things.append((draw, street.middle + side * place(side), 4.5 + (far - 4.5) * t * t))

    half, walk = street.half, street.walk
    add(objects.draw_car, 1, 4, lambda _: half - dice.between(0.95, 1.2), 45)
    add(objects.draw_car, 0, 2, lambda _: half * dice.between(0.3, 0.55), 45)
    add(objects.draw_person, 1, 4, lambda _: half + dice.between(0.4, walk - 0.3), 22)
    add(objects.draw_person, 0, 2, lambda _: half * dice.between(0, 0.9), 22)
    add(objects.draw_tree, 0, 4, lambda _: half + dice.between(0.6, 0.9) * walk, 45)
    add(objects.draw_pole, 1, 4, lambda _: half + dice.between(0.3, 0.6), 35)
    add(objects.draw_sign, 1, 3, lambda _: half + dice.between(0.3, 0.8), 20)
    if street.crossing and dice.chance(0.7):
        z = dice.between(street.crossing[0] + 1.5, street.crossing[1] - 2.5)
        things.append((objects.draw_crossing_car, dice.between(-8, 8), z))
    return sorted(things, key=lambda thing: -thing[2])


def _photograph(rgb: np.ndarray, dice: Dice) -> np.ndarray:
    """Exposure, contrast, colour cast, a soft lens, a dark rim and sensor noise; uint8."""
    h, w, _ = rgb.shape
    rgb = rgb * (dice.between(0.85, 1.35) * (0.95 + 0.1 * dice.rng.random(3)))
    rgb = 0.5 + (rgb - 0.5) * dice.between(0.8, 1.15)
    soft = dice.between(0, 0.22)
    for axis in (0, 1):
        before, after = np.roll(rgb, 1, axis), np.roll(rgb, -1, axis)
        blurred = rgb * (1 - soft) + (before + after) * (soft / 2)
        inner = [slice(None)] * 3
        inner[axis] = slice(1, -1)
        rgb[tuple(inner)] = blurred[tuple(inner)]
    y, x = (np.arange(h)[:, None] + 0.5) / h - 0.5, (np.arange(w)[None, :] + 0.5) / w - 0.5
    rgb = rgb * (1 - dice.between(0, 0.5) * (x * x + y * y))[..., None]
    # the sum of three uniform values is near enough to a Gaussian
    grain = dice.rng.random((h, w, 3)) + dice.rng.random((h, w, 3)) + dice.rng.random((h, w, 3))
    rgb = rgb + (grain - 1.5) * dice.between(0.01, 0.05)
    return np.floor(np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
