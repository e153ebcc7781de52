"""Small random graphs that reach the corners of the format, for tests of any engine."""

import numpy as np

from bfcn_kernels import ops
from bfcn_kernels.builder import Builder
from bfcn_kernels.graph import Graph
from bfcn_kernels.ops import Term
from bfcn_kernels.values import Value

CHANNELS = (1, 3, 8, 16, 31, 63, 64, 65, 128, 130)


def random_graph(seed: int, length: int = 12) -> Graph:
    """A valid graph of some `length` ops in random order; the same seed gives the same graph.

    It runs on any image of at least 1 x 1: windows are padded to cover small maps.
    """
    return _RandomGraph(seed).make(length)


class _RandomGraph:
    """Keeps values by the level of their grid: equal levels have equal grids for every image."""

    def __init__(self, seed: int):
        self.net = Builder(seed, (12, 17))
        self.rng = self.net.rng
        self.level: dict[str, tuple] = {}
        self.unread: list[str] = []
        self.count = 0

    def make(self, length: int) -> Graph:
        pixels = self.net.image_codes('op0', zero_point=int(self.rng.choice([0, 100, 128])))
        self._note(pixels, ())
        for _ in range(length):
            makers = [self.conv, self.conv, self.conv, self.max_pool, self.avg_pool]
            makers += [self.adaptive, self.resize, self.table, self.concat]
            self._pick(makers)()
        self.finish()
        return self.net.graph()

    def finish(self) -> None:
        """Join every unread value into scores: features by a conv and a resize each, then adds."""
        classes = int(self.rng.integers(2, 20))
        total = None
        for source in list(self.unread):
            scores = self._conv([self._term(source, classes)], None)
            like = scores if total is None else total
            mode = self._pick(ops.RESIZE_MODES)
            scores = self._add(ops.Resize(self.name(), scores, mode, like=like), self.level[like])
            if total is None:
                total = scores
            elif self.rng.random() < 0.5:
                total = self._add(ops.Add(self.name(), (total, scores)), self.level[like])
            else:
                reach = int(self.rng.integers(0, 3))
                total = self._add(ops.Mask(self.name(), total, scores, reach), self.level[like])
        self._add(ops.ArgMax(self.name(), total, self._pick(ops.RESIZE_MODES)), ())

    def conv(self) -> None:
        """One to three terms at one level, perhaps residuals; or a window of its own."""
        first = self._source()
        channels = int(self._pick(CHANNELS))
        if self.rng.random() < 0.4:
            self._conv([self._term(first, channels, strided=True)], self._bits())
            return
        peers = self._peers(first)
        terms = [self._term(first, channels)]
        terms += [self._term(self._pick(peers), channels) for _ in range(self.rng.integers(0, 3))]
        joined = [name for name in peers if self._value(name).channels == channels]
        residuals = (self._pick(joined),) if joined and self.rng.random() < 0.7 else ()
        self._conv(terms, self._bits(), residuals)

    def max_pool(self) -> None:
        source, kernel, stride, padding = self._source(), *self._window()
        dilation = int(self._pick((1, 1, 2)))
        if dilation == 2:
            kernel, padding = (2, 2), (1, 1)
        ceil = bool(self.rng.random() < 0.5)
        window = (kernel, stride, padding, (dilation, dilation), ceil)
        level = (*self.level[source], 'max', window)
        self._add(ops.MaxPool(self.name(), source, *window), level)

    def avg_pool(self) -> None:
        source, kernel, stride, padding = self._source(), *self._window()
        flags = (bool(self.rng.random() < 0.5), bool(self.rng.random() < 0.5))
        A, B, bits, zero_point = self._requantization(source)
        level = (*self.level[source], 'avg', kernel, stride, padding, flags[0])
        op = ops.AvgPool(
            self.name(), source, kernel, stride, A, B, bits, zero_point, padding, *flags
        )
        self._add(op, level)

    def adaptive(self) -> None:
        size = int(self.rng.integers(1, 8)), int(self.rng.integers(1, 8))
        source = self._source()
        op = ops.AdaptiveAvgPool(self.name(), source, size, *self._requantization(source))
        self._add(op, ('fixed', size))

    def resize(self) -> None:
        source = self._source()
        small = self.net.pixels(source) < 2000
        target = self._pick(('like', 'size', 'factor') if small else ('like', 'size'))
        if target == 'like':
            extent = self._pick(['image', *self.level])
            level = self.level.get(extent, ())
        elif target == 'size':
            extent = int(self.rng.integers(1, 20)), int(self.rng.integers(1, 20))
            level = ('fixed', extent)
        else:
            extent = int(self.rng.integers(1, 3)), int(self.rng.integers(1, 3))
            level = (*self.level[source], 'factor', extent)
        A, B, bits, zero_point = self._requantization(source)
        op = ops.Resize(
            self.name(), source, self._pick(ops.RESIZE_MODES), A=A, B=B, bits=bits,
            zero_point=zero_point, **{target: extent},
        )  # fmt: skip
        self._add(op, level)

    def table(self) -> None:
        source, bits = self._source(), self._bits()
        entries = self.rng.integers(0, 2**bits, 2 ** self._value(source).bits, np.uint8)
        zero_point = int(self.rng.integers(0, 2**bits))
        op = ops.Table(self.name(), source, entries, bits, zero_point)
        self._add(op, self.level[source])

    def concat(self) -> None:
        first = self._source()
        grid = self._value(first).bits, self._value(first).zero_point
        alike = [
            name
            for name in self._peers(first)
            if (self._value(name).bits, self._value(name).zero_point) == grid
        ]
        sources = (first, *(self._pick(alike) for _ in range(self.rng.integers(1, 3))))
        self._add(ops.Concat(self.name(), sources), self.level[first])

    def _conv(self, terms: list[Term], bits: int | None, residuals: tuple[str, ...] = ()) -> str:
        zero_point = int(self.rng.integers(0, 2**bits)) if bits and self.rng.random() < 0.3 else 0
        windows = (terms[0].stride, terms[0].kernel, terms[0].padding, terms[0].dilation)
        same = terms[0].grid((99, 99)) == (99, 99)
        level = self.level[terms[0].source]
        name = self.net.conv(self.name(), terms, bits, residuals, zero_point)
        self._note(name, level if same else (*level, 'conv', windows))
        self._read(*(part.source for part in terms), *residuals)
        return name

    def _term(self, source: str, channels: int, strided: bool = False) -> Term:
        given = self._value(source).channels
        common = np.gcd(given, channels)
        groups = int(self._pick((1, 1, common)))
        bits = int(self._pick((1, 1, 2, 3, 4, 8)))
        form = int(self._pick((1, 2))) if bits > 1 else 2
        kernel = int(self._pick((1, 3, 3, 5)))
        window = {'dilation': int(self._pick((1, 1, 2, 4)))}
        if strided:
            window['stride'] = int(self._pick((1, 2, 2, 3)))
        return self.net.term(source, channels, kernel, bits, form, groups=groups, **window)

    def _window(self) -> tuple:
        """Kernel, stride and a padding that lets the window fit a 1 x 1 map."""
        sides = [int(self._pick((1, 2, 3))) for _ in range(2)]
        padding = tuple(side // 2 for side in sides)
        stride = tuple(int(self.rng.integers(1, 4)) for _ in range(2))
        return tuple(sides), stride, padding

    def _requantization(self, source: str) -> tuple[float, float, int, int]:
        """A, B, bits, zero point of pools and resizes; A maps the source's range to the new one."""
        bits = self._bits()
        ratio = (2**bits - 1) / (2 ** self._value(source).bits - 1)
        zero_point = int(self.rng.integers(0, 2**bits)) if self.rng.random() < 0.5 else 0
        A = np.float32(ratio * self.rng.uniform(0.5, 2)).item()
        B = np.float32(zero_point + self.rng.normal(0, 0.3)).item()
        return A, B, bits, zero_point

    def _source(self) -> str:
        """Any codes, those that nothing has read yet three times out of four."""
        return self._pick(self.unread if self.rng.random() < 0.75 else list(self.level))

    def _peers(self, name: str) -> list[str]:
        return [peer for peer in self.level if self.level[peer] == self.level[name]]

    def _bits(self) -> int:
        return int(self._pick((1, 2, 2, 3, 4, 8)))

    def _pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def _value(self, name: str) -> Value:
        return self.net.value(name)

    def name(self) -> str:
        self.count += 1
        return f'op{self.count}'

    def _add(self, op: ops.Op, level: tuple) -> str:
        self.net.add(op)
        self._note(op.name, level)
        self._read(*op.sources)
        return op.name

    def _note(self, name: str, level: tuple) -> None:
        if self._value(name).kind == 'codes':
            self.unread.append(name)
        self.level[name] = level

    def _read(self, *names: str) -> None:
        self.unread = [name for name in self.unread if name not in names]
