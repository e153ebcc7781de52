"""Does what was packed follow the image's size as the network does? Both are run at many sizes, without
data."""

from __future__ import annotations

from itertools import zip_longest

from bfcn_kernels import Graph
from bfcn_kernels.values import GraphError

from .capture import Captured
from .emit import Origin
from .signals import ExportError
from .trial import Call, Run, Size, at

# Small to large, odd and even, above and below multiples of 4 ... 64; multiplied by the network's step
# where it takes no others.
_SIZES = (
    (22, 30), (33, 47), (56, 41), (65, 96), (99, 75), (128, 131),
    (190, 159), (254, 209), (300, 363), (513, 401), (640, 898), (1025, 700), (2050, 1537), (2161, 3841),
)  # fmt: skip


def check_sizes(captured: Captured, graph: Graph, origins: dict[str, Origin]) -> None:
    """At every size that the network takes, its ops have the arguments that were packed and its maps the
    sizes of the packed maps. Raises ExportError, which names op, size and values."""
    trial = captured.trial
    known = [trial.run(size) for size in captured.sizes]
    for size in (*captured.sizes, *_multiples(captured.step)):
        if not trial.takes(size):
            continue
        run = trial.run(size)
        _check_calls(captured, known, size, run)
        _check_maps(graph, origins, size, run)


def _multiples(step: int) -> list[Size]:
    """Sides near those of _SIZES, each a multiple of step; without repetition."""
    sizes = [tuple(step * max(1, round(side / step)) for side in size) for size in _SIZES]
    return list(dict.fromkeys(sizes))


def _check_calls(captured: Captured, known: list[Run], size: Size, run: Run) -> None:
    """What is the same at all captured sizes is the same here."""
    rows = [known_run.calls for known_run in known]
    calls = run.calls
    if [c.op for c in calls] != [
        c.op for c in rows[0]
    ]:  # a forward may skip a resize to its own size
        rows, calls = [_but_resizes(row) for row in rows], _but_resizes(calls)
    for call, *others in zip_longest(calls, *rows):
        first = others[0]
        if call is None or first is None or call.op != first.op:
            here, there = (f'{c.op} (layer {c.layer!r})' if c else 'nothing' for c in (call, first))
            raise ExportError(
                f'on an image of {at(size)} the model runs {here}, where it runs {there} on one of '
                f'{at(captured.sizes[0])}: let every op run at every size'
            )
        if not _agrees(call, others):
            raise ExportError(
                f'layer {call.layer or "(top)"!r}: {call.op} has {_told(call)} for an image of '
                f'{at(size)} and {_told(first)} for one of {at(captured.sizes[0])}: what follows the '
                'size of the image is not packed, make it the same at every size'
            )


def _but_resizes(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    return tuple(call for call in calls if 'upsample' not in call.op)


def _agrees(call: Call, known: list[Call]) -> bool:
    """Each argument that all known calls share is this call's too; or all pool the whole map."""
    if call.whole and all(other.whole for other in known):
        return True
    if len({other.arguments for other in known}) > 1 and all(other.whole for other in known):
        return False
    columns = list(zip_longest(call.arguments, *(other.arguments for other in known)))
    return all(len(set(others)) > 1 or mine == others[0] for mine, *others in columns)


def _told(call: Call) -> str:
    return ', '.join(str(argument) for argument in call.arguments if argument is not None)


def _check_maps(graph: Graph, origins: dict[str, Origin], size: Size, run: Run) -> None:
    try:
        packed = graph.shapes(*size)
    except GraphError as err:
        raise ExportError(
            f'the model takes an image of {at(size)}, what it packs to does not: {err}'
        ) from err
    for op, origin in origins.items():
        theirs = run.maps.get((origin.module, origin.call), packed[op])
        if packed[op] != theirs:
            raise _mismatch(op, size, theirs, packed[op])
    if packed[graph.logits] != run.scores:
        raise _mismatch(graph.logits, size, run.scores, packed[graph.logits])


def _mismatch(op: str, size: Size, theirs: Size, ours: Size) -> ExportError:
    return ExportError(
        f'layer {op!r}: its map is {at(theirs)} for an image of {at(size)}, and would be {at(ours)} in '
        'the packed model: how its size follows the size of the image is not packed; resize to '
        'size=feature.shape[2:] of a feature map, or by a whole factor'
    )
