"""tools/gpu.py without a GPU: one line, or all of it in the interpreter; and what it compares with."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bfcn_kernels.builder import Builder
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
def peers():
    from lab.gpu import peers

    return peers


@pytest.fixture
def int8():
    from lab.gpu import int8

    return int8


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
    assert done.stderr.splitlines()[-1].startswith('MissingFileError: none.gguf: ')


@pytest.mark.slow
def test_smoke_runs_all_of_it_and_writes_no_times(tmp_path):
    pytest.importorskip('triton')
    done = run(tmp_path, '--smoke', '--minutes', '60')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('right: ') == 4
    assert 'left out: one-bit tensor cores: one_bit=True needs an NVIDIA GPU' in done.stdout
    for what in ('packed', 'fp16 eager', 'int8 eager', 'fp16 max-autotune', 'int8 reduce-overhead'):
        assert f'{what}\t17\t24\t1\t' in done.stdout
    assert 'training step, quantized over float: ' in done.stdout
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


def odd_graph():
    """Strides, dilation, padding, groups, a single output channel, channels that are no multiple of 8."""
    net = Builder(0, (20, 24))
    net.image_codes('pixels', zero_point=128)
    net.conv('stem', [net.term('pixels', 33, 7, stride=2)], 2)
    net.conv('wide', [net.term('stem', 66, 3, dilation=2)], 2)
    net.conv('grouped', [net.term('wide', 66, 3, groups=6)], 2)
    net.conv('joined', [net.term('grouped', 65), net.term('wide', 65, 3)], 2)
    net.conv('scores', [net.term('joined', 1)], None)
    return net.graph()


@pytest.mark.parametrize('graph', [toy(), resnet_bfcn(18, 1, 2, classes=5, width=8), odd_graph()])
@pytest.mark.parametrize('size', [(33, 40), (1, 1)])
def test_int8_products_are_the_float_convolutions(int8, graph, size):
    assert int8.missing(torch.device('cpu')) is None
    images = torch.randint(256, (2, *size, 3), dtype=torch.uint8)
    assert int8.difference(int8.Int8Twin(graph, size, torch.float32), images) is None


def test_an_int8_layer_that_differs_is_named(int8):
    twin = int8.Int8Twin(resnet_bfcn(18, 1, 2, classes=5, width=8), (9, 9), torch.float32)
    name, convs = list(twin.convs.items())[3]
    convs[0].rows[0, 0] += 1
    assert int8.difference(twin, torch.zeros(1, 9, 9, 3, dtype=torch.uint8)) == name


def test_int8_that_cannot_run_says_why(int8, monkeypatch):
    def refuse(a, b):
        raise RuntimeError('CUBLAS_STATUS_NOT_SUPPORTED\nand more')

    monkeypatch.setattr(torch, '_int_mm', refuse)
    said = int8.missing(torch.device('cpu'))
    assert said == 'torch._int_mm does not run on cpu: CUBLAS_STATUS_NOT_SUPPORTED'
    monkeypatch.delattr(torch, '_int_mm')
    assert int8.missing(torch.device('cpu')).endswith('has no torch._int_mm')


def test_int8_twin_is_one_graph_to_a_compiler(int8):
    twin = int8.Int8Twin(odd_graph(), (32, 48), torch.float32)
    images = torch.randint(256, (1, 32, 48, 3), dtype=torch.uint8)
    compiled = torch.compile(twin, backend='eager', fullgraph=True)
    assert torch.equal(compiled(images), twin(images))


def test_what_there_is_so_far_is_written(tmp_path, monkeypatch):
    from lab.gpu import proof as gpu

    args = SimpleNamespace(smoke=False, out=tmp_path)
    bench = SimpleNamespace(args=args, name='a GPU', path=Path('m.gguf'), rows=[], layers=[])
    gpu.Bench.write(bench)
    assert list(tmp_path.iterdir()) == []
    row = dict(what='packed', height=160, width=256, batch=1, ms='2', ms_q1='1', ms_q3='3')
    bench.rows = [row | dict(peak_mb='5'), row | dict(what='training step, float', peak_mb='')]
    gpu.Bench.write(bench)
    table = (tmp_path / 'gpu.csv').read_text().splitlines()
    assert table[0] == 'what,height,width,batch,ms,ms_q1,ms_q3,peak_mb,device,torch,model'
    assert table[1] == f'packed,160,256,1,2,1,3,5,a GPU,{torch.__version__},m.gguf'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['gpu.csv', 'gpu.png']


def test_one_bit_times_stand_beside_those_of_their_layers(monkeypatch):
    from lab.gpu import proof as gpu

    calls = []
    plan = SimpleNamespace(
        run=calls.append,
        peak_bytes=2**20,
        profile=[('a', 'bit_conv', 1e-6), ('b', 'plane_conv', 2e-6)],
    )
    bench = gpu.Bench.__new__(gpu.Bench)
    bench.args, bench.device, bench.graph = SimpleNamespace(smoke=True), torch.device('cpu'), None
    bench.make = lambda graph, one_bit: SimpleNamespace(plan=lambda *key: plan)
    bench.sizes, bench.batches, bench.rows, bench.one_bit = ((17, 24),), (1, 2), [], True
    bench.layers = [dict(height=17, width=24, layer=name, one_bit_us='') for name in 'ab']
    bench.time_one_bit()
    assert [row['one_bit_us'] for row in bench.layers] == ['', '2']
    assert [(row['what'], row['batch']) for row in bench.rows] == [
        ('packed, one-bit', 1),
        ('packed, one-bit', 2),
    ]
    assert {images.shape for images in calls} == {(1, 17, 24, 3), (2, 17, 24, 3)}


def test_median_of_calls(peers):
    calls = []
    middle, low, high = peers.median_ms(lambda: calls.append(1), torch.device('cpu'), 0)
    assert len(calls) == 2
    assert 0 <= low <= middle <= high
