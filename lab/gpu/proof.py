"""The packed network on this GPU: first that it is right, then how fast it is. (make gpu)

Every feature map against the oracle and the C engine, on int8 and on one-bit tensor cores; then end to
end against half precision and int8 in PyTorch, layer by layer against the roofline, and the training step
of the quantized network against its float one. Writes gpu.csv, gpu_layers.csv and gpu.png after each
part; nothing is timed where anything differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from bfcn_kernels import Graph, Metadata, Model, fast, load, read, reference, write
from bfcn_kernels.builder import random_image
from bfcn_kernels.nets import resnet_bfcn, toy
from bfcn_kernels.ops import BitConv
from bfcn_kernels.testing import random_graph
from lab.gpu import int8
from lab.gpu.peers import FloatTwin, captured, median_ms
from lab.gpu.report import save

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((160, 256), (512, 1024), (1024, 2048))
BATCHES = (1, 8)
TRAINED = 'configs/bfcn_r50_cityscapes_1w2a.py'
TINY = 'configs/bfcn_demo.py'  # of a smoke run
# int8 tensor-core MAC/s (dense) and bytes/s of memory, by the makers' data sheets.
PEAKS = {'A100': (3.12e14, 2.0e12), 'H100': (9.9e14, 3.35e12), 'H200': (9.9e14, 4.8e12)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=Path, help='a packed file (default: R50, random weights)')
    parser.add_argument('--bits', nargs=2, type=int, default=(1, 2), metavar=('W', 'A'))
    parser.add_argument('--out', type=Path, default=ROOT / 'gpu_out', help='folder to write to')
    parser.add_argument(
        '--minutes', type=float, default=8, help='what would take longer is left out'
    )
    parser.add_argument('--check', action='store_true', help='only that all is right')
    parser.add_argument(
        '--smoke',
        action='store_true',
        help='all of it once, tiny, in the interpreter: no GPU needed, times mean nothing, writes none',
    )
    args = parser.parse_args()
    if args.smoke:
        os.environ['TRITON_INTERPRET'] = '1'
    try:
        from bfcn_kernels.triton import Engine
        from bfcn_kernels.triton.device import pick_device

        device = pick_device()
    except RuntimeError as error:
        sys.exit(f'{error}; or give --smoke')
    torch.backends.cudnn.benchmark = True  # half precision at its best
    try:
        bench = Bench(args, device, Engine)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    bench.check()
    bench.check_training()
    bench.check_int8()
    # One-bit kernels come after what they could bring down, compilers after what must not wait for them.
    parts = [bench.check_one_bit]
    if not args.check:
        parts = [bench.time, bench.train, *parts, bench.time_one_bit, bench.compiled]
    for part in parts:
        try:
            part()
        finally:  # what has been measured stays, whatever the rest does
            bench.write()
    if not args.check:
        if args.smoke:
            print('smoke: all of it ran; nothing is written, since these times mean nothing')
        else:
            print(f'written: {args.out}')


class Bench:
    """One run: rows of end-to-end and of layer times."""

    def __init__(self, args: argparse.Namespace, device: torch.device, engine: type) -> None:
        self.args, self.device, self.make = args, device, engine
        self.stop = time.perf_counter() + 60 * args.minutes
        self.rows: list[dict] = []
        self.layers: list[dict] = []
        self.sizes, self.batches = (((17, 24),), (1, 2)) if args.smoke else (SIZES, BATCHES)
        self.name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'interpreter'
        args.out.mkdir(parents=True, exist_ok=True)
        self.path = args.model or self._random_model()
        self.graph = read(self.path).graph
        self.one_bit, self.int8 = False, False  # whether they run here
        print(f'{self.name}, torch {torch.__version__}, {self.path.name}', flush=True)

    def check(self) -> None:
        """Stop unless every value equals the oracle's, and labels and scores the C engine's."""
        graphs, sizes = {'toy': toy()}, ((9, 12),)
        if not self.args.smoke:
            graphs |= {f'random {seed}': random_graph(seed, 6) for seed in range(4)}
            sizes = (1, 1), (33, 17), (64, 96)
        self._equal_the_oracle(graphs, sizes)
        self._equals_c(self.make(self.graph))

    def check_one_bit(self) -> None:
        """The same of one-bit tensor cores, where there are some."""
        graphs = {
            f'r18 {w}w{a}a': resnet_bfcn(18, w, a, classes=5, width=64)
            for w, a in ((1, 1), (1, 2), (2, 2), (2, 4))
        }
        try:
            engine = self.make(self.graph, one_bit=True)
            self._equal_the_oracle(graphs, ((1, 1), (33, 40)), one_bit=True)
            self._equals_c(engine)
        except RuntimeError as error:
            print(f'left out: one-bit tensor cores: {error}', flush=True)
            return
        self.one_bit = True
        served, convs = (
            engine.one_bit_layers,
            [op for op in self.graph.ops if isinstance(op, BitConv)],
        )
        print(f'{len(served)} of {len(convs)} convolutions use one-bit tensor cores', flush=True)

    def _equal_the_oracle(self, graphs: dict, sizes: tuple, **options) -> None:
        os.environ['BFCN_TUNE'], asked = '0', os.environ.get('BFCN_TUNE', '1')  # the rule will do
        for name, graph in graphs.items():
            engine = self.make(graph, **options)
            for size in sizes:
                image = random_image(*size)
                expected = reference.run(graph, image, fast.bit_conv_accumulate)
                self._same(name, graph, expected, engine.trace(image))
        os.environ['BFCN_TUNE'] = asked
        print(f'right: every value of {len(graphs)} graphs at {sizes}{_said(options)}', flush=True)

    def _equals_c(self, engine) -> None:
        c_engine = load(self.path, 'cpu', threads=os.cpu_count())
        for size in self.sizes[:2]:
            image = random_image(*size)
            expected = {'labels': c_engine(image), 'scores': c_engine.logits}
            got = {'labels': engine(image), 'scores': engine.logits}
            for name, value in expected.items():
                if not np.array_equal(value, got[name]):
                    sys.exit(f'{self.path.name} at {size}: {name} differ from the C engine')
        said = _said(dict(one_bit=bool(engine.one_bit_layers)))
        print(f'right: {self.path.name} equals the C engine at {self.sizes[:2]}{said}', flush=True)

    def check_training(self) -> None:
        """Stop unless fused fake quantization equals the formulas in torch ops on this device."""
        from bfcn_kernels.triton import fake_quant as fused
        from bfcn_mm.quantizers import bipolar, fake_quant

        torch.manual_seed(0)
        grid = bipolar(2)
        for dtype in (torch.float32, torch.float16 if self.args.smoke else torch.bfloat16):
            x, grad = (torch.randn(4, 6, 9, 7, device=self.device).to(dtype) for _ in range(2))
            steps = torch.rand(4, 1, 1, 1, device=self.device) + 0.1
            step, rest = steps[0, 0, 0, 0].clone(), (None, 2, 0.5)
            pairs = {
                'activations': (
                    _gradients(fused.quantize_activation, x, step, grad, rest),
                    _gradients(fake_quant._QuantizeActivation.apply, x, step, grad, rest),
                ),
                'weights': (
                    _gradients(fused.quantize_weight, x, steps, grad, (*grid, 0.5)),
                    _gradients(fake_quant._QuantizeWeight.apply, x, steps, grad, (grid, 0.5)),
                ),
            }
            for name, (ours, theirs) in pairs.items():
                equal = all(torch.equal(a, b) for a, b in zip(ours[:2], theirs[:2], strict=True))
                if not equal or not torch.allclose(ours[2], theirs[2], rtol=1e-4, atol=1e-4):
                    sys.exit(f'fake quantization of {name} in {dtype} differs from torch ops')
            self._check_dorefa(x, grad, fused)
        print('right: fused fake quantization, values and gradients', flush=True)

    def _check_dorefa(self, w: torch.Tensor, grad: torch.Tensor, fused: ModuleType) -> None:
        from bfcn_mm.quantizers.weight import DoReFaWeight

        for bits in (1, 2):
            quantizer, leaf = DoReFaWeight(bits, w.shape, 0, True), w.clone().requires_grad_()
            b, step = quantizer._float_codes(w)
            t = quantizer._bounded(w.float())
            y = fused.quantize_dorefa(leaf, t, step, bits)
            y.backward(grad)
            values = ((quantizer.grid.k * b - quantizer.grid.z) * step).to(w.dtype)
            slope = (grad.float() * (1 if bits == 1 else 1 - t * t)).to(w.dtype)
            if not torch.equal(y, values) or not torch.allclose(leaf.grad, slope, rtol=0.01):
                sys.exit(f'fake quantization of dorefa weights in {w.dtype} differs from torch ops')

    def check_int8(self) -> None:
        """Stop unless PyTorch's int8 network, where it can run, equals float64 convolutions."""
        if why := int8.missing(self.device):
            print(f'left out: int8 in PyTorch: {why}', flush=True)
            return
        size = (17, 24) if self.args.smoke else (160, 256)
        twin = self._twin(int8.Int8Twin, size)
        images = torch.randint(256, (1, *size, 3), dtype=torch.uint8, device=self.device)
        if layer := int8.difference(twin, images):
            sys.exit(f'int8 in PyTorch: {layer} differs from float64 convolutions')
        self.int8 = True
        print('right: int8 products in PyTorch equal float64 convolutions', flush=True)

    @staticmethod
    def _same(name: str, graph: Graph, expected: dict, got: dict) -> None:
        for op in graph.ops:
            a, b = expected[op.name], got[op.name]
            if a.shape != b.shape or a.tobytes() != np.ascontiguousarray(b).tobytes():
                sys.exit(f'{name}: {op.name} differs from the oracle')

    def time(self) -> None:
        """Whole networks; the largest single image first, since that is what targets speak of."""
        engine = self.make(self.graph)
        for batch, size in self._cases():
            images, plan = self._images(batch, size), engine.plan(batch, *size)
            self._row('packed', batch, size, partial(plan.run, images), plan.peak_bytes)
            if batch == 1:
                self._layers(plan, size)
            self._peers(batch, size, images)
            self.write()

    def time_one_bit(self) -> None:
        """Whole networks on one-bit tensor cores, and beside each layer's time the one it has there."""
        if not self.one_bit:
            return
        engine = self.make(self.graph, one_bit=True)
        for batch, size in self._cases():
            images, plan = self._images(batch, size), engine.plan(batch, *size)
            self._row('packed, one-bit', batch, size, partial(plan.run, images), plan.peak_bytes)
            if batch == 1:
                times = {name: s for name, kind, s in plan.profile if kind == 'plane_conv'}
                for row in self.layers:
                    if (row['height'], row['width']) == size and row['layer'] in times:
                        row['one_bit_us'] = f'{1e6 * times[row["layer"]]:.4g}'

    def _cases(self) -> list[tuple[int, tuple[int, int]]]:
        return [(batch, size) for batch in self.batches for size in reversed(self.sizes)]

    def _images(self, batch: int, size: tuple[int, int]) -> torch.Tensor:
        images = np.stack([random_image(*size, seed) for seed in range(batch)])
        return torch.from_numpy(images).to(self.device)

    def _twin(self, kind: type, size: tuple[int, int]) -> torch.nn.Module:
        half = torch.float32 if self.args.smoke else torch.float16
        return kind(self.graph, size, half).to(self.device).eval()

    def _peers(self, batch: int, size: tuple[int, int], images: torch.Tensor) -> None:
        """Half precision, channels last, and int8: eager, and as a CUDA graph."""
        for name, kind in {'fp16': FloatTwin, 'int8': int8.Int8Twin}.items():
            if name == 'int8' and not self.int8:
                continue
            call = partial(self._twin(kind, size), images)
            try:
                with torch.no_grad():
                    peak = self._peak_bytes(call)
                    self._row(f'{name} eager', batch, size, call, peak)
                    if self.device.type == 'cuda':
                        replay = captured(call, self.device)
                        self._row(f'{name} CUDA graph', batch, size, replay, peak)
                        del replay  # and the memory of its own
            except torch.OutOfMemoryError as error:
                print(f'left out: {name} at {size}, batch {batch}: {error}', flush=True)

    def compiled(self) -> None:
        """Half precision by max-autotune and int8 by torch.compile, single images, while time is left."""
        kinds = {'fp16': (FloatTwin, 'max-autotune', 120)}
        if self.int8:
            kinds['int8'] = int8.Int8Twin, 'reduce-overhead', 60
        for size in reversed(self.sizes):
            for name, (kind, mode, seconds) in kinds.items():
                what, left = f'{name} {mode}', self.stop - time.perf_counter()
                if left < seconds:
                    print(f'left out: {what} at {size}: no time is left (--minutes)', flush=True)
                    continue
                images, twin = self._images(1, size), self._twin(kind, size)
                how = dict(backend='eager') if self.args.smoke else dict(mode=mode)
                try:
                    self._row(
                        what, 1, size, partial(torch.compile(twin, dynamic=False, **how), images)
                    )
                except Exception as error:  # a compiler's; the other rows are worth having
                    line = str(error).splitlines()[:1]
                    print(f'left out: {what} at {size}: {type(error).__name__}: {line}', flush=True)
                torch.compiler.reset()
                self.write()

    def _peak_bytes(self, function) -> int:
        """Bytes that a call allocates at once, parameters left out."""
        if self.device.type != 'cuda':
            return 0
        function()
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def _row(self, what: str, batch: int, size: tuple[int, int], function, peak=None) -> None:
        """peak: bytes, if known."""
        with torch.no_grad():
            middle, low, high = median_ms(function, self.device, 0 if self.args.smoke else 1.5)
        row = dict(
            what=what, height=size[0], width=size[1], batch=batch, ms=f'{middle:.4g}',
            ms_q1=f'{low:.4g}', ms_q3=f'{high:.4g}',
        )  # fmt: skip
        row['peak_mb'] = '' if peak is None else f'{peak / 2**20:.4g}'
        self.rows.append(row)
        print(*row.values(), sep='\t', flush=True)

    def _layers(self, plan, size: tuple[int, int]) -> None:
        """Seconds of each step, and what share of them the roofline would take."""
        peaks = next((v for key, v in PEAKS.items() if key in self.name), None)
        for step, (name, kind, seconds) in zip(plan.schedule, plan.profile, strict=True):
            out = plan.maps[name]
            moved = sum(plan.maps[s].data.nbytes for s in step.sources) + out.data.nbytes
            macs = 0
            if isinstance(step.op, BitConv):
                macs = out.pixels * sum(term.weight.size for term in step.op.terms)
                moved += sum(term.weight.size * term.bits // 8 for term in step.op.terms)
            share = ''
            if peaks:
                share = f'{max(macs / peaks[0], moved / peaks[1]) / max(seconds, 1e-9):.3f}'
            row = dict(
                height=size[0], width=size[1], layer=name, op=kind, us=f'{1e6 * seconds:.4g}'
            )
            row |= dict(one_bit_us='', macs=macs, bytes=moved, roofline_share=share)
            self.layers.append(row | dict(tile=str(plan.configs.get(name, ''))))

    def train(self) -> None:
        """The step of a quantized network over its float one's, bf16 autocast."""
        if self.stop - time.perf_counter() < 45:
            print('left out: the training step: no time is left (--minutes)', flush=True)
            return
        import bfcn_mm

        bfcn_mm.register()
        from bfcn_mm.benchmark import train

        size, batch = ((32, 64), 2) if self.args.smoke else ((512, 1024), 8)
        options = argparse.Namespace(
            config=str(ROOT / (TINY if self.args.smoke else TRAINED)),
            size=size, batch=batch, device=str(self.device), seed=0,
        )  # fmt: skip
        times = {}
        for kind in ('float', 'quantized'):
            step = train.make_step(options, kind)
            with torch.autocast(self.device.type, torch.bfloat16):
                times[kind] = median_ms(step, self.device, 0 if self.args.smoke else 8)
            del step
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
            row = dict(what=f'training step, {kind}', height=size[0], width=size[1], batch=batch)
            names = ('ms', 'ms_q1', 'ms_q3')
            row |= {n: f'{t:.4g}' for n, t in zip(names, times[kind], strict=True)}
            self.rows.append(row | dict(peak_mb=''))
        ratio = times['quantized'][0] / times['float'][0]
        print(f'training step, quantized over float: {ratio:.3f}', flush=True)

    def write(self) -> None:
        """The two tables and the chart, of what there is so far."""
        if self.args.smoke:
            return
        about = dict(device=self.name, torch=torch.__version__, model=self.path.name)
        save(self.args.out, self.rows, self.layers, about)

    def _random_model(self) -> Path:
        """The paper's network with random weights; in a smoke run a small one."""
        width = dict(depth=18, width=8, classes=5) if self.args.smoke else dict(depth=50)
        weight, activation = self.args.bits
        graph = resnet_bfcn(w=weight, a=activation, **width)
        path = self.args.out / f'r{width["depth"]}_{weight}w{activation}a.gguf'
        write(path, Model(graph, Metadata(path.stem)))
        return path


def _said(options: dict) -> str:
    return ', one-bit tensor cores' if options.get('one_bit') else ''


def _gradients(function, x, step, grad, rest) -> tuple[torch.Tensor, ...]:
    """(y, dy/dx, dy/dstep)"""
    x, step = x.clone().requires_grad_(), step.clone().requires_grad_()
    y = function(x, step, *rest)
    y.backward(grad)
    return y.detach(), x.grad, step.grad
