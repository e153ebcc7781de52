"""Every kind of kernel compiles for sm_80 and sm_90 with no GPU present, onto int8 tensor cores."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import bfcn_kernels
from lab.gpu import resources
from lab.gpu.resources import Compiled, check, compiling

ROOT = Path(bfcn_kernels.__file__).parents[1]
TABLE = Path(__file__).parents[2] / 'docs' / 'gpu_resources.csv'

# A stem, a pool, a grouped layer, a block whose projection joins, a residual; then scores and labels.
PROGRAM = """
import json, sys
from dataclasses import asdict
from bfcn_kernels import ops
from bfcn_kernels.builder import Builder
import torch
from bfcn_kernels.triton.bit_conv import Config, PackedConv
from bfcn_kernels.triton.plan import Network, Plan
from bfcn_kernels.triton.tuning import compile_together
from lab.gpu.resources import compiling, check, compile_graph, compile_training, report

CPU = torch.device('cpu')
net = Builder(0, (16, 16))
net.image_codes('pixels', zero_point=128)
net.conv('stem', [net.term('pixels', 64, 7, 8, 1, stride=2)], 2)
net.add(ops.MaxPool('pool', 'stem', (3, 3), (2, 2), (1, 1)))
net.conv('conv', [net.term('pool', 64, 3)], 2)
net.conv('grouped', [net.term('conv', 64, 3, 2, groups=64)], 2)
net.conv('block', [net.term('grouped', 128, 1, 4, 1), net.term('pool', 128)], 4)
net.conv('joined', [net.term('block', 128, 3, stride=1)], 2, ('block',))
net.add(ops.AdaptiveAvgPool('mean', 'joined', (2, 2), 1.0, 0.0, 2))
net.add(ops.Resize('back', 'mean', like='joined', bits=2))
net.conv('coarse', [net.term('back', 19, 3)], None)
net.conv('fine', [net.term('stem', 19)], None)
net.add(ops.Resize('up', 'coarse', like='fine'))
net.add(ops.Add('sum', ('up', 'fine')))
net.add(ops.ArgMax('labels', 'sum'))
rows = []
for sm in map(int, sys.argv[1:]):
    few = {c.product.hash for c in compile_graph(net.graph(), (32, 48), sm)}
    again = [c for c in compile_graph(net.graph(), (33, 47), sm) if c.product.hash not in few]
    assert {c.kernel for c in again} <= {'mean_pool'}, again  # its window differs
    for compiled in (*compile_training(sm), *compile_graph(net.graph(), (64, 64), sm)):
        rows.append(asdict(report(compiled)) | {'wrong': check(compiled)})
plan = Plan(Network(net.graph(), CPU), 1, 64, 64)
step = next(step for step in plan.schedule if step.op.name == 'joined')
configs = [Config(32, 64, 64, 4, 3), Config(32, 32, 64, 4, 3)]
with compiling(80) as products:  # as tuning does
    compile_together(plan._conv_call(step, c, PackedConv.compile) for c in configs)
    assert len({product.hash for _, product in products}) == 2, products
print(json.dumps(rows))
"""


@pytest.fixture(scope='module')
def reports():
    environment = os.environ | {
        'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path]),
        'TRITON_INTERPRET': '0',
    }
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, '80', '90'],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize('sm', [80, 90])
def test_kernels_compile_exactly_and_without_spills(reports, sm):
    ours = [report for report in reports if report['sm'] == sm]
    assert {report['kernel'] for report in ours} == {
        *('image_codes', 'bit_conv', 'max_pool', 'mean_pool'),
        *('resize_codes', 'resize_scores', 'argmax'),
        *('activation', 'activation_backward', 'weight', 'weight_backward'),
        *('dorefa', 'dorefa_backward'),
    }
    for report in ours:
        assert report['wrong'] == [], report
        assert report['spills'] == 0, report


@pytest.mark.parametrize(('sm', 'instruction'), [(80, 'mma'), (90, 'wgmma')])
def test_convolutions_are_on_tensor_cores(reports, sm, instruction):
    layers = {r['layer'] for r in reports if r['sm'] == sm and r['tensor_core'] == instruction}
    assert {'stem', 'conv', 'grouped', 'block', 'joined', 'fine'} <= layers


def test_check_finds_what_is_wrong():
    def compiled(kernel: str, ptx: str) -> Compiled:
        return Compiled(kernel, 'layer', '', SimpleNamespace(asm={'ptx': ptx}))

    good = (
        'mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 {%r1}; mul.rn.f32 %f1, %f2, %f3;'
    )
    assert check(compiled('bit_conv', good)) == []
    assert check(compiled('bit_conv', 'mul.rn.f32')) == ['no tensor-core instruction']
    for inexact in ('fma.rn.f32 %f1', 'mul.ftz.f32 %f1', 'div.full.f32 %f1'):
        assert len(check(compiled('resize_codes', inexact))) == 1


def test_interpreted_kernels_cannot_be_compiled():
    with pytest.raises(RuntimeError, match='unset TRITON_INTERPRET'), compiling(80):
        pass


def test_the_table_tells_of_every_architecture():
    rows = list(csv.DictReader(TABLE.open()))
    assert {int(row['sm']) for row in rows} == set(resources.ARCHITECTURES)
    kinds = {(row['kernel'], row['sm'], row['tensor_core']) for row in rows}
    for sm, kind in (('80', 'mma'), ('90', 'wgmma')):
        assert ('bit_conv', sm, kind) in kinds
        assert ('plane_conv', sm, f'{kind} b1') in kinds
    assert all(row['tensor_core'] for row in rows if row['kernel'].endswith('_conv'))
    assert all(row['spills'] == '0' for row in rows)
