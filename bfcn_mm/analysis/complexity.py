"""Weights, bits, multiply-accumulates and bit-operations of a model at one input size.

The model runs once on the meta device: shapes pass, no values, so any size fits. A MAC of an m-bit
weight and an n-bit activation costs m * n bit-operations (the paper, "Bit-width allocation").
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode

FLOAT = 32
# Bit-operations that cost as much as one float operation: the paper, "Run-time performance".
BITOPS_PER_FLOP = {'CPU': 18, 'FPGA': 1024}
_WITH_WEIGHT = (_ConvNd, nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True)
class Layer:
    """A convolution, linear layer or attention. weights: elements of its matrices, without biases.

    w, a: bits of its weights and of what it reads, 32 for float. macs: those with its weights.
    """

    name: str
    kind: str
    weights: int
    w: int
    a: int
    macs: int

    @property
    def in_float(self) -> bool:
        """Whether it multiplies floats: one float operand is enough."""
        return FLOAT in (self.w, self.a)

    @property
    def bitops(self) -> int:
        return 0 if self.in_float else self.w * self.a * self.macs

    @property
    def float_macs(self) -> int:
        return self.macs if self.in_float else 0

    @property
    def float32_bytes(self) -> int:
        return 4 * self.weights

    @property
    def bytes(self) -> int:
        return -(-self.weights * self.w // 8)


@dataclass
class Complexity:
    """layers: in order of execution. products: float MACs of activations with each other, by module.
    others: parameters outside the layers' matrices, kept in float32, by owner's class ('bias' for
    biases of layers, 'step' for learned steps). idle: parameters of parts that inference never runs, by
    top-level module; they are in no sum. shape: of the input."""

    shape: tuple[int, ...]
    layers: list[Layer] = field(default_factory=list)
    products: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    idle: Counter[str] = field(default_factory=Counter)

    @property
    def weights(self) -> int:
        """Parameters of the float network: matrices, biases, normalization; no quantizer steps."""
        rest = sum(n for kind, n in self.others.items() if kind != 'step')
        return sum(layer.weights for layer in self.layers) + rest

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers) + self.products.total()

    @property
    def bitops(self) -> int:
        return sum(layer.bitops for layer in self.layers)

    @property
    def float_macs(self) -> int:
        return sum(layer.float_macs for layer in self.layers) + self.products.total()

    @property
    def float32_bytes(self) -> int:
        return 4 * self.weights

    @property
    def stored_bytes(self) -> int:
        """Matrices at their bits, everything else in float32."""
        return sum(layer.bytes for layer in self.layers) + 4 * self.others.total()

    def bytes_at(self, bits: int) -> int:
        """If every weight had these bits, as the paper counts (Table 8)."""
        return -(-self.weights * bits // 8)

    def speedup(self, device: str) -> float:
        """Over float32 by the paper's model: a float MAC costs BITOPS_PER_FLOP bit-operations.

        Only MACs count: no overhead, no memory traffic. An estimate, not a measurement.
        """
        price = BITOPS_PER_FLOP[device]
        return price * self.macs / (self.bitops + price * self.float_macs)


def complexity(model: nn.Module, shape: tuple[int, int]) -> Complexity:
    """Of the model, quantized or not, for one image of shape (H, W); auxiliary heads do not run.

    The model is left as it is. Raises RuntimeError if it needs values to run (on the meta device).
    """
    bits = {name: layer.bits for name, layer in _plan(model).items()}
    copied = copy.deepcopy(model).to('meta').eval()
    names = {module: name for name, module in copied.named_modules()}
    trace = _Trace(names)
    handles = [h for module in names for h in trace.watch(module)]
    image = torch.empty(1, 3, *shape, device='meta')
    try:
        with warnings.catch_warnings(), torch.no_grad(), trace:
            warnings.filterwarnings('ignore', 'quantizers are not calibrated')
            copied(image, mode='tensor') if hasattr(copied, 'extract_feat') else copied(image)
    except (NotImplementedError, RuntimeError) as error:
        raise RuntimeError(
            f'the model does not run on shapes alone at {shape[0]}x{shape[1]} ({error}): try another '
            'size, or remove what reads values'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return _collect(copied, trace, bits, tuple(image.shape))


def _plan(model: nn.Module) -> dict:
    plan = getattr(model, 'quant_plan', None)
    return {} if plan is None else plan.layers


def _collect(model: nn.Module, trace: _Trace, bits: dict, shape: tuple[int, ...]) -> Complexity:
    result = Complexity(shape, products=trace.products)
    modules = dict(model.named_modules())
    owned: set[int] = set()
    for name in (n for n in trace.order if isinstance(modules[n], _WITH_WEIGHT)):
        module = modules[name]
        matrices = _matrices(module)
        owned.update(map(id, matrices))
        w, a = (bits[name].w, bits[name].a) if name in bits else (FLOAT, FLOAT)
        weights = sum(m.numel() for m in matrices)
        result.layers.append(Layer(name, _kind(module), weights, w, a, trace.macs[name]))
    alive = {parent for name in trace.order for parent in _with_parents(name)}
    for name, module in modules.items():
        attention = modules[name.rpartition('.')[0]] if name else None
        ran = name in alive or (
            isinstance(attention, nn.MultiheadAttention) and attention in trace.ran
        )
        for key, parameter in module.named_parameters(recurse=False):
            if not ran:
                result.idle[name.split('.')[0]] += parameter.numel()
            elif id(parameter) not in owned:
                result.others[_other(module, key)] += parameter.numel()
    return result


def _with_parents(name: str) -> list[str]:
    parts = name.split('.')
    return ['', *('.'.join(parts[:i]) for i in range(1, len(parts) + 1))]


def _other(module: nn.Module, key: str) -> str:
    if key == 'drift':
        return 'step'
    return 'bias' if isinstance(module, _WITH_WEIGHT) else type(module).__name__


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, nn.MultiheadAttention):
        return [
            p for n, p in module.named_parameters() if p.dim() == 2 and not n.endswith('.drift')
        ]
    return [module.weight]


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.MultiheadAttention):
        return 'attention'
    if isinstance(module, nn.Linear):
        return 'linear'
    size = 'x'.join(map(str, module.kernel_size))
    kind = 'deconv' if isinstance(module, _ConvTransposeNd) else 'conv'
    depthwise = ' dw' if module.groups > 1 and module.groups == module.in_channels else ''
    return f'{kind} {size}{depthwise}'


class _Trace(TorchDispatchMode):
    """Counts MACs of each operation for the innermost module that is running."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.running: list[nn.Module] = []
        self.order: dict[str, None] = {}
        self.ran: set[nn.Module] = set()
        self.macs: Counter[str] = Counter()
        self.products: Counter[str] = Counter()

    def watch(self, module: nn.Module) -> list:
        def enter(*_) -> None:
            self.running.append(module)
            self.order.setdefault(self.names[module])
            self.ran.add(module)

        def leave(_: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
            self.running.pop()
            if isinstance(module, nn.MultiheadAttention):
                name = self.names[module]
                self.macs[name] += _projection_macs(module, *args, **kwargs)
                self.products[name] -= _projection_macs(module, *args, **kwargs)

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        count = _MACS.get(name)
        if count is not None:
            module = self.running[-1] if self.running else None
            macs = count(args, out)
            weighted = isinstance(module, _ConvNd | nn.Linear)
            (self.macs if weighted else self.products)[self.names.get(module, '')] += macs
        return out


def _conv_macs(args: tuple, out: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    if transposed:
        return x.numel() // weight.shape[0] * weight.numel()
    return out.numel() // out.shape[1] * weight.numel()


def _projection_macs(
    module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *_, **__
) -> int:
    """Of the four projections: those of query, key, value and of the result."""
    return (2 * query.numel() + key.numel() + value.numel()) * module.embed_dim


def _attention_macs(args: tuple, _: tuple) -> int:
    query, key, value = args[:3]
    rows = query.numel() // query.shape[-1]
    return rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])


_MACS: dict[str, Callable[[tuple, Tensor], int]] = {
    'convolution': _conv_macs,
    'mm': lambda args, out: args[0].numel() * args[1].shape[-1],
    'addmm': lambda args, out: args[1].numel() * args[2].shape[-1],
    'bmm': lambda args, out: args[0].numel() * args[1].shape[-1],
    'baddbmm': lambda args, out: args[1].numel() * args[2].shape[-1],
    **dict.fromkeys(
        (
            '_scaled_dot_product_flash_attention',
            '_scaled_dot_product_flash_attention_for_cpu',
            '_scaled_dot_product_efficient_attention',
            '_scaled_dot_product_fused_attention_overrideable',
        ),
        _attention_macs,
    ),
}
