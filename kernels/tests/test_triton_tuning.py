"""The choice of a tile: the rule, what is tried on a GPU, and the table that remembers."""

import pytest
import torch
import triton

from bfcn_kernels.builder import Builder
from bfcn_kernels.triton import tuning
from bfcn_kernels.triton.bit_conv import Config
from bfcn_kernels.triton.codes import form_of


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(tuning, 'INTERPRETED', False)


def layer(channels=256, outputs=256, kernel=3, bits=1, terms=1, groups=1):
    """(op, forms of its sources)"""
    net = Builder(0, (3, 3))
    net.image_codes('pixels', zero_point=128)
    source = 'pixels'
    if channels != 3:
        source = net.conv('x', [net.term('pixels', channels, 1, 8, 1)], 2)
    term = [net.term(source, outputs, kernel, bits, groups=groups) for _ in range(terms)]
    net.conv('y', term, 2)
    return net.graph().ops[-1], [form_of(net.value(source))] * terms


def test_rule():
    large, small = 512 * 256, 64 * 32
    assert tuning.default(*layer(), large) == Config(128, 128, 128, 8, 3)
    assert tuning.default(*layer(), small) == Config(64, 128, 128, 4, 3)
    assert tuning.default(*layer(outputs=19), large) == Config(128, 32, 128, 4, 3)
    assert tuning.default(*layer(channels=3, outputs=64, kernel=7, bits=8), large).k == 64
    assert tuning.default(*layer(channels=3, outputs=64, kernel=1), large).k == 32
    assert tuning.default(*layer(channels=192), large).k == 64
    assert tuning.default(*layer(groups=2), large).channels == 64


def test_weights_are_bytes_where_the_instruction_reads_shared_memory():
    assert tuning.default(*layer(), 1, wgmma=True).as_bytes
    assert not tuning.default(*layer(), 1, wgmma=False).as_bytes
    assert not tuning.default(*layer(bits=8), 1, wgmma=True).as_bytes  # they are bytes as it is


@pytest.mark.parametrize('terms', [1, 2])
@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('wgmma', [False, True])
def test_candidates(terms, groups, wgmma):
    tried = tuning.candidates(*layer(terms=terms, groups=groups), 10**6, wgmma)
    assert tried[0] == tuning.default(*layer(terms=terms, groups=groups), 10**6, wgmma)
    assert len(tried) == len(set(tried))
    widest = 64 if groups > 1 or (wgmma and terms > 1) else 256 // terms
    assert max(c.channels for c in tried) == widest
    assert {c.as_bytes for c in tried} == ({False} if groups > 1 else {False, True})


def test_table_is_kept_on_disk(monkeypatch, tmp_path):
    monkeypatch.setenv('BFCN_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Some GPU')
    device, key = torch.device('cuda'), (*layer(), 1000)
    assert tuning.Tuned(device).get(*key) is None
    config = Config(64, 32, 64, 4, 3, True)
    tuning.Tuned(device).put(*key, config)
    assert tuning.Tuned(device).get(*key) == config
    assert tuning.Tuned(device).get(*layer(kernel=1), 1000) is None
    names = [path.name for path in (tmp_path / 'cache').iterdir()]
    assert names == [f'Some-GPU-triton-{triton.__version__}-{tuning.FILE_VERSION}.json']
    monkeypatch.setenv('BFCN_TUNE', '0')
    assert not tuning.Tuned(device).measures
    assert not tuning.Tuned(torch.device('cpu')).measures


def test_fastest_leaves_out_what_does_not_fit(monkeypatch):
    configs = [Config(rows, 32, 64, 4, 3) for rows in (16, 32, 64)]
    milliseconds = dict(zip(configs, (3.0, None, 2.0), strict=True))

    def do_bench(call, **_):
        if call() is None:
            raise triton.runtime.errors.OutOfResources(1, 0, 'shared memory')
        return call()

    monkeypatch.setattr(triton.testing, 'do_bench', do_bench)
    calls = {config: lambda c=config: milliseconds[c] for config in configs}
    assert tuning.fastest(calls) == configs[2]


def test_keys_tell_layers_apart():
    variants = [layer(), layer(kernel=1), layer(bits=2), layer(terms=2), layer(outputs=128)]
    keys = {tuning.key(*variant, pixels) for variant in variants for pixels in (100, 200)}
    assert len(keys) == 2 * len(variants)
