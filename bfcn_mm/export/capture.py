"""A segmentor as a flat list of aten nodes, exported at several image sizes and compared argument by
argument: what differs follows the size."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, InputSpec

from .network import Network, check_packable, layer_of, marked
from .signals import ExportError
from .trial import Size, Trial, at, capture_sizes, first_line, one_map


def capture(segmentor: nn.Module) -> Captured:
    """extract_feat and decode_head.forward by torch.export, at two image sizes. Raises ExportError."""
    check_packable(segmentor)
    trial = Trial(segmentor)
    step, sizes = capture_sizes(trial)
    captured = Captured(segmentor, trial, step, sizes[0])
    captured.add(sizes[1])
    return captured


class Captured:
    """One graph, exported at `sizes`; its nodes are those of the first export.

    nodes: live ones in execution order. parameters: placeholder -> (its name in the model, tensor), for
    parameters, buffers and constants. trial: runs of the same network at other sizes. step: the network
    takes images whose sides are multiples of it.
    """

    def __init__(self, segmentor: nn.Module, trial: Trial, step: int, size: Size) -> None:
        self.trial, self.step = trial, step
        self.sizes: list[Size] = [size]
        self._segmentor, self._network = segmentor, Network(segmentor)
        program = self._export(size)
        first = _Export(program)
        self._exports = [first]
        self.output = one_map(first.nodes[-1].args[0])
        live = _live(self.output)
        self.nodes = [node for node in first.nodes if node in live]
        given = {first.nodes[number]: pair for number, pair in first.tensors.items()}
        self.image = next(node for node, (_, tensor) in given.items() if tensor is None)
        self.parameters = {node: pair for node, pair in given.items() if node is not self.image}

    def add(self, size: Size) -> None:
        """Export at one more size. Raises ExportError if that gives other ops or other constants."""
        other = _Export(self._export(size))
        first = self._exports[0]
        calls = [[n.target for n in e.nodes if n.op == 'call_function'] for e in (first, other)]
        if calls[0] != calls[1]:
            raise ExportError(
                f'the model runs other ops on an image of {at(size)} than on one of {at(self.sizes[0])}: '
                'let every op run at every size'
            )
        self.sizes.append(size)
        self._exports.append(other)
        self._check_constants(other)

    def grids(self, node: fx.Node) -> tuple[Size, ...] | None:
        """(h, w) of a map at each captured size; None where the node is no map."""
        values = [twin.meta.get('val') for twin in self._twins(node)]
        if not all(isinstance(v, Tensor) and v.dim() == 4 for v in values):
            return None
        return tuple(tuple(v.shape[2:]) for v in values)

    def argument(self, node: fx.Node, key: int | str) -> tuple:
        """An argument at each captured size; its nodes as their numbers. key: position or keyword."""
        twins = self._twins(node)
        return tuple(e.argument(n, key) for e, n in zip(self._exports, twins, strict=True))

    def follows_size(self, node: fx.Node) -> list[int | str]:
        """Positions and keywords of the arguments that are not the same at all captured sizes."""
        most = max(len(twin.args) for twin in self._twins(node))
        keys = [*range(most), *sorted({k for twin in self._twins(node) for k in twin.kwargs})]
        return [k for k in keys if len({repr(v) for v in self.argument(node, k)}) > 1]

    def _twins(self, node: fx.Node) -> list[fx.Node]:
        number = self._exports[0].number[node]
        return [export.nodes[number] for export in self._exports]

    def _check_constants(self, other: _Export) -> None:
        """What the forward makes without an op (torch.tensor(...), numpy) must not follow the size."""
        for node, (name, ours) in self.parameters.items():
            if node not in self.nodes:
                continue
            theirs = other.tensors[self._exports[0].number[node]][1]
            if ours is theirs or (ours.shape == theirs.shape and _same_bits(ours, theirs)):
                continue
            user = next(user for user in node.users if user in self.nodes)
            shapes = [tuple(t.shape) for t in (ours, theirs)]
            what = f'{shapes[0]} and {shapes[1]}' if shapes[0] != shapes[1] else 'other values'
            raise ExportError(
                f'layer {layer_of(user) or "(top)"!r}: {user.target} reads the constant {name!r}, '
                f'which follows the size of the image ({what} at {at(self.sizes[0])} and '
                f'{at(self.sizes[-1])}): a packed model has the same constants at every size'
            )

    def _export(self, size: Size) -> torch.export.ExportedProgram:
        parameter = next(self._network.parameters())
        image = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
        with marked(self._segmentor), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                return torch.export.export(self._network, (image,), strict=False)
            except Exception as err:
                raise ExportError(
                    f'torch.export cannot read the model at {at(size)}: {first_line(err)}'
                ) from err


class _Export:
    """Nodes of an exported program, their numbers, and the tensors of its placeholders."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.nodes = list(program.graph.nodes)
        self.number = {node: number for number, node in enumerate(self.nodes)}
        self.tensors = {
            number: _tensor(program, spec)
            for number, spec in enumerate(program.graph_signature.input_specs)
        }

    def argument(self, node: fx.Node, key: int | str) -> object:
        """The value given, its nodes as ('node', number); None where the default is left in place."""
        if isinstance(key, str):
            return self._plain(node.kwargs.get(key))
        return self._plain(node.args[key]) if key < len(node.args) else None

    def _plain(self, value: object) -> object:
        if isinstance(value, fx.Node):
            return 'node', self.number[value]
        if isinstance(value, list | tuple):
            return tuple(self._plain(v) for v in value)
        return value


def _tensor(program: torch.export.ExportedProgram, spec: InputSpec) -> tuple[str, Tensor | None]:
    """(name in the segmentor, tensor) of a placeholder; ('', None) of the image."""
    if spec.kind is InputKind.USER_INPUT:
        return '', None
    held = program.state_dict if spec.target in program.state_dict else program.constants
    return spec.target.removeprefix('segmentor.'), held[spec.target].detach()


def _live(output: fx.Node) -> set[fx.Node]:
    live, waiting = set(), [output]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting.extend(node.all_input_nodes)
    return live


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
