"""A packed file from others is data: nothing in its texts is run by any tool that reads it."""

import sys

import pytest
from helpers import TOOLS, run_here
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

import bfcn_mm  # noqa: F401
from bfcn_kernels import Metadata, Model, nets, write
from bfcn_mm.cli import main

PYTHON = "__import__('pathlib').Path('pwned').touch()"
NETWORK = '{"model": {"type": "os.system", "command": "touch pwned"}}'
IMPORTS = '{"custom_imports": {"imports": ["antigravity"]}, "model": {"type": "EncoderDecoder"}}'


@pytest.fixture(params=[PYTHON, NETWORK, IMPORTS], ids=['python', 'network', 'imports'])
def file(request, tmp_path, monkeypatch):
    """A valid model whose every text tries to run something, in the current folder."""
    monkeypatch.chdir(tmp_path)
    bait = ('$(touch pwned)', '`touch pwned`', '; touch pwned', "'; touch pwned #")
    graph = nets.toy()
    classes = [bait[i % 4] for i in range(graph.validate()[graph.logits].channels)]
    metadata = Metadata(
        name='x; touch pwned', classes=tuple(classes), weight_bits=1, activation_bits=2,
        train_config=request.param,
    )  # fmt: skip
    write('x.gguf', Model(graph, metadata))
    yield 'x.gguf'
    assert not (tmp_path / 'pwned').exists()
    assert 'antigravity' not in sys.modules


def test_the_benchmark_refuses_it(file):
    said = (
        r'^(ValueError: .*the config in the file|TypeError: EncoderDecoder\.__init__\(\) missing)'
    )
    words = ['benchmark', 'cpu', file, '--peers', 'torch', '--size', '32', '48']
    with pytest.raises(SystemExit, match=said):
        main(words)


@pytest.mark.parametrize('file', [PYTHON], indirect=True, ids=['python'])
def test_verification_and_mmseg_use_its_graph_alone(file, tmp_path):
    done = run_here(
        TOOLS / 'verify.py', file, '--engine', 'torch', '--size', '24', '36', cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == 'verify: PASS', done.stderr
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = MODELS.build(dict(type='PackedSegmentor', file=file, engine='numpy'))
    assert segmentor.dataset_meta['classes'][0] == '$(touch pwned)'
