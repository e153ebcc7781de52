"""Whatever is wrong with a command or a config is one line on stderr."""

import os

import pytest
from helpers import TOOLS, run_here, tiny_config, write_config
from mmengine.registry import DefaultScope


@pytest.fixture
def config(tmp_path):
    """A low-bit config; no data has to be there."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield write_config(tmp_path / 'c.py', tiny_config(tmp_path, quant=dict(w=1, a=2)))


CASES = {
    'a key of the model': (
        ('complexity.py', 'c.py', '--cfg-options', 'model.backbone.dephth=18'),
        "TypeError: ResNet.__init__() got an unexpected keyword argument 'dephth'",
    ),
    'a value of the model': (
        ('complexity.py', 'c.py', '--cfg-options', 'model.backbone.num_stages=9'),
        'AssertionError: [resnet.py, line',
    ),
    'a type': (
        ('complexity.py', 'c.py', '--cfg-options', 'model.backbone.type=ResNett'),
        'KeyError: ',
    ),
    'an index': (
        ('complexity.py', 'c.py', '--cfg-options', 'model.decode_head.in_index=7'),
        'Error: ',
    ),
    'no tta_pipeline': (
        ('test.py', 'c.py', 'x.pth', '--tta'),
        "AttributeError: 'ConfigDict' object has no attribute 'tta_pipeline'",
    ),
    'no config': (('train.py', 'no.py'), "FileNotFoundError: [Errno 2] No such file or directory"),
    'no checkpoint': (('export.py', 'c.py', 'no.pth', 'x.gguf'), 'FileNotFoundError: no.pth'),
    'syntax': (('train.py', 'syntax.py'), 'SyntaxError: '),
    'quant': (
        ('train.py', 'c.py', '--cfg-options', 'quant.decay.start=8.5'),
        'ValueError: quant.decay.start must be an integer >= 1, got 8.5',
    ),
    'quant of a wrong kind': (
        ('train.py', 'c.py', '--cfg-options', 'quant.overrides=[backbone]'),
        'ValueError: quant.overrides must be a dict of module name -> dict(w=..., a=...), got [',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_an_error_is_one_line(config, tmp_path, case):
    (tmp_path / 'syntax.py').write_text('quant = dict(w=1, a=2\n')
    words, said = CASES[case]
    done = run_here(TOOLS / words[0], *words[1:], cwd=tmp_path)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert said in last
    assert last.endswith('(BFCN_TRACEBACK=1 shows where)')


@pytest.mark.parametrize('tool', ['train.py', 'complexity.py', 'export.py', 'verify.py'])
def test_an_option_without_a_value_is_named(config, tmp_path, tool):
    files = dict.fromkeys(('export.py', 'verify.py'), ('x.pth', 'x.gguf')).get(tool, ())
    done = run_here(TOOLS / tool, 'c.py', *files, '--cfg-options', 'quant.w', cwd=tmp_path)
    assert done.returncode == 2
    assert "--cfg-options takes KEY=VALUE, got 'quant.w'" in done.stderr


def test_a_wrong_suffix_ends_training_before_it_begins(config, tmp_path):
    (tmp_path / 'img').mkdir()
    (tmp_path / 'img/0.png').touch()
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler'),
        dataset=dict(
            type='BaseSegDataset', data_root=str(tmp_path), pipeline=[],
            data_prefix=dict(img_path='img', seg_map_path='img'),
        ),
    )  # fmt: skip
    path = write_config(
        tmp_path / 'd.py', tiny_config(tmp_path, quant=dict(w=1, a=2), train_dataloader=loader)
    )
    done = run_here(TOOLS / 'train.py', path, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    folder = os.path.join(tmp_path, 'img')
    assert f"{folder}: BaseSegDataset finds no image that ends with '.jpg' (img_suffix)" in last
    assert 'it holds files such as 0.png' in last
