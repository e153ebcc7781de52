"""plane_conv, compiled for sm_80 and sm_90 and run on the machine in numpy, equals the oracle."""

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bfcn_kernels import fast
from bfcn_kernels.builder import Builder
from bfcn_kernels.triton import Engine, nvrtc
from bfcn_kernels.triton import driver as driver_module
from bfcn_kernels.triton.codes import Map, form_of, from_codes, storage, to_codes
from bfcn_kernels.triton.device import check_one_bit
from bfcn_kernels.triton.plane_conv import PlaneConv, serves

sys.path.insert(0, str(Path(__file__).parent))
from plane_machine import launch, missing

CPU = torch.device('cpu')


def check(net: Builder, name: str, size=(5, 7), batch=2, sm=80, edit=lambda ptx: ptx) -> None:
    """Run the op `name` on random codes and compare every number with the oracle."""
    if why := missing():
        pytest.skip(why)
    op = next(op for op in net.graph().ops if op.name == name)
    rng = np.random.default_rng(0)
    maps = {
        s: rng.integers(0, 2 ** net.value(s).bits, (batch, *size, net.value(s).channels), np.uint8)
        for s in op.sources
    }
    expected = np.stack([
        op.run(*((maps[s][i], net.value(s)) for s in op.sources), grid=None,
                   accumulate=fast.bit_conv_accumulate) for i in range(batch)
    ])  # fmt: skip
    value, grid = net.value(name), expected.shape[1:3]
    shape, dtype = storage(value, batch * grid[0] * grid[1])
    fill = float('nan') if dtype == torch.float32 else -0x5A5A5A5B
    out = Map(torch.full(shape, fill, dtype=dtype), value, batch, grid)
    forms = [form_of(net.value(term.source)) for term in op.terms]
    assert serves(op, forms)
    sources = [from_codes(torch.from_numpy(maps[s]), net.value(s)) for s in op.sources]
    launch(PlaneConv(op, forms, CPU, wgmma=sm >= 90), sources, out, sm, edit)
    if value.kind == 'codes':
        np.testing.assert_array_equal(to_codes(out).numpy(), expected)
    else:
        got = out.data.numpy().reshape(expected.shape)
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def source(channels: int, bits: int, zero_point: int = 0) -> Builder:
    net = Builder(0, (9, 11))
    net.image_codes('pixels', zero_point=128)
    net.conv('x', [net.term('pixels', channels, 1, 8, 1)], bits, zero_point=zero_point)
    return net


@pytest.mark.parametrize('sm', [80, 90])
@pytest.mark.parametrize(('channels', 'outputs'), [(63, 64), (64, 63), (65, 65), (64, 1)])
def test_channel_counts(channels, outputs, sm):
    net = source(channels, 2)
    net.conv('y', [net.term('x', outputs, 3)], 2)
    check(net, 'y', sm=sm)


SERVED = [(w, a) for w in range(1, 5) for a in range(1, 5) if w * a <= 8]
FEW = [(1, 1), (1, 2), (2, 2), (3, 1), (4, 2), (1, 4)]


@pytest.mark.parametrize(
    ('weight', 'activation'), SERVED if os.environ.get('BFCN_FULL') == '1' else FEW
)
@pytest.mark.parametrize('sm', [80, 90])
def test_every_width(weight, activation, sm):
    """Signed, so that what lies outside of the map is not 0; both forms of weights; 3 to 7 bits out."""
    net = source(70, activation, zero_point=2 ** (activation - 1))
    form, out = (1 if weight > 1 and activation % 2 else 2), weight + activation + 1
    net.conv('y', [net.term('x', 67, 3, weight, form)], out, zero_point=2 ** (out - 1))
    check(net, 'y', size=(4, 3), sm=sm)


@pytest.mark.parametrize('window', [
    dict(kernel=1, stride=2), dict(kernel=1, padding=1), dict(kernel=3, stride=2),
    dict(kernel=3, dilation=4), dict(kernel=5, stride=3, dilation=2), dict(kernel=2, padding=1),
])  # fmt: skip
@pytest.mark.parametrize('size', [(1, 1), (7, 6)])
def test_windows(window, size):
    net = source(64, 2, zero_point=1)
    net.conv('y', [net.term('x', 8, bits=1, **window)], 2)
    check(net, 'y', size, sm=90 if window['kernel'] == 3 else 80)


@pytest.mark.parametrize('sm', [80, 90])
def test_several_tiles_of_pixels_and_of_channels(sm):
    net = source(200, 2)
    net.conv('y', [net.term('x', 130)], 2)
    check(net, 'y', size=(12, 13), sm=sm)


@pytest.mark.parametrize('sm', [80, 90])
def test_terms_and_residuals_join_in_order(sm):
    net = source(64, 2, zero_point=1)
    net.conv('z', [net.term('x', 66, 3)], 8, zero_point=100)
    net.conv('v', [net.term('x', 66, 3)], 2)
    net.conv('r', [net.term('x', 66)], 4, zero_point=15)
    net.conv('y', [net.term('x', 66, 3), net.term('v', 66)], 3, residuals=('z', 'r'), zero_point=2)
    check(net, 'y', sm=sm)


@pytest.mark.parametrize('bits', range(1, 9))
def test_every_residual(bits):
    net = source(65, bits, zero_point=2**bits - 1)
    net.conv('v', [net.term('x', 65)], 2)
    net.conv('y', [net.term('v', 65)], 2, residuals=('x',))
    check(net, 'y', size=(3, 3))


@pytest.mark.parametrize('channels', [1, 19, 150])
def test_scores(channels):
    net = source(70, 2)
    net.conv('y', [net.term('x', channels, 3)], None)
    check(net, 'y', sm=90)


def test_a_wrong_constant_in_the_code_is_found():
    net = source(64, 2)
    net.conv('y', [net.term('x', 64)], 2)
    check(net, 'y', size=(9, 9))
    with pytest.raises(AssertionError, match='Mismatched elements'):
        check(net, 'y', size=(9, 9), edit=lambda ptx: ptx.replace('0f3F000000', '0f3F400000'))


def test_layers_that_it_leaves_to_bit_conv():
    net = source(64, 2)
    net.conv('narrow', [net.term('x', 32)], 2)
    net.conv('grouped', [net.term('x', 64, 3, groups=2)], 2)
    net.conv('unlike', [net.term('x', 64), net.term('x', 64, bits=2)], 2)
    net.conv('wide', [net.term('x', 64)], 5)
    net.conv('from_narrow', [net.term('narrow', 64)], 2)
    net.conv('from_wide', [net.term('wide', 64)], 2)
    net.conv('eight', [net.term('x', 64, bits=8)], 2)
    names = ('narrow', 'grouped', 'unlike', 'wide', 'from_narrow', 'from_wide', 'eight')
    net.conv('end', [net.term(name, 5) for name in names], None)
    served = {
        op.name
        for op in net.graph().ops[1:]
        if serves(op, [form_of(net.value(term.source)) for term in op.terms])
    }
    assert served == {'narrow', 'wide'}


def test_what_nvrtc_refuses_is_named():
    try:
        nvrtc.library()
    except RuntimeError as err:
        pytest.skip(str(err))
    with pytest.raises(RuntimeError, match=r'NVRTC_ERROR_COMPILATION: .*\bFIELD\b.* undefined'):
        nvrtc.compile_cuda('__device__ int x = FIELD;', {}, '80')
    with pytest.raises(RuntimeError, match='NVRTC_ERROR_INVALID_OPTION'):
        nvrtc.compile_cuda('', {}, '1')


def test_a_launch_passes_the_layer_by_value(monkeypatch):
    """What the driver is handed, by a driver that only notes it."""
    calls = {}

    class Driver:
        def __getattr__(self, name):
            return lambda *args: calls.update({name: args}) or 0

    def launch_kernel(function, *args):
        given = ctypes.string_at(args[8][0], size)  # as the driver does, before it returns
        calls.update(
            grid=args[:6], shared=args[6], stream=args[7].value, given=given, extra=args[9]
        )
        return failing

    def name_of(code, text):
        text._obj.value = b'an illegal address'

    failing, driver = 0, Driver()
    driver.cuLaunchKernel, driver.cuGetErrorString = launch_kernel, name_of
    stream = SimpleNamespace(cuda_stream=2**40 + 1, synchronize=lambda: None)
    monkeypatch.setattr(driver_module, '_driver', lambda: driver)
    monkeypatch.setattr(driver_module.torch.cuda, 'current_stream', lambda: stream)
    net = source(64, 2)
    net.conv('y', [net.term('x', 64)], 2, residuals=('x',))
    op, value = net.graph().ops[-1], net.value('x')
    conv = PlaneConv(op, [form_of(value)], CPU)
    maps = [from_codes(torch.zeros(1, 20, 20, 64, dtype=torch.uint8), value) for _ in range(3)]
    kernel = driver_module.Kernel(b'\x7fELF\0cubin', 'plane_conv')
    assert calls['cuModuleLoadData'][1] == b'\x7fELF\0cubin'
    assert calls['cuModuleGetFunction'][2] == b'plane_conv'
    monkeypatch.setattr(conv, '_kernel', lambda: kernel)
    layer = bytes(conv.layer(maps[:2], maps[2])[1])
    size = len(layer)
    conv(maps[:2], maps[2])
    assert calls['grid'] == (4, 1, 1, 128, 1, 1)
    assert (calls['shared'], calls['stream'], calls['extra']) == (0, 2**40 + 1, None)
    assert calls['given'] == layer
    failing = 700
    with pytest.raises(RuntimeError, match=r'cuLaunchKernel failed: an illegal address \(700\)'):
        conv(maps[:2], maps[2])


def test_where_it_cannot_run_is_one_line(monkeypatch):
    with pytest.raises(RuntimeError, match=r'one_bit=True needs an NVIDIA GPU, .*: leave it off'):
        Engine(source(64, 2).graph(), one_bit=True)
    gpu = torch.device('cuda', 0)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'NVIDIA B200')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (10, 0))
    with pytest.raises(
        RuntimeError, match=r'8\.0 to 9\.0 has, NVIDIA B200 has 10\.0: leave it off'
    ):
        check_one_bit(gpu)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(nvrtc, 'library', lambda: None)
    check_one_bit(gpu)


def test_no_driver_is_one_line(monkeypatch):
    def refuse(name):
        raise OSError(name)

    driver_module._driver.cache_clear()
    monkeypatch.setattr(driver_module.ctypes, 'CDLL', refuse)
    with pytest.raises(RuntimeError, match=r'driver is missing \(libcuda\.so\.1\): leave one_bit'):
        driver_module._driver()


def test_no_nvrtc_is_one_line(monkeypatch):
    def refuse(*name):
        raise OSError(name)

    nvrtc.library.cache_clear()
    monkeypatch.setattr(nvrtc.ctypes, 'CDLL', refuse)
    with pytest.raises(RuntimeError, match=r'NVRTC is missing, .*: pip install nvidia-cuda-nvrtc'):
        nvrtc.library()
    nvrtc.library.cache_clear()
