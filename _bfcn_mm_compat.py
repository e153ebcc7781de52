"""Import hook that lets stock MMSegmentation import beside mmcv-lite.

mmseg <= 1.2.2 imports `mmcv.ops` unguarded in four files, and `mmcv.ops` needs the compiled module
`mmcv._ext`, which mmcv-lite lacks. The hook puts a stand-in there at the moment it is missed: the
imports succeed, and an operation that really needs compiled code says so when it is called.

`bfcn_mm_compat.pth` loads this module at interpreter start, because some of mmseg's own scripts
(get_flops.py, benchmark.py) import `mmseg.models` before they read a config. Hence the rules here:
no import beyond `sys`, nothing done before `mmcv.ops` is asked for by mmseg, no exception.
"""

import sys


class MmcvOpsHook:
    """A finder that finds nothing: it only looks at who asks for `mmcv.ops`."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname == 'mmcv.ops' and _stock_mmseg_is_loading() and not _find_compiled(path):
            sys.modules.setdefault('mmcv._ext', _stand_in())
        return None


def install():
    """Put the hook in front of `sys.meta_path`, once."""
    if MmcvOpsHook not in sys.meta_path:
        sys.meta_path.insert(0, MmcvOpsHook)


def _stock_mmseg_is_loading():
    """From 1.3 on (the maintained fork) mmseg guards these imports itself."""
    version = getattr(sys.modules.get('mmseg'), '__version__', '')
    return version.startswith(('1.0.', '1.1.', '1.2.'))


def _find_compiled(path):
    from importlib.machinery import PathFinder

    return PathFinder.find_spec('mmcv._ext', path)


def _stand_in():
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    class MissingExtension(ModuleType):
        def __getattr__(self, name):
            if name.startswith('__'):
                raise AttributeError(name)

            def missing(*args, **kwargs):
                raise RuntimeError(
                    f'mmcv._ext.{name} is compiled code, and mmcv-lite has none: replace mmcv-lite '
                    'by the full mmcv of the same version (mim install mmcv), or use a model '
                    'without this operation'
                )

            return missing

    module = MissingExtension('mmcv._ext')
    # No loader: mmengine's mmcv_full_available() keeps saying no.
    module.__spec__ = ModuleSpec('mmcv._ext', None)
    return module


install()
