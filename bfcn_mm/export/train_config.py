"""The training config that travels in a packed file: JSON, so that a reader never runs it.

A config of mmengine is a program in Python, and a packed file may come from anyone. So a file holds the
resolved values alone, and a network is built from them with `from_file`, which takes nothing but names
that are registered here already, loads no file and bounds the size of what it builds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import mmengine.registry
import mmseg.registry
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry
from torch import nn
from torch.nn.modules import module as registration

LONGEST = 2**20
"""Characters of a config in a file that are read."""
MOST_MODULES = 20_000
_LARGEST_NUMBER = 2**24
_REGISTRIES = ('MODELS', 'TASK_UTILS')
_OF_THE_RUN = ('work_dir', 'launcher', 'resume', 'load_from', 'custom_imports')
_FILE = re.compile(
    r'[/\\]|://|\.(pth?|ckpt|pkl|pickle|bin|onnx|safetensors|np[yz]|json|ya?ml|py|txt)$', re.I
)
_CREDENTIALS = re.compile(r'(\w+://)[^/@]*@')


def to_json(config: Config) -> str:
    """The resolved config as JSON, without what belongs to one machine or one run.

    Left out: work_dir, launcher, resume, load_from, custom_imports. An absolute path becomes its last
    part, a class its registered name, a number that JSON has not (inf, nan) its text.
    Raises TypeError, which names the key, for a value that is no data, such as a function.
    """
    values = {k: v for k, v in config.to_dict().items() if k not in _OF_THE_RUN}
    return json.dumps(_plain(values, 'config'), ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Config:
    """The config in a file. Raises ValueError for text that is not a JSON object of a config."""
    if len(text) > LONGEST:
        raise ValueError(
            f'the config in the file has {len(text):,} characters, at most {LONGEST:,}'
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            'the config in the file is not JSON. Earlier versions of bfcn_mm wrote it as Python, '
            'which is not run: give the config itself'
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get('model'), dict):
        raise ValueError("the config in the file must be a JSON object with an object 'model'")
    try:
        return Config(values)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'the config in the file is no config: {error}') from error


def build_float(config: Config, most_parameters: int) -> nn.Module:
    """The float network that a file's config describes, with random weights, in evaluation mode.

    Raises ValueError for a type that is not registered, a text that names a file or an address, a number
    beyond 2^24, and for more than `most_parameters` parameters and buffers or 20,000 modules.
    """
    config = Config(config.to_dict())
    config.quant = None
    without_init(config.model)
    scope = config.get('default_scope') or 'mmseg'
    _check_scope(scope, 'default_scope')
    _check(config.model, 'model', scope)
    with DefaultScope.overwrite_default_scope(scope), _bounded(most_parameters):
        return mmseg.registry.MODELS.build(config.model).eval()


def without_init(node: object) -> None:
    """Take out what would load weights: `init_cfg` and `pretrained`, everywhere in a config."""
    if isinstance(node, dict):
        node.update({key: None for key in ('init_cfg', 'pretrained') if key in node})
        for value in node.values():
            without_init(value)
    elif isinstance(node, list | tuple):
        for value in node:
            without_init(value)


def _plain(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f'{key}.{k}') for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f'{key}[{i}]') for i, v in enumerate(value)]
    if isinstance(value, PurePath):
        return _portable(str(value))
    if isinstance(value, str):
        return _portable(value)
    if isinstance(value, type):
        return f'{value.__module__}.{value.__qualname__}'  # as mmengine dumps it
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, 'tolist'):  # numpy
        return _plain(value.tolist(), key)
    raise TypeError(
        f'{key} is {value!r}, which a packed file cannot hold: write it in the config as numbers and text'
    )


def _portable(text: str) -> str:
    """Without the folders of this machine, and without the user and password of an address."""
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() or text.startswith('~'):
            return path.name
    return _CREDENTIALS.sub(r'\1', text)


def _registries() -> Iterator[Registry]:
    """Those that models are built from: mmengine's and, of all packages imported here, their own."""
    for name in _REGISTRIES:
        root = getattr(mmengine.registry, name)
        yield root
        yield from root.children.values()


def _check_scope(scope: object, key: str) -> None:
    """A scope that is not imported would be."""
    if not any(registry.scope == scope for registry in _registries()):
        raise ValueError(
            f'{key} of the config in the file is {scope!r}, which is not imported here'
        )


def _check(node: object, key: str, scope: str) -> None:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == 'type':
                _check_type(value, f'{key}.type', scope)
            elif name == '_scope_':
                _check_scope(value, f'{key}._scope_')
            else:
                _check(value, f'{key}.{name}', scope)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _check(value, f'{key}[{index}]', scope)
    elif isinstance(node, str) and _FILE.search(node):
        raise ValueError(
            f'{key} of the config in the file is {node[:60]!r}: a packed file must name no other file'
        )
    elif isinstance(node, int | float) and not abs(node) <= _LARGEST_NUMBER:
        raise ValueError(
            f'{key} of the config in the file must be at most {_LARGEST_NUMBER}, got {node}'
        )


def _check_type(value: object, key: str, scope: str) -> None:
    if not isinstance(value, str) or not _is_registered(value, scope):
        raise ValueError(
            f'{key} of the config in the file is {str(value)[:60]!r}, which is not registered here: '
            'import the package that registers it, if you trust it, or give the config itself'
        )


def _is_registered(kind: str, scope: str) -> bool:
    """Whether `kind` is a name, with or without scope, or the import path of a class registered here.

    Registry.get would import what it does not know.
    """
    own, name = Registry.split_scope_key(kind)
    scopes = {own} if own else {scope, 'mmengine'}
    return any(
        (registry.scope in scopes and name in registry.module_dict)
        or any(f'{c.__module__}.{c.__qualname__}' == kind for c in registry.module_dict.values())
        for registry in _registries()
    )


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Raise ValueError as soon as modules that are built here have more parameters or parts than that."""
    values = modules = 0

    def count_values(_module: nn.Module, name: str, tensor: Any) -> None:
        nonlocal values
        values += 0 if tensor is None else tensor.numel()
        if values > most:
            raise ValueError(
                f'the config in the file describes a network of more than {most:,} parameters, '
                'far more than the file has weights: it is another network'
            )

    def count_modules(_module: nn.Module, name: str, _part: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise ValueError(
                f'the config in the file describes a network of more than {MOST_MODULES:,} modules'
            )

    with ExitStack() as stack:
        for register, count in (
            (registration.register_module_parameter_registration_hook, count_values),
            (registration.register_module_buffer_registration_hook, count_values),
            (registration.register_module_module_registration_hook, count_modules),
        ):
            stack.callback(register(count).remove)
        yield
