"""Real forwards at a small size, to see where each value comes from.

No symbolic tracing: the model runs as it is, on noise, and every torch function passes by (recorder).
That tells, for each layer, whether what it reads lies on the grid of a quantized activation, and for
each activation, which lines of code call it and who reads the results. The model runs in evaluation
mode and in training mode, because many networks do more in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..layers import Places
from .inputs import Way, image_shapes, noise, outputs_of, ways_to_evaluate, ways_to_train
from .origins import Call, Origin, Place
from .places import Run, calls_vary, is_shared, place_of, settle
from .recorder import Recorder
from .undisturbed import undisturbed
from .watch import LayerReads, Seen, Target, watched

_ENOUGH = 256 * 256  # pixels; of larger images a batch of one must do
_TRIES = 4  # training passes, where layers are left out at random
_ONLY_EVALUATED = 'only evaluation runs it: nothing would train it'


@dataclass
class Observation:
    """What the probe saw.

    layers: by name, in order of execution; those that no forward reached are missing. places: of each
    activation. added: activations that are an operand of an addition. reread: those whose input is used
    again, changed. untrained: those that only evaluation passes. fixed: those whose values depend on no
    parameter that is trained. last: layers that make the output. kept: layers and activations that cannot
    be quantized -> why. shared: activations that one line calls in several modules. notes: what could not
    be seen. shape: of the input that was run.
    """

    layers: dict[str, LayerReads]
    places: dict[str, Places]
    added: set[Place]
    reread: set[Place]
    untrained: set[Place]
    fixed: set[Place]
    last: set[str]
    kept: dict[str, str]
    shared: list[str]
    notes: list[str]
    shape: tuple[int, ...]


def probe(
    model: nn.Module,
    layers: Iterable[str],
    activations: dict[str, bool],
    example: Tensor | None = None,
    config: Mapping | None = None,
) -> Observation:
    """Run the model in both modes and observe.

    layers: names of the modules with weights to watch. activations: name -> whether the activation
    function is non-negative. example: what the model is called with; by default noise of the channels
    and size that the model, or its config, asks for (inputs.image_shapes). The model is left as it was
    (undisturbed). Raises ValueError if the model takes no such input.
    """
    target = Target(model, dict(model.named_modules()), set(layers), activations)
    if example is None:
        evaluated, shape = _first_that_runs(target, config)
        batch = 2 if shape[-1] * shape[-2] <= _ENOUGH else 1
        example, for_training = noise(model, 1, shape), noise(model, batch, shape)
    else:
        for_training = example
        evaluated, failures = _run(target, ways_to_evaluate(model), example, False)
        if evaluated is None:
            raise ValueError(f'quant: the model does not take the example: {"; ".join(failures)}')
    passes = [evaluated, *_trained(target, for_training, evaluated)]
    return _merged(target, passes, tuple(example.shape))


def _trained(target: Target, x: Tensor, evaluated: Seen) -> list[Seen]:
    """Training passes: more than one where training seems to leave out something by chance."""
    passes: list[Seen] = []
    for seed in range(_TRIES):
        ways = ways_to_train(target.model)
        seen, failures = _run(target, ways, x, True, evaluated.identities, seed)
        if seen is None:
            evaluated.notes.append(
                'the probe could not run the model in training mode, and has not seen what only training '
                f'calls ({"; ".join(failures)})'
            )
            break
        passes.append(seen)
        if not _untrained([evaluated, *passes]):
            break
    return passes


def _first_that_runs(target: Target, config: Mapping | None) -> tuple[Seen, tuple[int, ...]]:
    """The evaluation pass, and the image shape that the model takes."""
    shapes = image_shapes(target.model, config)
    for shape in shapes:
        images = noise(target.model, 1, shape)
        evaluated, failures = _run(target, ways_to_evaluate(target.model), images, False)
        if evaluated is not None:
            return evaluated, shape
    channels = ', '.join(map(str, dict.fromkeys(c for c, _, _ in shapes)))
    sizes = ', '.join(dict.fromkeys(f'{h}x{w}' for _, h, w in shapes))
    raise ValueError(
        f'quant: the model takes no image of {channels} channels at {sizes} (tried '
        f'{"; ".join(failures)}). Give the config the right in_channels of the backbone, or mean and '
        'size of the data_preprocessor; or call bfcn_mm.quantize_(model, example=...) with an input that '
        'the model takes'
    )


def _run(
    target: Target,
    ways: list[Way],
    x: Tensor,
    training: bool,
    identities: set[str] = frozenset(),
    seed: int = 0,
) -> tuple[Seen | None, list[str]]:
    """What the first way that works shows, and how the ones before it failed."""
    failures = []
    for way in ways:
        recorder = Recorder({name: target.modules[name] for name in target.layers})
        seen = Seen(recorder, complete=way.complete)
        try:
            recorder.note(x, Origin(image=True, fixed=True))
            for buffer in target.model.buffers():
                recorder.note(buffer, Origin(fixed=True))
            state = undisturbed(target.model, training, seed)
            with state, watched(target, seen, identities), recorder:
                outputs = way.run(x)
                tensors = outputs_of(next(outputs))
                recorder.use(t for t in tensors if t.numel() > 1)  # a loss may hold a penalty
                seen.last = set().union(*(recorder.origin(t).layers for t in tensors))
                seen.counting = False
                _run_on(outputs, way, seen)
        except Exception as error:  # whatever a model of someone else raises
            failures.append(f'{way.name}: {_in_short(error)}')
        else:
            return seen, failures
        finally:
            recorder.release()
    return None, failures


def _run_on(outputs: Iterator[Any], way: Way, seen: Seen) -> None:
    try:
        for _ in outputs:
            pass
    except Exception as error:
        seen.notes.append(f'the probe could not go on after {way.name} ({_in_short(error)})')


def _in_short(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:200]}'


def _merged(target: Target, passes: list[Seen], shape: tuple[int, ...]) -> Observation:
    runs = [run for seen in passes for run in seen.runs]
    untrained = _untrained(passes)
    places: dict[str, Places] = {}
    kept: dict[str, str] = {}
    for name in target.activations:
        places[name], reason = settle(name, runs)
        if not reason and all((name, site) in untrained for site in places[name].sites):
            reason = _ONLY_EVALUATED
        if reason:
            kept[name] = reason

    def place(call: Call) -> Place:
        return (call[0], 0) if call[0] in kept else place_of(call, places[call[0]])

    layers = _reads(passes)
    for reads in layers.values():
        reads.inputs = [replace(o, places=frozenset(map(place, o.places))) for o in reads.inputs]
    for name in target.layers:
        users = [seen.recorder.borrowed[name] for seen in passes if name in seen.recorder.borrowed]
        if users:
            kept[name] = f'its weights are read by {users[0]}, not through its own forward'
            layers.pop(name, None)
        elif name not in layers:
            kept[name] = 'no forward reaches it'
        elif (name,) in untrained:
            kept[name] = _ONLY_EVALUATED
            layers.pop(name)
    only_trained = set(layers) - set(passes[0].layers)
    learning = {place(call) for seen in passes[1:] or passes for call in seen.learning}
    return Observation(
        layers,
        {name: found for name, found in places.items() if name not in kept},
        {place(call) for seen in passes for call in seen.recorder.added},
        {place(call) for seen in passes for call in seen.recorder.reread},
        {
            (name, index)
            for name, found in places.items()
            for site, indices in found.sites.items()
            for index in indices
            if (name, site) in untrained
        },
        {(name, i) for name, found in places.items() for i in range(found.count)} - learning,
        passes[0].last | (passes[-1].last & only_trained),
        kept,
        [name for name in target.activations if is_shared(name, runs)],
        [note for seen in passes for note in seen.notes] + _varying(places, kept, runs),
        shape,
    )


def _varying(places: Iterable[str], kept: Mapping[str, str], runs: list[Run]) -> list[str]:
    names = [name for name in places if name not in kept and calls_vary(name, runs)]
    if not names:
        return []
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return [
        f'{", ".join(names[:3])}{more}: one line calls it more often in some forwards than in others, so '
        'these calls share one grid; to give each map its own, give each call an activation module'
    ]


def _untrained(passes: list[Seen]) -> set[tuple]:
    """What evaluation runs and training does not, as in Seen.calls()."""
    evaluated, *trained = passes
    if not trained or not all(seen.complete for seen in trained):
        return set()
    return evaluated.calls() - set().union(*(seen.calls() for seen in trained))


def _reads(passes: list[Seen]) -> dict[str, LayerReads]:
    """What each layer was given in all passes; the MACs are those of the evaluation."""
    layers: dict[str, LayerReads] = {}
    for number, seen in enumerate(passes):
        for name, reads in seen.layers.items():
            merged = layers.setdefault(name, LayerReads(macs=0 if number else reads.macs))
            merged.inputs.extend(reads.inputs)
    return layers
