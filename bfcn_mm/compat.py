"""Known breaks of MMSegmentation's stock stack on current PyTorch, each mended once.

A mend acts only where its break occurs: a full mmcv, an older torch, an older setuptools or the
maintained fork (onedl-*) is used as it is. `tools/doctor.py` shows what was found.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import _bfcn_mm_compat


def apply() -> None:
    """Apply every mend that this environment needs. Calling it again changes nothing."""
    _bfcn_mm_compat.install()
    if torch_load_refuses_checkpoints():
        allow_checkpoint_globals()
    if mmengine_needs_pkg_resources():
        replace_pkg_resources()


def torch_load_refuses_checkpoints() -> bool:
    """torch >= 2.6 loads with weights_only=True unless told otherwise; mmengine does not tell."""
    major, minor = torch.__version__.split('.')[:2]
    return (int(major), int(minor)) >= (2, 6)


def allow_checkpoint_globals() -> None:
    """Let `torch.load` read what mmengine's own checkpoints hold, and nothing more.

    Those are the message hub's history buffers and numpy's arrays and scalars. The numpy names are
    allowed under numpy 1 and numpy 2 paths, since a checkpoint may come from either.
    """
    from mmengine.logging import HistoryBuffer

    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    allowed: list = [HistoryBuffer, np.ndarray, np.dtype]
    for function in (multiarray._reconstruct, multiarray.scalar):
        for package in ('numpy.core', 'numpy._core'):
            allowed.append((function, f'{package}.multiarray.{function.__name__}'))
    kinds = '?bhilqBHILQefd'
    allowed += sorted({type(np.dtype(kind)) for kind in kinds}, key=lambda kind: kind.__name__)
    torch.serialization.add_safe_globals(allowed)


def mmengine_needs_pkg_resources() -> bool:
    """setuptools >= 82 has no pkg_resources; mmengine <= 0.10.7 needs it for `mmseg::` configs."""
    if importlib.util.find_spec('pkg_resources') is not None:
        return False
    from mmengine.utils import package_utils

    return 'pkg_resources' in package_utils.is_installed.__code__.co_names


def replace_pkg_resources() -> None:
    """Answer mmengine's two questions about installed packages without pkg_resources."""
    import mmengine.config.config
    import mmengine.utils.package_utils

    users = [mmengine.utils.package_utils, mmengine.utils, mmengine.config.config]
    users += [sys.modules[name] for name in ('mmengine.hub.hub',) if name in sys.modules]
    answers: list[Callable] = [is_installed, get_installed_path]
    for module in users:
        for answer in answers:
            setattr(module, answer.__name__, answer)


def is_installed(package: str) -> bool:
    """Whether `package` names an installed distribution or an importable package."""
    return _has_distribution(package) or _package_dir(package) is not None


def get_installed_path(package: str) -> str:
    """Directory of the package `package`, a module's or a distribution's name.

    Raises ModuleNotFoundError if there is none, RuntimeError for a namespace package.
    """
    names = [package]
    if _has_distribution(package):
        top_level = importlib.metadata.distribution(package).read_text('top_level.txt') or ''
        names += top_level.split()
    for name in names:
        found = _package_dir(name)
        if found is not None:
            return str(found)
    if importlib.util.find_spec(package) is not None:
        raise RuntimeError(f'{package} is a namespace package: it has no single installed path')
    raise ModuleNotFoundError(f'{package} is not installed: pip install {package}')


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _package_dir(name: str) -> Path | None:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    return Path(spec.origin).parent if spec is not None and spec.origin else None
