"""Import hook that mends the stock stack in time, whoever imports mmseg first.

mmseg's own scripts import mmseg before they read a config, so before `custom_imports` can load
bfcn_mm. `bfcn_mm_compat.pth` therefore loads this module at interpreter start. Hence its rules:
no import beyond `sys` until mmseg is imported, no torch, no exception.

* `mmseg` is about to be imported: run the mends of bfcn_mm/compat.py.
* `mmcv.ops` is imported by mmseg <= 1.2.2, unguarded in four files, and mmcv-lite lacks the
  compiled `mmcv._ext` below it: put a stand-in there. The imports succeed, and an operation that
  really needs compiled code says so when it is called.
"""

import sys


class MmsegImportHook:
    """A finder that finds nothing: it only sees what is about to be imported."""

    mended = False

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == 'mmseg' and not cls.mended:
            cls.mended = True
            _mend()
        elif fullname == 'mmcv.ops' and _stock_mmseg_is_loading() and not _find_compiled(path):
            sys.modules.setdefault('mmcv._ext', _stand_in())
        return None


def install():
    """Put the hook in front of `sys.meta_path`, once."""
    if MmsegImportHook not in sys.meta_path:
        sys.meta_path.insert(0, MmsegImportHook)


def _mend():
    """Run bfcn_mm/compat.py on its own: importing bfcn_mm itself would import mmseg in turn."""
    from importlib import util

    try:
        package = util.find_spec('bfcn_mm')
        origin = f'{package.submodule_search_locations[0]}/compat.py'
        spec = util.spec_from_file_location('_bfcn_mm_mends', origin)
        mends = util.module_from_spec(spec)
        spec.loader.exec_module(mends)
        mends.apply()
    except Exception as error:
        print(f'bfcn_mm: mmseg not mended ({error!r}): run tools/doctor.py', file=sys.stderr)


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
