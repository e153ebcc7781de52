"""What `quant=dict(...)` may say, checked once, frozen after."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..quantizers import METHODS, Calibration
from ..quantizers.calibration import LEAST_ERROR, RULES

FLOAT = 32


def _reject_unknown(where: str, given: Mapping, allowed: Sequence[str]) -> None:
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, 1)
            hint = f', did you mean {near[0]!r}' if near else ''
            raise ValueError(f'{where} has no key {key!r}{hint}: it takes {", ".join(allowed)}')


def _check_bits(name: str, bits: Any) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in (*range(1, 9), FLOAT):
        raise ValueError(f'{name} must be an integer in 1..8, or 32 for float, got {bits!r}')


def _is_number(value: Any) -> bool:
    """Whether a finite int or float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name} must be an integer >= {least}, got {value!r}')


@dataclass(frozen=True)
class Bits:
    """w: bits of a layer's weights; a: bits of what the layer reads. 1..8, or 32 for float."""

    w: int
    a: int

    @classmethod
    def parse(cls, name: str, given: Any) -> Bits:
        if isinstance(given, Bits):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f'{name} must be a dict(w=..., a=...), got {given!r}')
        _reject_unknown(name, given, ('w', 'a'))
        missing = [key for key in ('w', 'a') if key not in given]
        if missing:
            raise ValueError(f'{name} must give both w and a, {missing[0]!r} is missing')
        bits = cls(given['w'], given['a'])
        _check_bits(f'{name}.w', bits.w)
        _check_bits(f'{name}.a', bits.a)
        return bits


@dataclass(frozen=True)
class Decay:
    """Bit-width decay: at stage t no quantizer has fewer than max(its target, caps[t]) bits.

    start, rate: the caps are start, start - rate, ... down to the lowest target (the paper's r).
    stages: the caps themselves, instead of start and rate.
    every: length of a stage in iterations (epochs with by_epoch), or one length a stage but the last,
    which lasts to the end of the run.
    rewarm: dict(iters=..., factor=...), the learning rate starts each later stage at factor times
    its scheduled value and rises linearly back within iters iterations.
    """

    start: int = 8
    rate: int = 1
    every: int | tuple[int, ...] = 2000
    stages: tuple[int, ...] | None = None
    by_epoch: bool = False
    rewarm: Mapping[str, float] | None = None

    @classmethod
    def parse(cls, given: Any) -> Decay:
        if isinstance(given, Decay):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f'quant.decay must be a dict or None, got {given!r}')
        _reject_unknown('quant.decay', given, [f.name for f in fields(cls)])
        given = dict(given)
        for key in ('every', 'stages'):
            if isinstance(given.get(key), Sequence) and not isinstance(given[key], str):
                given[key] = tuple(given[key])
        return cls(**given)

    def __post_init__(self) -> None:
        if self.stages is None:
            _check_count('quant.decay.start', self.start, 1)
            if self.start > 8:
                raise ValueError(f'quant.decay.start must be in 1..8, got {self.start}')
            _check_count('quant.decay.rate', self.rate, 1)
        else:
            self._check_stages()
        lengths = self.every if isinstance(self.every, tuple) else (self.every,)
        for length in lengths:
            _check_count('quant.decay.every', length, 1)
        if not isinstance(self.by_epoch, bool):
            raise ValueError(f'quant.decay.by_epoch must be True or False, got {self.by_epoch!r}')
        if self.rewarm is not None:
            self._check_rewarm(self.rewarm)

    @staticmethod
    def _check_rewarm(rewarm: Any) -> None:
        if not isinstance(rewarm, Mapping):
            raise ValueError(
                f'quant.decay.rewarm must be a dict(iters=..., factor=...), got {rewarm!r}'
            )
        _reject_unknown('quant.decay.rewarm', rewarm, ('iters', 'factor'))
        _check_count('quant.decay.rewarm.iters', rewarm.get('iters'), 1)
        factor = rewarm.get('factor', 0.1)
        if not _is_number(factor) or not 0 < factor <= 1:
            raise ValueError(f'quant.decay.rewarm.factor must be in (0, 1], got {factor!r}')

    def _check_stages(self) -> None:
        if not isinstance(self.stages, tuple) or not self.stages:
            raise ValueError(
                f'quant.decay.stages must list at least one bit-width, got {self.stages!r}'
            )
        for bits in self.stages:
            if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
                raise ValueError(f'quant.decay.stages must hold integers in 1..8, got {bits!r}')
        if any(b >= a for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f'quant.decay.stages must decrease, got {list(self.stages)}')

    def caps(self, lowest: int) -> tuple[int, ...]:
        """The cap of each stage, the last one at lowest, the lowest target of any quantizer."""
        if self.stages is not None:
            first, caps = self.stages[0], self.stages
        else:
            first, caps = self.start, tuple(range(self.start, lowest, -self.rate))
        if first < lowest:
            raise ValueError(
                f'quant.decay starts at {first} bits, below the target of {lowest}: start at '
                f'{lowest} or more, or leave decay out'
            )
        return tuple(b for b in caps if b > lowest) + (lowest,)

    def begins(self, stages: int) -> tuple[int, ...]:
        """The iteration (epoch) at which each stage begins; the last is open-ended."""
        lengths = self.every if isinstance(self.every, tuple) else (self.every,) * (stages - 1)
        if len(lengths) != stages - 1:
            raise ValueError(
                f'quant.decay.every lists {len(lengths)} lengths for {stages} stages: give one '
                f'number, or {stages - 1} (the last stage lasts to the end of the run)'
            )
        return tuple(sum(lengths[:i]) for i in range(stages))


@dataclass(frozen=True)
class Distill:
    """Learning from a float network, the teacher, beside the labels.

    teacher: its checkpoint. config: its config; None for the network that is trained, in float.
    weight, temperature: of the scores' loss; features: weight of the backbone features' loss.
    """

    teacher: str
    config: str | None = None
    weight: float = 1.0
    temperature: float = 1.0
    features: float = 0.0

    @classmethod
    def parse(cls, given: Any) -> Distill:
        if isinstance(given, Distill):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f'quant.distill must be a dict(teacher=...) or None, got {given!r}')
        _reject_unknown('quant.distill', given, [f.name for f in fields(cls)])
        if 'teacher' not in given:
            raise ValueError('quant.distill must give teacher, the checkpoint of a float network')
        return cls(**given)

    def __post_init__(self) -> None:
        for name in ('teacher', 'config'):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (name == 'config' and value is None):
                raise ValueError(f'quant.distill.{name} must be a file, got {value!r}')
        for name in ('weight', 'features', 'temperature'):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise ValueError(f'quant.distill.{name} must be 0 or more, got {value!r}')
        if self.temperature == 0:
            raise ValueError('quant.distill.temperature must be more than 0, got 0')
        if not self.weight and not self.features:
            raise ValueError('quant.distill: weight and features are both 0, nothing is learned')


def _parse_calibration(given: Any) -> Calibration:
    """A number of batches, or a dict with keys of Calibration."""
    if isinstance(given, Calibration):
        return given
    if not isinstance(given, Mapping):
        _check_count('quant.calibrate', given, 1)
        return Calibration(given)
    _reject_unknown('quant.calibrate', given, [f.name for f in fields(Calibration)])
    parsed = Calibration(**given)
    _check_count('quant.calibrate.batches', parsed.batches, 1)
    if parsed.rule not in RULES:
        raise ValueError(
            f'quant.calibrate.rule must be one of {", ".join(RULES)}, got {parsed.rule!r}'
        )
    share = parsed.percentile
    if isinstance(share, bool) or not isinstance(share, int | float) or not 50 < share <= 100:
        raise ValueError(f'quant.calibrate.percentile must be in (50, 100], got {share!r}')
    return parsed


@dataclass(frozen=True)
class QuantSpec:
    """The `quant` key, checked. Only w and a are required; see docs/quant.md for each key."""

    w: int
    a: int
    first: Bits | None = field(default_factory=lambda: Bits(8, 8))
    last: Bits | None = None
    method: str = 'lsq'
    per_channel: bool = True
    residual: int | None = None
    calibrate: Calibration = LEAST_ERROR
    overrides: tuple[tuple[str, Bits], ...] = ()
    skip: tuple[str, ...] = ()
    decay: Decay | None = None
    distill: Distill | None = None

    @classmethod
    def parse(cls, given: Any) -> QuantSpec:
        """From a dict; raises ValueError that names the key, the rule and the value."""
        if isinstance(given, QuantSpec):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f'quant must be a dict such as dict(w=1, a=2), got {given!r}')
        _reject_unknown('quant', given, [f.name for f in fields(cls)])
        for key in ('w', 'a'):
            if key not in given:
                raise ValueError(f'quant must give both w and a, {key!r} is missing')
        values = dict(given)
        for key in ('first', 'last'):
            if values.get(key) is not None:
                values[key] = Bits.parse(f'quant.{key}', values[key])
        values['overrides'] = cls._parse_overrides(values.get('overrides') or {})
        values['skip'] = cls._parse_skip(values.get('skip') or ())
        if 'calibrate' in values:
            values['calibrate'] = _parse_calibration(values['calibrate'])
        if values.get('decay') is not None:
            values['decay'] = Decay.parse(values['decay'])
        if values.get('distill') is not None:
            values['distill'] = Distill.parse(values['distill'])
        return cls(**values)

    @staticmethod
    def _parse_overrides(given: Any) -> tuple[tuple[str, Bits], ...]:
        if isinstance(given, tuple) and all(_names_bits(entry) for entry in given):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(
                f'quant.overrides must be a dict of module name -> dict(w=..., a=...), got {given!r}'
            )
        for name in given:
            if not isinstance(name, str):
                raise ValueError(f'quant.overrides must name modules by strings, got {name!r}')
        return tuple(
            (name, Bits.parse(f'quant.overrides[{name!r}]', bits)) for name, bits in given.items()
        )

    @staticmethod
    def _parse_skip(given: Any) -> tuple[str, ...]:
        names = (given,) if isinstance(given, str) else given
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise ValueError(f'quant.skip must be a list of module names, got {given!r}')
        return tuple(names)

    def __post_init__(self) -> None:
        _check_bits('quant.w', self.w)
        _check_bits('quant.a', self.a)
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise ValueError(
                f'quant.method must be one of {", ".join(METHODS)}, got {self.method!r}'
            )
        if not isinstance(self.per_channel, bool):
            raise ValueError(f'quant.per_channel must be True or False, got {self.per_channel!r}')
        if self.residual is not None:
            _check_bits('quant.residual', self.residual)
            if self.residual < self.a:
                raise ValueError(
                    f'quant.residual must be at least quant.a = {self.a}, got {self.residual}'
                )
        self.caps()

    def caps(self) -> tuple[int, ...]:
        """The cap of each decay stage; a single 1 (no cap) without decay."""
        if self.decay is None:
            return (1,)
        targets = [self.w, self.a, *(b for _, bits in self.overrides for b in (bits.w, bits.a))]
        low = [bits for bits in targets if bits != FLOAT]
        if not low:
            raise ValueError('quant.decay needs a target below 32 bits: w and a are both 32')
        caps = self.decay.caps(min(low))
        self.decay.begins(len(caps))
        return caps

    def override_of(self, name: str) -> Bits | None:
        """The bits of the longest override that names this module or a parent of it."""
        matches = [(len(key), bits) for key, bits in self.overrides if within(name, key)]
        return max(matches, key=lambda match: match[0])[1] if matches else None

    def skips(self, name: str) -> bool:
        return any(within(name, key) for key in self.skip)

    def to_dict(self) -> dict:
        """Plain containers, as a config file holds them; parse(to_dict()) gives the same spec."""
        given = asdict(self)
        given['overrides'] = {name: asdict(bits) for name, bits in self.overrides}
        given['skip'] = list(self.skip)
        if self.decay is not None:
            given['decay'] = {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in given['decay'].items()
            }
        return given


def _names_bits(entry: Any) -> bool:
    """Whether an entry of a checked `overrides`: (name, Bits)."""
    return (
        isinstance(entry, tuple)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], Bits)
    )


def within(name: str, key: str) -> bool:
    """Whether module `name` is `key` or lies under it."""
    return name == key or name.startswith(key + '.')
