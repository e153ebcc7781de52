"""tools/gpu.py without a GPU: one line, or all of it in the interpreter; and what it compares with."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bfcn_kernels.nets import resnet_bfcn, toy

TOOLS = Path(__file__).parents[2] / 'tools'


def run(tmp_path, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(TOOLS / 'gpu.py'), *arguments, '--out', str(tmp_path / 'out')],
        env=os.environ | {'CUDA_VISIBLE_DEVICES': '', 'TRITON_INTERPRET': '0'} | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def peers(monkeypatch):
    spec = importlib.util.spec_from_file_location('_gpu_peers', TOOLS / '_gpu_peers.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_gpu_is_one_line(tmp_path):
    pytest.importorskip('triton')
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (1, '')
    assert len(done.stderr.splitlines()) == 1
    assert "needs an NVIDIA GPU and torch sees none: use engine='cpu'" in done.stderr
    assert not (tmp_path / 'out').exists()


def test_a_missing_model_is_one_line(tmp_path):
    pytest.importorskip('triton')
    done = run(tmp_path, '--smoke', '--model', 'none.gguf')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('FileNotFoundError: ')


@pytest.mark.slow
def test_smoke_runs_all_of_it_and_writes_no_times(tmp_path):
    pytest.importorskip('triton')
    done = run(tmp_path, '--smoke')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('right: ') == 3
    assert 'these times mean nothing' in done.stdout
    assert [path.suffix for path in (tmp_path / 'out').iterdir()] == ['.gguf']


def test_float_twin_has_the_shape_of_its_graph(peers):
    for graph in (toy(), resnet_bfcn(18, 1, 2, classes=5, width=8)):
        images = torch.randint(256, (2, 40, 33, 3), dtype=torch.uint8)
        labels = peers.FloatTwin(graph, (40, 33), torch.float32)(images)
        assert (labels.shape, labels.dtype) == ((2, 40, 33), torch.uint8)


def test_float_twin_multiplies_as_often_as_its_graph(peers):
    graph = resnet_bfcn(18, 1, 2, classes=5, width=8)
    ours = sum(term.weight.size for op in graph.ops for term in getattr(op, 'terms', ()))
    twin = peers.FloatTwin(graph, (64, 64))
    assert sum(p.numel() for p in twin.parameters() if p.dim() == 4) == ours


def test_float_twin_is_one_graph_to_a_compiler(peers):
    twin = peers.FloatTwin(resnet_bfcn(18, 1, 2, classes=5, width=8), (32, 48), torch.float32)
    images = torch.randint(256, (1, 32, 48, 3), dtype=torch.uint8)
    compiled = torch.compile(twin, backend='eager', fullgraph=True)
    assert torch.equal(compiled(images), twin(images))


def test_median_of_calls(peers):
    calls = []
    middle, low, high = peers.median_ms(lambda: calls.append(1), torch.device('cpu'), 0)
    assert len(calls) == 2
    assert 0 <= low <= middle <= high
