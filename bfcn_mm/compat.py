"""Known breaks of MMSegmentation on current PyTorch and setuptools, each mended once.

A mend acts only where its break occurs: a full mmcv, an older torch, an older setuptools or the
maintained fork (onedl-*) is used as it is. `_bfcn_mm_compat.py` runs this file just before mmseg is
imported, and holds the one mend that is itself an import hook (missing `mmcv._ext`).
"""

import functools
import importlib.metadata
import importlib.util
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import _bfcn_mm_compat


def apply() -> None:
    """Apply every mend that this environment needs. Calling it again changes nothing."""
    _bfcn_mm_compat.install()
    if mmengine_loads_weights_only():
        allow_checkpoint_globals()
    if mmengine_needs_pkg_resources():
        replace_pkg_resources()
    start_processes_without_gpu()
    if has_distribution('mmsegmentation'):
        accept_shape_beside_inputs()
    else:
        name_mmseg_by_its_module()


def mmengine_loads_weights_only() -> bool:
    """torch >= 2.6 loads with weights_only=True unless told otherwise; stock mmengine does not tell.

    The fork allows the same globals itself around each load, and withdraws them after it.
    """
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        return False
    from mmengine.runner import checkpoint

    return not hasattr(checkpoint, 'get_torch_safe_globals')


def allow_checkpoint_globals() -> None:
    """Let `torch.load` read what mmengine's own checkpoints hold, and nothing more.

    Those are the message hub's history buffers, with their methods, and numpy's arrays and scalars.
    numpy's functions are allowed under their numpy 1 and numpy 2 names: a file may have either.
    """
    from mmengine.logging import HistoryBuffer

    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    allowed: list = [HistoryBuffer, np.ndarray, np.dtype]
    allowed.append((_history_buffer_method, 'builtins.getattr'))
    for function in (multiarray._reconstruct, multiarray.scalar):
        for package in ('numpy.core', 'numpy._core'):
            allowed.append((function, f'{package}.multiarray.{function.__name__}'))
    allowed += {type(np.dtype(kind)) for kind in '?bhilqBHILQefd'}
    torch.serialization.add_safe_globals(allowed)


def _history_buffer_method(owner: type, name: str) -> Callable:
    """The only `getattr` in a checkpoint of mmengine: HistoryBuffer pickles its statistics."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'a checkpoint must not ask for {owner!r}.{name}')
    return getattr(owner, name)


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
    for module in users:
        module.is_installed = is_installed
        module.get_installed_path = get_installed_path


def is_installed(package: str) -> bool:
    """Whether `package` names an installed distribution or an importable package."""
    return has_distribution(package) or _package_dir(package) is not None


def get_installed_path(package: str) -> str:
    """Directory of the package `package`, a module's or a distribution's name.

    Raises ModuleNotFoundError if there is none, RuntimeError for a namespace package.
    """
    names = [package]
    if has_distribution(package):
        top_level = importlib.metadata.distribution(package).read_text('top_level.txt') or ''
        names += top_level.split()
    for name in names:
        found = _package_dir(name)
        if found is not None:
            return str(found)
    if package.isidentifier() and importlib.util.find_spec(package) is not None:
        raise RuntimeError(f'{package} is a namespace package: it has no single installed path')
    raise ModuleNotFoundError(f'{package} is not installed: pip install {package}')


def has_distribution(name: str) -> bool:
    """Whether pip knows a distribution of this name."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _package_dir(name: str) -> Path | None:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def start_processes_without_gpu() -> None:
    """mmengine gives each process and its model a GPU, even with backend gloo where there is none."""
    from mmengine.device import get_device
    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel

    stock = utils._init_dist_pytorch
    if hasattr(stock, '__wrapped__'):
        return

    @functools.wraps(stock)
    def init_dist_pytorch(backend, init_backend='torch', **options):
        if (backend, init_backend, get_device()) != ('gloo', 'torch', 'cpu'):
            return stock(backend, init_backend=init_backend, **options)
        torch.distributed.init_process_group(backend, **options)

    stock_init = MMDistributedDataParallel.__init__

    @functools.wraps(stock_init)
    def init(self, module, *args, device_ids=None, **options):
        if next(module.parameters()).device.type == 'cpu':
            device_ids = None
        stock_init(self, module, *args, device_ids=device_ids, **options)

    utils._init_dist_pytorch = init_dist_pytorch
    MMDistributedDataParallel.__init__ = init


def accept_shape_beside_inputs() -> None:
    """mmseg 1.2.2's get_flops.py passes a shape and the inputs; mmengine >= 0.10 refuses both."""
    import mmengine.analysis
    from mmengine.analysis import print_helper

    stock = print_helper.get_model_complexity_info
    if hasattr(stock, '__wrapped__'):
        return

    @functools.wraps(stock)
    def get_model_complexity_info(model, input_shape=None, inputs=None, **options):
        return stock(model, input_shape if inputs is None else None, inputs, **options)

    print_helper.get_model_complexity_info = get_model_complexity_info
    mmengine.analysis.get_model_complexity_info = get_model_complexity_info


def name_mmseg_by_its_module() -> None:
    """mmengine looks `mmseg::` configs up under `mmsegmentation`, a name that the fork changed."""
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE['mmseg'] = 'mmseg'
