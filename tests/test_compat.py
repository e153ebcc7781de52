"""Each mend: the break occurs without it, and not with it."""

import importlib.metadata
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer

from bfcn_mm import compat

STOCK = compat.has_distribution('mmsegmentation')
FULL_MMCV = compat.has_distribution('mmcv')
HOOK = 'import _bfcn_mm_compat'

on_stock = pytest.mark.skipif(not STOCK, reason='the maintained fork has mended this itself')
on_fork = pytest.mark.skipif(STOCK, reason='stock mmseg is installed under the expected name')
on_lite = pytest.mark.skipif(FULL_MMCV, reason='a full mmcv has the compiled module')
where_mmengine_loads_weights_only = pytest.mark.skipif(
    not compat.mmengine_loads_weights_only(),
    reason='torch < 2.6 reads any checkpoint, and the fork allows what its own hold',
)

IMPORT_MODELS = 'import mmseg.models'
LOAD_CHECKPOINT = """
import mmseg, sys, torch
state = torch.load(sys.argv[1])
loss = state['message_hub']['log_scalars']['train/loss']
print(loss.mean(), loss.min(), loss.current(), state['message_hub']['runtime_info']['miou'])
"""
READ_MMSEG_CONFIG = """
import mmseg
from mmengine.config import Config
config = Config.fromfile('config.py')
print(config.model.decode_head.num_classes)
"""
COUNT_FLOPS = """
import mmseg, torch
from mmengine.analysis import get_model_complexity_info as count
model = torch.nn.Conv2d(3, 4, 3, bias=False)
print(count(model, (3, 8, 8), inputs=(torch.zeros(1, 3, 8, 8),))['flops'])
"""
WITHOUT_PKG_RESOURCES = "import sys; sys.modules['pkg_resources'] = None"


def check_mend(run_program, program, error, printed, *arguments, setup=''):
    broken = run_program(f'{setup}\n{program}', *arguments)
    assert broken.returncode == 1
    assert error in broken.stderr
    mended = run_program(f'{setup}\n{HOOK}\n{program}', *arguments)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.strip().endswith(printed)


@on_stock
@on_lite
def test_missing_mmcv_ext(run_program):
    check_mend(run_program, IMPORT_MODELS, "No module named 'mmcv._ext'", '')


@on_stock
@on_lite
def test_missing_operation_names_itself_and_the_way_out(run_program):
    call = """
import _bfcn_mm_compat, mmseg.models, torch
from mmcv.ops import nms
from mmengine.utils.dl_utils.misc import mmcv_full_available
print(mmcv_full_available())
nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
"""
    done = run_program(call)
    assert done.stdout.strip() == 'False'
    assert 'RuntimeError: mmcv._ext.nms is compiled code' in done.stderr
    assert 'mim install mmcv' in done.stderr


def test_mmcv_ops_is_left_alone_without_mmseg(run_program):
    done = run_program(f'{HOOK}\nimport mmcv.ops')
    if FULL_MMCV:
        assert done.returncode == 0, done.stderr
    else:
        assert "No module named 'mmcv._ext'" in done.stderr


@where_mmengine_loads_weights_only
def test_checkpoint_of_mmengine(run_program, tmp_path):
    check_mend(
        run_program,
        LOAD_CHECKPOINT,
        'was not an allowed global by default',
        '2.0 1.0 3.0 0.5',
        save_checkpoint(tmp_path),
    )


@where_mmengine_loads_weights_only
@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (torch.nn.Parameter, 'backward')]
)
def test_checkpoint_asking_for_more_is_refused(tmp_path, owner, name):
    class Thief:
        def __reduce__(self):
            return getattr, (owner, name)

    path = tmp_path / 'thief.pth'
    torch.save({'state_dict': Thief()}, path)
    with pytest.raises(pickle.UnpicklingError, match=rf'must not ask for .*{name}'):
        torch.load(path)


@on_stock
def test_mmseg_configs_without_pkg_resources(run_program, tmp_path):
    write_config(tmp_path)
    check_mend(run_program, READ_MMSEG_CONFIG, 'pkg_resources', '19', setup=WITHOUT_PKG_RESOURCES)


@on_fork
def test_mmseg_configs_on_the_fork(run_program, tmp_path):
    write_config(tmp_path)
    check_mend(run_program, READ_MMSEG_CONFIG, 'mmsegmentation is not installed', '19')


@on_stock
def test_get_flops_passes_shape_and_inputs(run_program):
    check_mend(run_program, COUNT_FLOPS, 'cannot be both set', str(4 * 3 * 3 * 3 * 6 * 6))


def test_installed_path_of_module_distribution_and_nothing():
    assert compat.get_installed_path('mmseg').endswith('mmseg')
    assert compat.get_installed_path('mmsegmentation' if STOCK else 'onedl-mmsegmentation') == (
        compat.get_installed_path('mmseg')
    )
    assert compat.is_installed('torch')
    assert not compat.is_installed('no_such_package')
    with pytest.raises(ModuleNotFoundError, match='pip install no_such_package'):
        compat.get_installed_path('no_such_package')


def test_apply_twice_changes_nothing():
    import mmengine.analysis

    before = mmengine.analysis.get_model_complexity_info, torch.serialization.get_safe_globals()
    compat.apply()
    after = mmengine.analysis.get_model_complexity_info, torch.serialization.get_safe_globals()
    assert before[0] is after[0]
    assert set(before[1]) == set(after[1])


def test_hook_reports_a_failing_mend_and_lets_mmseg_load(run_program):
    program = f"""
{HOOK}, importlib.util
importlib.util.spec_from_file_location = None
import mmseg
print(mmseg.__version__)
"""
    done = run_program(program)
    name = 'mmsegmentation' if STOCK else 'onedl-mmsegmentation'
    assert done.stdout.strip().endswith(importlib.metadata.version(name))
    assert 'bfcn_mm: mmseg not mended' in done.stderr


def save_checkpoint(folder):
    """What a Runner saves: scalar histories, numpy scalars and arrays in the message hub."""
    import numpy as np
    from mmengine.logging import MessageHub

    hub = MessageHub('test_compat')
    for loss in (1.0, 2.0, 3.0):
        hub.update_scalar('train/loss', loss)
    hub.update_info('miou', np.float32(0.5))
    hub.update_info('palette', np.zeros((2, 3), np.uint8))
    hub.update_info('seen', [np.int64(3), np.float64(0.25), np.bool_(True)])
    path = folder / 'iter_3.pth'
    torch.save({'state_dict': {}, 'message_hub': hub.state_dict()}, path)
    return path


def write_config(folder):
    base = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    (folder / 'config.py').write_text(f'_base_ = {base!r}\n')
