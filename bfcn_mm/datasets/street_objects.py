"""The things that stand in a street: each draws itself at (x, z) metres."""

import numpy as np

from .street_canvas import CAR, PERSON, POLE, SIGN, TREE, Camera, Canvas, Dice, Light, noise

LEAVES = (
    (0.2, 0.34, 0.13),
    (0.3, 0.42, 0.17),
    (0.15, 0.25, 0.15),
    (0.5, 0.4, 0.16),
    (0.55, 0.3, 0.18),
)
BARK = ((0.27, 0.2, 0.15), (0.36, 0.32, 0.28))
PAINT = (
    (0.75, 0.75, 0.76), (0.15, 0.15, 0.17), (0.45, 0.46, 0.48), (0.55, 0.13, 0.12),
    (0.15, 0.25, 0.48), (0.85, 0.83, 0.76), (0.25, 0.35, 0.25), (0.6, 0.48, 0.3),
)  # fmt: skip
CLOTHES = (
    (0.12, 0.13, 0.18), (0.5, 0.15, 0.15), (0.2, 0.3, 0.55), (0.75, 0.72, 0.68),
    (0.45, 0.42, 0.38), (0.25, 0.4, 0.25), (0.75, 0.6, 0.2),
)  # fmt: skip
SKIN = ((0.85, 0.66, 0.54), (0.62, 0.43, 0.32), (0.38, 0.25, 0.18))
METAL = ((0.3, 0.31, 0.32), (0.5, 0.5, 0.5), (0.2, 0.24, 0.2), (0.62, 0.6, 0.56))
BOARDS = (
    (0.7, 0.1, 0.12), (0.12, 0.25, 0.6), (0.85, 0.7, 0.12), (0.1, 0.42, 0.25), (0.85, 0.85, 0.82),
)  # fmt: skip
GLASS = np.array((0.13, 0.16, 0.19))
RUBBER = np.array((0.06, 0.06, 0.065))


class Billboard:
    """A flat thing facing the camera: u metres to the right of its foot, v metres up."""

    def __init__(
        self, canvas: Canvas, camera: Camera, light: Light, x: float, z: float,
        half_width: float, height: float,
    ) -> None:  # fmt: skip
        self.canvas, self.light, self.z = canvas, light, z
        self.scale = camera.scale(z)
        self.pixel = 1 / self.scale  # metres
        foot_x, foot_y = camera.project(x, 0, z)
        half, tall = half_width * self.scale, height * self.scale
        box = canvas.window(foot_x - half, foot_y - tall, foot_x + half, foot_y + 1)
        self.visible = box is not None
        if box is not None:
            self.where, px, py = box
            self.u = (px - foot_x) * self.pixel
            self.v = (foot_y - py) * self.pixel

    def fill(self, mask: np.ndarray, colour: np.ndarray, cls: int) -> None:
        self.canvas.paint(self.where, mask, self.light.at(colour, self.z), cls)

    def box(self, u: float, v0: float, v1: float, half: float) -> np.ndarray:
        """A box at least one pixel wide, so that thin things never break."""
        half = max(half, 0.5 * self.pixel)
        return (self.u - u >= -half) & (self.u - u < half) & (self.v >= v0) & (self.v < v1)

    def ellipse(self, u: float, v: float, ru: float, rv: float) -> np.ndarray:
        a, b = (self.u - u) / ru, (self.v - v) / rv
        return a * a + b * b <= 1

    def leg(self, u0: float, v0: float, u1: float, v1: float, half: float) -> np.ndarray:
        """A slanted bar from (u0, v0) up to (u1, v1)."""
        middle = u0 + (u1 - u0) * (self.v - v0) / (v1 - v0)
        half = max(half, 0.5 * self.pixel)
        d = self.u - middle
        return (d >= -half) & (d < half) & (self.v >= v0) & (self.v < v1)


def ground_shadow(
    canvas: Canvas, camera: Camera, x: float, z: float, half: float, depth: float
) -> None:
    """Darken an ellipse of the ground, half x depth metres."""
    near, far = max(z - depth, 1.5), z + depth
    left, bottom = camera.project(x - half, 0, near)
    right, top = camera.project(x + half, 0, near)[0], camera.project(x, 0, far)[1]
    box = canvas.window(left, top, right, bottom)
    if box is None:
        return
    where, px, py = box
    ground_z = camera.focal * camera.height / np.maximum(py - camera.horizon, 0.25)
    a = ((px - camera.cx) * ground_z / camera.focal - x) / half
    b = (ground_z - z) / depth
    canvas.darken(where, a * a + b * b <= 1, 0.55)


def draw_tree(canvas: Canvas, camera: Camera, light: Light, dice: Dice, x: float, z: float) -> None:
    """A trunk and a ragged crown of a few overlapping balls."""
    height, spread = dice.between(3.5, 9), dice.between(1.2, 2.6)
    leaf, bark, table = dice.colour(LEAVES), dice.colour(BARK), dice.table(32)
    balls = [
        (
            dice.between(-0.5, 0.5) * spread,
            height * dice.between(0.55, 0.85),
            spread * dice.between(0.45, 0.85),
        )
        for _ in range(dice.count(4, 7))
    ]
    thickness, bushy = dice.between(0.12, 0.28), dice.chance(0.2)
    if bushy:
        balls = [(u, v * 0.3, r * 0.7) for u, v, r in balls]
    ground_shadow(canvas, camera, x + 0.6 * light.sun, z, spread, spread)
    board = Billboard(canvas, camera, light, x, z, 2.2 * spread, height * 1.4)
    if not board.visible:
        return
    if not bushy:
        board.fill(board.box(0, 0, 0.7 * height, thickness), bark, TREE)
    ragged = noise(table, board.u * 3 + 40, board.v * 3 + 0 * board.u)
    fine = noise(table, board.u * 9 + 40, board.v * 9 + 0 * board.u)
    for u, v, r in balls:
        a, b = (board.u - u) / r, (board.v - v) / r
        mask = a * a + b * b + 0.7 * (ragged - 0.5) + 0.5 * (fine - 0.5) <= 1
        shade = 0.85 - 0.25 * a * light.sun * -1 + 0.25 * b + 0.7 * (fine - 0.5)
        board.fill(mask, leaf * np.clip(shade, 0.3, 1.5)[..., None], TREE)


def draw_person(
    canvas: Canvas, camera: Camera, light: Light, dice: Dice, x: float, z: float
) -> None:
    """A walker: two legs, a coat, arms, a head."""
    size = dice.between(0.82, 1.08)
    top, trousers = dice.colour(CLOTHES), dice.colour(CLOTHES)
    skin, hair = dice.colour(SKIN, 0.04), dice.colour(BARK)
    stride, lean = dice.between(0.02, 0.26) * size, dice.between(-0.05, 0.05)
    bag, hip = dice.chance(0.3), 0.86 * size
    ground_shadow(canvas, camera, x + 0.2 * light.sun, z, 0.35, 0.4)
    board = Billboard(canvas, camera, light, x, z, 0.6, 1.9)
    if not board.visible:
        return
    for foot in (-stride - 0.06, stride + 0.06):
        board.fill(board.leg(foot, 0, lean * 0.5, hip, 0.085 * size), trousers, PERSON)
    shade = (0.95 - 0.9 * board.u * light.sun * -1 + 0 * board.v)[..., None]
    shoulder, waist = 1.42 * size, 0.78 * size
    arm = 0.24 * size + 0.5 * stride
    for side in (-1, 1):
        hand = board.leg(lean + side * arm, 0.75 * size, lean + side * 0.17 * size, shoulder, 0.06)
        board.fill(hand, top * 0.8, PERSON)
    board.fill(board.box(lean, waist, shoulder, 0.19 * size), top * shade, PERSON)
    board.fill(board.ellipse(lean, shoulder, 0.19 * size, 0.1 * size), top * shade, PERSON)
    if bag:
        board.fill(board.box(lean + 0.2, 0.7 * size, 1.1 * size, 0.11), trousers * 0.7, PERSON)
    board.fill(board.ellipse(lean, 1.6 * size, 0.11 * size, 0.14 * size), skin, PERSON)
    board.fill(board.ellipse(lean, 1.67 * size, 0.115 * size, 0.09 * size), hair, PERSON)


def draw_pole(canvas: Canvas, camera: Camera, light: Light, dice: Dice, x: float, z: float) -> None:
    """A street lamp with an arm over the road, or a plain post."""
    height, half = dice.between(3.5, 8), dice.between(0.05, 0.1)
    metal, lamp, arm = dice.colour(METAL), dice.chance(0.65), dice.between(0.7, 1.8)
    board = Billboard(canvas, camera, light, x, z, 2.2, height + 0.4)
    if not board.visible:
        return
    inward = -1 if x > 0 else 1
    board.fill(board.box(0, 0, height, half), metal, POLE)
    board.fill(board.box(0, 0, 0.5, half * 1.7), metal * 0.8, POLE)
    if lamp:
        thick = max(0.09, board.pixel)
        bar = board.box(inward * arm / 2, height - thick, height, arm / 2)
        board.fill(bar, metal, POLE)
        board.fill(board.box(inward * arm, height - 2 * thick, height, 0.25), metal * 1.2, POLE)


def draw_sign(canvas: Canvas, camera: Camera, light: Light, dice: Dice, x: float, z: float) -> None:
    """A traffic sign or a traffic light on its post."""
    kind = dice.pick(('disc', 'disc', 'triangle', 'square', 'wide', 'lamp'))
    foot, r = dice.between(2.0, 2.7), dice.between(0.36, 0.5)
    face, mark, metal = dice.colour(BOARDS), dice.colour(BOARDS), dice.colour(METAL)
    lit = dice.count(0, 2)
    board = Billboard(canvas, camera, light, x, z, 1.3, foot + 3 * r)
    if not board.visible:
        return
    board.fill(board.box(0, 0, foot + r, 0.045), metal, POLE)
    v = foot + r
    if kind == 'disc':
        board.fill(board.ellipse(0, v, r, r), face, SIGN)
        board.fill(board.ellipse(0, v, 0.68 * r, 0.68 * r), mark, SIGN)
    elif kind == 'triangle':
        tall = (board.v >= foot) & (board.v < foot + 1.8 * r)
        half = (foot + 1.8 * r - board.v) * 0.6
        board.fill(tall & (board.u >= -half) & (board.u < half), face, SIGN)
        small = (board.v >= foot + 0.25 * r) & (board.u >= -half * 0.55) & (board.u < half * 0.55)
        board.fill(tall & small, mark, SIGN)
    elif kind == 'lamp':
        board.fill(board.box(0, foot, foot + 2.6 * r, 0.5 * r), np.array((0.1, 0.11, 0.1)), SIGN)
        glow = ((0.2, 0.85, 0.5), (0.9, 0.7, 0.15), (0.9, 0.15, 0.1))
        for i in range(3):
            spot = board.ellipse(0, foot + (0.45 + 0.85 * i) * r, 0.3 * r, 0.33 * r)
            board.fill(spot, np.array(glow[i]) * (1.0 if i == lit else 0.3), SIGN)
    else:
        half = r * (2.2 if kind == 'wide' else 0.95)
        board.fill(board.box(0, foot, foot + 1.9 * r, half), face, SIGN)
        board.fill(board.box(0, foot + 0.5 * r, foot + 1.3 * r, half * 0.7), mark, SIGN)


def draw_car(canvas: Canvas, camera: Camera, light: Light, dice: Dice, x: float, z: float) -> None:
    """A car, van or lorry seen from behind or ahead: body and cabin are boxes in perspective."""
    kind = dice.pick(('car', 'car', 'car', 'car', 'van', 'lorry'))
    paint, facing = dice.colour(PAINT), dice.chance(0.5)
    length, half, roof = dice.between(3.8, 4.6), dice.between(0.82, 0.92), dice.between(1.4, 1.6)
    belt, front, back, inset = 0.85, 0.28, 0.92, 0.13
    if kind != 'car':
        front, back, inset = 0.02, 0.9, 0.04
        roof, belt = (2.0, 1.1) if kind == 'van' else (3.0, 1.2)
        length, half = (length + 0.8, half) if kind == 'van' else (length + 2.5, 1.1)
    ground_shadow(canvas, camera, x, z + length / 2, half + 0.25, length / 2 + 0.3)
    pen = _Pen(canvas, camera, light, z)
    side = x - half if x > 0 else x + half
    lit = 1.05 if (x > 0) == (light.sun < 0) else 0.72
    pen.top(x - half, x + half, belt, z, z + length, paint * 1.2)
    pen.side(side, 0.22, belt, z, z + length, paint * lit)
    for at in (0.18, 0.8):
        pen.wheel(side, z + at * length, 0.33)
    pen.face(x - half, x + half, 0.28, belt, z, paint * 0.9)
    for edge in (-1, 1):
        tyre = x + edge * (half - 0.16)
        pen.face(tyre - 0.12, tyre + 0.12, 0, 0.3, z, RUBBER)
        lamp = x + edge * (half - 0.22)
        glow = np.array((0.95, 0.93, 0.8) if facing else (0.7, 0.08, 0.07))
        pen.face(lamp - 0.16, lamp + 0.16, 0.6, 0.76, z, glow)
    pen.face(x - 0.26, x + 0.26, 0.4, 0.54, z, np.array((0.8, 0.8, 0.72)))
    z0, z1 = z + front * length, z + back * length
    shift = inset if x > 0 else -inset
    pen.top(x - half + inset, x + half - inset, roof, z0, z1, paint * 1.15)
    pen.side(side + shift, belt, roof, z0, z1, paint * lit)
    pane = (z1 - z0) * (0.25 if kind == 'lorry' else 0.88)
    pen.side(side + shift, belt + 0.06, min(roof - 0.1, 1.9), z1 - pane, z1 - 0.2, GLASS)
    pen.face(x - half + inset, x + half - inset, belt, roof, z0, paint * 0.85)
    if kind != 'lorry' or facing:
        pane_half = half - inset - 0.1
        pen.face(x - pane_half, x + pane_half, belt + 0.06, min(roof - 0.1, 2.3), z0, GLASS)


def draw_crossing_car(
    canvas: Canvas, camera: Camera, light: Light, dice: Dice, x: float, z: float
) -> None:
    """A car seen from its side."""
    paint, way = dice.colour(PAINT), dice.pick((-1, 1))
    ground_shadow(canvas, camera, x, z + 0.8, 2.3, 0.9)
    pen = _Pen(canvas, camera, light, z)
    pen.face(x - 2.1, x + 2.1, 0.22, 0.72, z, paint * 0.9)
    pen.face(x - 2.0, x + 2.0, 0.7, 0.9, z, paint)
    pen.trapezoid(x - 0.15 * way, 1.35, 0.95, 0.88, 1.45, z, paint * 1.05)
    pen.trapezoid(x - 0.15 * way, 1.2, 0.85, 0.92, 1.37, z, GLASS)
    pen.face(x - 0.2, x - 0.1, 0.88, 1.4, z, paint)
    board = Billboard(canvas, camera, light, x, z, 2.3, 1.0)
    if board.visible:
        for u in (-1.35, 1.3):
            board.fill(board.ellipse(u, 0.33, 0.35, 0.33), RUBBER, CAR)
            board.fill(board.ellipse(u, 0.33, 0.18, 0.17), np.array((0.5, 0.5, 0.52)), CAR)


class _Pen:
    """Faces of boxes, in metres, painted as car."""

    def __init__(self, canvas: Canvas, camera: Camera, light: Light, z: float) -> None:
        self.canvas, self.camera, self.light, self.z = canvas, camera, light, z

    def _quad(self, corners: list[tuple[float, float, float]], colour: np.ndarray) -> None:
        points = [self.camera.project(*corner) for corner in corners]
        self.canvas.polygon(points, self.light.at(np.clip(colour, 0, 1), self.z), CAR)

    def face(
        self, x0: float, x1: float, y0: float, y1: float, z: float, colour: np.ndarray
    ) -> None:
        self._quad([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)

    def side(
        self, x: float, y0: float, y1: float, z0: float, z1: float, colour: np.ndarray
    ) -> None:
        self._quad([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], colour)

    def top(self, x0: float, x1: float, y: float, z0: float, z1: float, colour: np.ndarray) -> None:
        self._quad([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], colour)

    def trapezoid(
        self, x: float, low: float, high: float, y0: float, y1: float, z: float, colour: np.ndarray
    ) -> None:
        corners = [(x - low, y0, z), (x + low, y0, z), (x + high, y1, z), (x - high, y1, z)]
        self._quad(corners, colour)

    def wheel(self, x: float, z: float, r: float) -> None:
        d = 0.7 * r
        ring = ((r, 0), (d, d), (0, r), (-d, d), (-r, 0), (-d, -d), (0, -r), (d, -d))
        self._quad([(x, r + dy, z + dz) for dz, dy in ring], RUBBER)
