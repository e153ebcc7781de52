"""A config's top-level `quant` becomes part of the model dict, wherever the config is read.

MMSegmentation's scripts hand around one object, mmengine's Config; so that is where `quant` is seen:
when a Config is made, merged into (--cfg-options) or assigned to. The config then holds

    model = dict(type='QuantSegmentor', segmentor='EncoderDecoder', quant=dict(...), backbone=...)

and no top-level `quant`: whatever builds cfg.model gets the quantized model, and the config that mmengine
writes into work_dir is self-contained. A later top-level `quant` is merged over the earlier one;
mmengine's `_delete_=True` in it drops the earlier one, and None takes quantization out again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from mmengine.config import Config, ConfigDict

from .spec import QuantSpec

WRAPPER = 'QuantSegmentor'
HOOKS = (
    'CalibrationHook',
    'BitWidthDecayHook',
    'DistillHook',
    'CollapseGuardHook',
    'ExactResumeHook',
)
CONSTRUCTOR = 'QuantOptimWrapperConstructor'
INNER = 'inner_constructor'  # key of optim_wrapper: the constructor that the config names itself
LOWERED_AGAIN = ('quant', 'optim_wrapper', 'custom_hooks')  # keys that a user may assign later
_ABSENT = object()


def install() -> None:
    """Make every Config lower its `quant`. Calling it again changes nothing."""
    if getattr(Config, '_lowers_quant', False):
        return
    Config.__init__ = _then_lower(Config.__init__)
    Config.merge_from_dict = _then_lower(Config.merge_from_dict)
    Config.__setattr__ = _then_lower_key(Config.__setattr__)
    Config.__setitem__ = _then_lower_key(Config.__setitem__)
    Config._lowers_quant = True


def _then_lower(method: Callable) -> Callable:
    @functools.wraps(method)
    def lowering(self: Config, *args, **kwargs) -> None:
        method(self, *args, **kwargs)
        lower(self._cfg_dict)

    return lowering


def _then_lower_key(method: Callable) -> Callable:
    @functools.wraps(method)
    def lowering(self: Config, name: str, value: object) -> None:
        method(self, name, value)
        if name in LOWERED_AGAIN:
            lower(self._cfg_dict)

    return lowering


def lower(cfg: ConfigDict) -> None:
    """Move cfg['quant'] into cfg['model'], with the hooks and optimizer keys that it needs, in place.

    Raises ValueError if `quant` is not valid (QuantSpec) or there is no model to quantize.
    """
    given = cfg.pop('quant', _ABSENT)
    model = cfg.get('model')
    if model is not None:
        _follow_segmentor(model)
        if given is None:
            _restore(cfg, model)
    if given is None or (given is _ABSENT and (model or {}).get('type') != WRAPPER):
        return
    if model is None:
        raise ValueError('quant: the config has no model to quantize')
    if given is _ABSENT:
        given = {}
    elif not isinstance(given, dict):
        QuantSpec.parse(given)
    if 'type' not in model:
        raise ValueError('quant: the config has a model without a type')
    quant = _merged(model.get('quant') or {}, given)
    spec = QuantSpec.parse(quant)
    if model['type'] != WRAPPER:
        model['segmentor'] = _name(model['type'])
        model['type'] = WRAPPER
    model['quant'] = quant
    _add_hooks(cfg, spec)
    _add_import(cfg)
    _spare_steps(cfg)


def _follow_segmentor(model: ConfigDict) -> None:
    """A child config or --cfg-options may name another segmentor in a model dict that was lowered."""
    if {'type', 'segmentor', 'quant'} <= model.keys() and model['type'] != WRAPPER:
        model['segmentor'], model['type'] = _name(model['type']), WRAPPER


def _name(kind: str | type) -> str:
    """A class, as new-style configs name types, by its import path: what a dumped config can hold."""
    return kind if isinstance(kind, str) else f'{kind.__module__}.{kind.__qualname__}'


def _kind(thing: object) -> str:
    """The class name of a config's dict, class, or object; without scope ('mmseg.X') or import path."""
    kind = thing.get('type') if isinstance(thing, dict) else thing
    if not isinstance(kind, str | type):
        kind = type(kind)
    return _name(kind).rpartition('.')[2]


def _merged(old: dict, new: dict) -> ConfigDict:
    """new over old, dicts in dicts merged key by key; None replaces, and so does a dict with _delete_."""
    new = dict(new)
    result = ConfigDict({} if new.pop('_delete_', False) else old)
    for key, value in new.items():
        if isinstance(value, dict):
            value = _merged(result[key] if isinstance(result.get(key), dict) else {}, value)
        result[key] = value
    return result


def _restore(cfg: ConfigDict, model: ConfigDict) -> None:
    if model.get('type') == WRAPPER:
        model['type'] = model.pop('segmentor')
        model.pop('quant')
    hooks = cfg.get('custom_hooks') or []
    cfg['custom_hooks'] = [hook for hook in hooks if _kind(hook) not in HOOKS]
    wrapper = cfg.get('optim_wrapper')
    if isinstance(wrapper, dict) and _kind(wrapper.get('constructor')) == CONSTRUCTOR:
        wrapper.pop('constructor')
        if INNER in wrapper:
            wrapper['constructor'] = wrapper.pop(INNER)


def _add_hooks(cfg: ConfigDict, spec: QuantSpec) -> None:
    """Each hook once; one that the config lists itself keeps its settings."""
    unasked = {'BitWidthDecayHook': spec.decay is None, 'DistillHook': spec.distill is None}
    hooks = [h for h in cfg.get('custom_hooks') or [] if not unasked.get(_kind(h))]
    listed = [_kind(hook) for hook in hooks]
    for name in HOOKS:
        if name not in listed and not unasked.get(name):
            hooks.append(ConfigDict(type=name))
    cfg['custom_hooks'] = hooks


def _add_import(cfg: ConfigDict) -> None:
    imports = cfg.get('custom_imports') or ConfigDict(imports=[], allow_failed_imports=False)
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if 'bfcn_mm' not in names:
        imports['imports'] = [*names, 'bfcn_mm']
    cfg['custom_imports'] = imports


def _spare_steps(cfg: ConfigDict) -> None:
    """Put our constructor around the one that the config names."""
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict):
        return
    named = wrapper.get('constructor')
    if named is None and not isinstance(wrapper.get('optimizer'), dict):
        return  # optimizers that were built by the user
    if named is not None and _kind(named) != CONSTRUCTOR:
        wrapper[INNER] = _name(named)
    wrapper['constructor'] = CONSTRUCTOR
