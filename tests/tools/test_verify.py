"""tools/export.py and tools/verify.py: a line for each criterion, and an exit status to rely on."""

import pytest
import torch
from helpers import TOOLS, run_here, tiny_config, write_config
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from bfcn_kernels import Model, nets, write
from bfcn_mm.export import verify

ENGINE = ('--engine', 'torch')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """config.py, x.pth (random weights, calibrated) and what export.py makes of them, x.gguf."""
    folder = tmp_path_factory.mktemp('exported')
    write_config(folder / 'config.py', tiny_config(folder, quant=dict(w=2, a=2)))
    config = Config.fromfile(folder / 'config.py')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config.model)
    with torch.no_grad():
        for _ in range(3):
            x = model.train().extract_feat(torch.randn(2, 3, 64, 64))
            model.decode_head.forward(x)
            model.auxiliary_head.forward(x)
    torch.save(dict(state_dict=model.state_dict()), folder / 'x.pth')
    done = run_here(TOOLS / 'export.py', 'config.py', 'x.pth', 'x.gguf', cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def verified(folder, *arguments):
    done = run_here(TOOLS / 'verify.py', *arguments, cwd=folder)
    return done.returncode, done.stdout.splitlines(), done.stderr


CHECKPOINT = ('config.py', 'x.pth', 'x.gguf', *ENGINE)


def test_every_criterion_is_told(folder):
    status, lines, errors = verified(folder, *CHECKPOINT)
    assert status == 0, errors
    told = [line.split(':')[0] for line in lines if line.startswith(('PASS', 'FAIL', 'verify'))]
    assert told == [
        'PASS checkpoint',
        'PASS finite',
        'PASS codes',
        'PASS scores',
        'PASS labels',
        'PASS torch',
        'verify',
    ]
    assert lines[-1] == 'verify: PASS'


def test_the_distance_to_evaluation_counts(folder, monkeypatch):
    def far(report, *arguments, compare=verify.compare_fake_quant):
        compare(report, *arguments)
        report.pixels_differ = 86 * report.pixels // 100

    monkeypatch.setattr(verify, 'compare_fake_quant', far)
    status, lines, _ = verified(folder, *CHECKPOINT)
    assert status == 1
    assert lines[-1] == 'verify: FAIL (labels)'
    assert any(line.startswith('FAIL labels: 86 % of the pixels differ') for line in lines)
    assert verified(folder, *CHECKPOINT, '--tolerance', '90')[0] == 0


def test_another_checkpoint_fails(folder):
    write(folder / 'toy.gguf', Model(nets.toy()))
    status, lines, _ = verified(folder, 'config.py', 'x.pth', 'toy.gguf')
    assert status == 1
    assert any(line.startswith('FAIL checkpoint: ') for line in lines)
    assert lines[-1] == 'verify: FAIL (checkpoint)'


def test_a_file_alone(folder):
    write(folder / 'toy.gguf', Model(nets.toy()))
    status, lines, _ = verified(folder, 'toy.gguf', *ENGINE, '--size', '24', '36')
    assert (status, lines[-1]) == (0, 'verify: PASS')
    assert lines[0].startswith('PASS torch: equal on')


def test_a_nan_is_neither_exported_nor_verified(folder):
    checkpoint = torch.load(folder / 'x.pth', weights_only=True)
    checkpoint['state_dict']['backbone.layer1.0.conv1.weight'][0, 0, 0, 0] = torch.nan
    torch.save(checkpoint, folder / 'nan.pth')
    done = run_here(TOOLS / 'export.py', 'config.py', 'nan.pth', 'nan.gguf', cwd=folder)
    for status, errors in (
        (done.returncode, done.stderr),
        verified(folder, 'config.py', 'nan.pth', 'x.gguf', *ENGINE)[::2],
    ):
        assert status == 1
        assert 'backbone.layer1.0.conv1.weight is nan in 1 of 576 numbers' in errors
    assert not (folder / 'nan.gguf').exists()


@pytest.mark.parametrize('option', ['--tolerance', '--max-flips'])
@pytest.mark.parametrize('value', ['-1', '101', 'nan', 'many'])
def test_limits_are_percentages(folder, option, value):
    status, _, errors = verified(folder, 'x.gguf', f'{option}={value}')
    assert status == 2
    assert option in errors
