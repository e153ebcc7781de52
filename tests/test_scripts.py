"""mmseg's own scripts, unmodified, on a config with `quant`; and what our tools say of bad input."""

import os
import re
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, SCRIPTS, TOOLS, environment, run_script, tiny_config, write_config
from mmengine.config import Config

QUANT = dict(w=1, a=2, calibrate=2, decay=dict(start=3, rate=1, every=1))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(folder, log) of a run of mmseg's train.py on c.py."""
    folder = tmp_path_factory.mktemp('scripts')
    config = tiny_config(folder, 4, quant=QUANT)
    config['test_dataloader']['dataset']['num_images'] = 8  # benchmark.py skips the first five
    path = write_config(folder / 'c.py', config)
    done = run_script(SCRIPTS / 'train.py', path, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def output(script, *arguments, cwd):
    done = run_script(script, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_train(trained):
    folder, log = trained
    assert 'quantized 26 layers' in log
    assert 'calibrated' in log
    assert [int(b) for b in re.findall(r'Iter\(train\).* w_bits: (\d)', log)] == [3, 2, 1, 1]
    state = torch.load(folder / 'work/iter_4.pth', weights_only=False)['state_dict']
    assert int(state['backbone.layer1.0.conv1.weight_quant._bits']) == 1


def test_test_and_our_test_print_the_same(trained):
    folder, _ = trained
    results = []
    for script in (SCRIPTS / 'test.py', TOOLS / 'test.py'):
        text = output(script, folder / 'c.py', folder / 'work/iter_4.pth', cwd=folder)
        assert 'evaluating at 1-bit weights, 2-bit activations' in text
        results.append(re.findall(r'(?:aAcc|mIoU|mAcc): [\d.]+', text))
    assert results[0] == results[1]
    assert len(results[0]) == 3


def test_test_time_augmentation(trained):
    folder, _ = trained
    config = tiny_config(folder, 4, quant=QUANT)
    streets = Config.fromfile(ROOT / 'configs/_base_/datasets/streets.py')
    config |= dict(tta_model=dict(type='SegTTAModel'), tta_pipeline=streets.tta_pipeline.copy())
    path = write_config(folder / 'tta.py', config)
    for script in (SCRIPTS / 'test.py', TOOLS / 'test.py'):
        text = output(script, path, folder / 'work/iter_4.pth', '--tta', cwd=folder)
        assert re.search(r'mIoU: [\d.]+', text)


def test_get_flops_counts_what_it_counts_for_the_float_model(trained, tmp_path):
    folder, _ = trained
    counts = []
    for path in (folder / 'c.py', write_config(tmp_path / 'float.py', tiny_config(folder))):
        script = SCRIPTS / 'analysis_tools/get_flops.py'
        text = output(script, path, '--shape', 64, 64, cwd=tmp_path)
        counts.append(re.findall(r'Flops: \S+', text))
    assert counts[0] == counts[1] != []


def test_benchmark(trained):
    folder, _ = trained
    script = SCRIPTS / 'analysis_tools/benchmark.py'
    arguments = [folder / 'c.py', folder / 'work/iter_4.pth', '--log-interval', 1]
    text = output(script, *arguments, cwd=folder)
    assert re.search(r'Done image \[8 +/ 200\], fps: [\d.]+', text)


INFERENCE = """
import sys
import _bfcn_mm_compat
import numpy as np
from mmseg.apis import MMSegInferencer, inference_model, init_model
config, checkpoint = sys.argv[1:]
image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
model = init_model(config, checkpoint, device='cpu')
first = inference_model(model, image).pred_sem_seg.data.numpy()[0]
second = MMSegInferencer(config, checkpoint, device='cpu', classes=['c'] * 9, palette=[[0] * 3] * 9)
second = second(image)['predictions']
assert (first == second).all()
print(type(model.backbone.stem[0]))
print(sorted({q.bits for q in model.modules() if hasattr(q, '_bits')}), first.shape)
"""


def test_the_dumped_config_is_all_that_inference_needs(trained):
    folder, _ = trained
    done = subprocess.run(
        [sys.executable, '-c', INFERENCE, folder / 'work/c.py', folder / 'work/iter_4.pth'],
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'QuantConv2d' in done.stdout
    assert '[1, 2, 8] (64, 96)' in done.stdout


def assert_one_line(done, *said):
    assert done.returncode == 1, done.stdout[-1000:] + done.stderr[-1000:]
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert all(text in last for text in said), last
    assert 'Iter(train)' not in done.stdout


BAD = {
    'bits': (['quant.w=9'], 'quant.w must be an integer in 1..8, or 32 for float, got 9'),
    'key': (['quant.calibrat=9'], "did you mean 'calibrate'"),
    'skip': (['quant.skip=[nothing]'], "quant.skip: 'nothing' matches no module"),
    'run': (
        ['quant.decay.every=2'],
        'the last of 3 stages begins at 4 iterations, the run ends at 4',
    ),
}


@pytest.mark.parametrize('case', BAD)
def test_train_ends_in_one_line(trained, case):
    folder, _ = trained
    options, said = BAD[case]
    work = ['--work-dir', folder / case]
    done = run_script(
        TOOLS / 'train.py', folder / 'c.py', *work, '--cfg-options', *options, cwd=folder
    )
    assert_one_line(done, said)


def test_a_checkpoint_of_other_bits_or_of_a_float_model_is_refused(trained, tmp_path):
    folder, _ = trained
    path = folder / 'work/iter_4.pth'
    options = ['--cfg-options', 'quant.w=4', 'quant.a=4', 'quant.decay=None']
    done = run_script(TOOLS / 'test.py', folder / 'c.py', path, *options, cwd=folder)
    assert_one_line(done, 'the checkpoint has', 'bits at', 'the config 4')
    checkpoint = torch.load(path, weights_only=False)
    state = checkpoint['state_dict']
    checkpoint['state_dict'] = {k: v for k, v in state.items() if 'quant' not in k}
    torch.save(checkpoint, tmp_path / 'float.pth')
    done = run_script(TOOLS / 'test.py', folder / 'c.py', tmp_path / 'float.pth', cwd=folder)
    assert_one_line(done, 'the checkpoint holds no grid for', 'load_from')


def test_tracebacks_on_request(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, 'BFCN_TRACEBACK', '1')
    (tmp_path / 'c.py').write_text('quant = dict(w=1, a=2)\n')
    done = run_script(TOOLS / 'train.py', tmp_path / 'c.py', cwd=tmp_path)
    assert done.returncode == 1
    assert 'Traceback' in done.stderr
    assert 'quant: the config has no model to quantize' in done.stderr
