"""torchrun with two gloo processes: one schedule, and the same bits, steps and weights on both."""

import os
import re
import socket
import subprocess
import sys

import torch
from helpers import TOOLS, environment, tiny_config, write_config

# Each rank saves what it ends with; a module of the config's own folder, as users have them.
HOOK = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from bfcn_mm.convert import quantizers

@HOOKS.register_module()
class SaveRank(Hook):
    priority = 'LOWEST'

    def before_train(self, runner):
        self.bits = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.bits.append({n: q.bits for n, q in quantizers(runner.model.module)})
        self.first = self.first if runner.iter else data_batch['inputs'][0].clone()

    def after_train(self, runner):
        state = runner.model.module.state_dict()
        kept = dict(state=state, bits=self.bits, image=self.first)
        torch.save(kept, f'{runner.work_dir}/rank{get_rank()}.pth')
"""


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def test_both_ranks_end_with_the_same_network(tmp_path):
    (tmp_path / 'save_rank.py').write_text(HOOK)
    config = tiny_config(
        tmp_path,
        4,
        quant=dict(w=1, a=2, calibrate=2, decay=dict(start=3, rate=1, every=1)),
        custom_imports=dict(imports=['bfcn_mm', 'save_rank'], allow_failed_imports=False),
        custom_hooks=[dict(type='SaveRank')],
    )
    path = write_config(tmp_path / 'c.py', config)
    env = environment(PORT=free_port(), PYTHON=sys.executable)
    env['PYTHONPATH'] += os.pathsep + str(tmp_path)
    done = subprocess.run(
        ['bash', str(TOOLS / 'dist_train.sh'), str(path), '2'],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:4000]
    first, second = (torch.load(tmp_path / f'work/rank{r}.pth') for r in (0, 1))
    assert not torch.equal(first['image'], second['image']), 'both ranks saw the same data'
    assert first['bits'] == second['bits']
    layer = 'backbone.layer1.0.conv1.weight_quant'
    assert [bits[layer] for bits in first['bits']] == [3, 2, 1, 1]
    statistics = re.compile(r'running_(mean|var)$')
    differ = [
        name
        for name, value in first['state'].items()
        if not statistics.search(name) and not torch.equal(value, second['state'][name])
    ]
    assert differ == []
    saved = torch.load(tmp_path / 'work/iter_4.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, first['state'][name]) for name, value in saved.items())


def test_dist_train_explains_itself(tmp_path):
    done = subprocess.run(
        ['bash', str(TOOLS / 'dist_train.sh')], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert 'usage:' in done.stderr
