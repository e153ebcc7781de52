"""Networks with random weights whose codes are spread, for tests and benchmarks.

Every convolution is calibrated as it is added: the builder runs the graph on a sample image and
scales each channel so that its codes use their whole range.
"""

import numpy as np

from bfcn_kernels import fast, ops, reference
from bfcn_kernels.graph import Graph
from bfcn_kernels.ops import BitConv, Residual, Term
from bfcn_kernels.values import IMAGE, Value

f32 = np.float32


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): coarse blobs of colour under fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (-(-height // 16), -(-width // 16), 3))
    blobs = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return np.clip(blobs + rng.normal(0, 20, blobs.shape), 0, 255).astype(np.uint8)


class Builder:
    """Adds ops one by one; each method returns the new value's name."""

    def __init__(self, seed: int = 0, sample: tuple[int, int] = (64, 96)):
        self.rng = np.random.default_rng(seed)
        self._ops: list[ops.Op] = []
        self._values = {'image': IMAGE}
        self._maps = {'image': random_image(*sample, seed)}

    def graph(self) -> Graph:
        """The validated graph."""
        graph = Graph(tuple(self._ops))
        graph.validate()
        return graph

    def value(self, name: str) -> Value:
        """Kind, channels and grid of codes of a value."""
        return self._values[name]

    def pixels(self, name: str) -> int:
        """Pixels of a value for the sample image."""
        return self._maps[name].shape[0] * self._maps[name].shape[1]

    def add(self, op: ops.Op, accumulate=fast.bit_conv_accumulate) -> str:
        """Add any op as it is; `accumulate` as in reference.run_op."""
        maps = self._maps
        value = op.output(*(self._values[source] for source in op.sources))
        grid = op.grid(maps['image'].shape[:2], *(maps[s].shape[:2] for s in op.sources))
        sources = [(maps[s], self._values[s]) for s in op.data_sources]
        maps[op.name] = reference.run_op(op, sources, grid, accumulate)
        self._values[op.name] = value
        self._ops.append(op)
        return op.name

    def image_codes(self, name: str, zero_point: int = 0) -> str:
        """8-bit codes of the pixels; with a zero point, a clipped shift around it."""
        pixels = np.arange(256) + (zero_point - 128 if zero_point else 0)
        table = np.clip(pixels, 0, 255).astype(np.uint8)
        return self.add(ops.ImageCodes(name, np.stack([table] * 3), (2, 1, 0), 8, zero_point))

    def term(
        self, source: str, channels: int, kernel: int = 1, bits: int = 1, form: int = 2, **window
    ) -> Term:
        """A term with random weights; window: stride, padding, dilation, groups as ints.

        Padding keeps the size (at stride 1) unless given.
        """
        groups = window.pop('groups', 1)
        window.setdefault('padding', window.get('dilation', 1) * (kernel - 1) // 2)
        shape = (channels, kernel, kernel, self._values[source].channels // groups)
        weight = self.rng.integers(0, 2**bits, shape, np.uint8)
        pairs = {key: (side, side) for key, side in window.items()}
        return Term(source, weight, np.ones(channels, f32), bits, form, groups=groups, **pairs)

    def conv(
        self,
        name: str,
        terms: list[Term],
        bits: int | None,
        residuals: tuple[str, ...] = (),
        zero_point: int = 0,
    ) -> str:
        """A calibrated BitConv: every part has the same spread, a tenth of the channels A < 0."""
        channels = len(terms[0].weight)
        accs, parts, mean, scaled = [], [], np.zeros(channels), []
        for term in terms:
            source = self._values[term.source]
            accs.append(fast.bit_conv_accumulate(term, self._maps[term.source], source))
            sign = np.where(self.rng.random(channels) < 0.1, -1, 1)
            parts.append((accs[-1].mean((0, 1)), sign / _spread(accs[-1])))
        for source in residuals:
            numbers = self._maps[source].astype(float) - self._values[source].zero_point
            parts.append((numbers.mean((0, 1)), 1 / _spread(numbers).mean()))
        middle, spread = (0.0, 1.0) if bits is None else _target(bits, zero_point)
        gain = spread / np.sqrt(len(parts))
        for centre, scale in parts:
            mean = mean + centre * (scale * gain)
            scaled.append(np.asarray(scale * gain, f32))
        terms = [Term(**{**vars(t), 'scale': s}) for t, s in zip(terms, scaled, strict=False)]
        joined = tuple(
            Residual(source, s.item())
            for source, s in zip(residuals, scaled[len(terms) :], strict=True)
        )
        bias = (middle - mean + self.rng.normal(0, spread / 4, channels)).astype(f32)
        op = BitConv(name, tuple(terms), bias, bits, zero_point, joined)
        known = iter(accs)  # sums do not depend on the scales found since
        return self.add(op, lambda *_: next(known))


def _target(bits: int, zero_point: int) -> tuple[float, float]:
    """Mean and standard deviation of t: a third of unsigned codes is 0, as after a ReLU."""
    top = 2**bits - 1
    return (zero_point, top / 4) if zero_point else (top * 0.25, top * 0.5)


def _spread(acc: np.ndarray) -> np.ndarray:
    """Standard deviation per channel, drawn towards the layer's: few pixels estimate it badly."""
    variance = acc.astype(float).var((0, 1))
    return np.sqrt(0.5 * variance + 0.5 * variance.mean() + 1e-6)
