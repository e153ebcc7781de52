"""bfcn benchmark cpu and lab.kernels on tiny networks: what is verified, refused and written."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import environment, tiny_model, write_config

import bfcn_mm  # noqa: F401
from bfcn_kernels import Metadata, Model, ops, read, write
from bfcn_kernels.builder import Builder
from bfcn_kernels.cpu import Engine, isas
from bfcn_mm import cli
from bfcn_mm.analysis.report import read_csv
from bfcn_mm.benchmark import cpu, files, memory, report, timing, worker
from bfcn_mm.export.train_config import to_json
from lab.kernels import rates as kernel_bench
from lab.report import performance
from lab.report import tables as markdown

VECTOR = [isa for isa in isas() if isa != 'portable'] or isas()


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    model = tiny_model()
    model.pop('auxiliary_head')
    path = tmp_path_factory.mktemp('benchmark') / 'net.py'
    return write_config(path, dict(default_scope='mmseg', model=model, quant=dict(w=1, a=2)))


@pytest.fixture
def run(tmp_path):
    """A function (*arguments) that runs `bfcn benchmark cpu` and returns the rows it appended."""

    def run(*arguments):
        table = tmp_path / 'results' / 'cpu.csv'
        common = ('--size', 32, 48, '--rounds', 3, '--csv', table)
        cli.main(['benchmark', 'cpu', *map(str, [*arguments, *common])])
        return read_csv(table)

    return run


def skip_without(peer):
    """Looks, but imports nothing: OpenVINO sends usage data from its import on."""
    try:
        files.require([peer])
    except RuntimeError as error:
        pytest.skip(str(error))


def rows_by_name(rows):
    return {f'{row["contender"]} {row["precision"]}': row for row in rows}


def test_ours_against_torch(run, config, tmp_path, capsys):
    chart = tmp_path / 'chart.png'
    options = ('--bits', '1-2', '2-2', '--peers', 'torch', '--chart', chart)
    rows = rows_by_name(run(config, *options))
    assert list(rows) == ['bfcn 1-2', 'bfcn 2-2', 'torch float32']
    ours, peer = rows['bfcn 1-2'], rows['torch float32']
    for row in rows.values():
        assert 0 < float(row['min_ms']) <= float(row['q1_ms']) <= float(row['median_ms'])
        assert (row['height'], row['width'], row['threads'], row['rounds']) == (
            '32',
            '48',
            '1',
            '3',
        )
        assert row['isa'] == VECTOR[0]
        assert row['device'] == report.cpu_name()
    assert float(ours['over_float32_q1']) <= float(ours['over_float32'])
    assert ours['over_float32_peer'] == 'torch'
    assert ours['over_int8'] == peer['over_float32'] == ''
    assert 0 < float(peer['agreement']) < 1e-3
    assert int(ours['activation_bytes']) > 0 < int(ours['weight_bytes'])
    assert int(peer['activation_bytes']) > int(ours['activation_bytes']) // 16
    assert chart.stat().st_size > 5000
    said = capsys.readouterr().out
    assert f'maps equal the oracle on {VECTOR[0]}' in said
    assert 'torch float32' in said


def test_rows_are_appended(run, config):
    for times in (1, 2):
        rows = run(config, '--peers', '--no-memory')
        assert [row['contender'] for row in rows] == ['bfcn'] * times
    assert rows[0]['process_bytes'] == rows[0]['over_float32'] == ''


def test_packed_files_bring_their_config(run, config, tmp_path):
    from mmengine.config import Config

    from bfcn_mm.benchmark import network

    net = network.from_config(Config.fromfile(config), [(1, 2)], tmp_path)
    model = read(net.packed['1-2'])
    text = to_json(Config.fromfile(config))
    write(tmp_path / 'a.gguf', Model(model.graph, Metadata(weight_bits=1, activation_bits=2)))
    write(
        tmp_path / 'b.gguf',
        Model(model.graph, Metadata(weight_bits=1, activation_bits=2, train_config=text)),
    )
    rows = rows_by_name(run(tmp_path / 'b.gguf', '--peers', 'torch', '--no-memory'))
    assert list(rows) == ['bfcn 1-2', 'torch float32']
    with pytest.raises(SystemExit, match='does not hold its config'):
        run(tmp_path / 'a.gguf', '--peers', 'torch')
    with pytest.raises(SystemExit, match='both 1-2-bit models'):
        run(tmp_path / 'a.gguf', tmp_path / 'b.gguf', '--peers')


def test_onnxruntime(run, config):
    skip_without('onnxruntime')
    rows = rows_by_name(run(config, '--peers', 'onnxruntime', '--isa', VECTOR[-1], '--no-memory'))
    assert list(rows) == ['bfcn 1-2', 'onnxruntime float32', 'onnxruntime int8']
    assert float(rows['onnxruntime float32']['agreement']) < 1e-3
    assert float(rows['onnxruntime int8']['agreement']) > 0.8
    uncapped = VECTOR[-1] == 'avx2' != VECTOR[0]  # it has no switch
    assert (rows['bfcn 1-2']['over_float32'] == '') == uncapped
    assert rows['onnxruntime int8']['isa_used'] == VECTOR[0]


@pytest.mark.skipif('avx2' not in VECTOR, reason='this CPU has no AVX2')
def test_openvino_is_held_to_avx2(run, config):
    skip_without('openvino')
    rows = rows_by_name(run(config, '--peers', 'openvino', '--isa', 'avx2', '--no-memory'))
    assert {row['isa_used'] for row in rows.values()} == {'avx2'}
    assert float(rows['bfcn 1-2']['over_int8']) > 0
    assert float(rows['openvino float32']['agreement']) < 1e-3


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--threads', '999'], '--threads must be 1..'),
        (['--isa', 'avx1024'], '--isa avx1024: this CPU and build have'),
        (['--rounds', '2'], '--rounds must be at least 3, got 2'),
        (['checkpoint.pth', '--bits', '1-2'], '--bits: a checkpoint has its own'),
        (['a.gguf'], 'give CONFIG, CONFIG CHECKPOINT, or packed files alone'),
    ],
)
def test_bad_arguments_end_in_one_line(config, arguments, said):
    with pytest.raises(SystemExit) as error:
        cli.main(['benchmark', 'cpu', str(config), *arguments, '--peers'])
    assert said in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('bits', ['1-9', '12', '0-1', '1-2-3'])
def test_bits_that_are_none(config, capsys, bits):
    with pytest.raises(SystemExit) as error:
        cli.main(['benchmark', 'cpu', str(config), '--bits', bits])
    assert error.value.code == 2
    assert f"such as 1-2, got '{bits}'" in capsys.readouterr().err


def test_a_peer_that_is_not_installed_names_the_command(monkeypatch):
    monkeypatch.setitem(files.PACKAGES, 'onnxruntime', ('onnx_of_another_world',))
    with pytest.raises(RuntimeError, match=r"onnx_of_another_world: pip install .*'\.\[bench\]'"):
        files.require(['torch', 'onnxruntime'])
    files.require(['torch'])


@pytest.fixture
def lying_engine(monkeypatch):
    """One code of one map is wrong in traces, one score in runs of anything but portable C."""
    trace, call = Engine.trace, Engine.__call__

    def wrong_trace(self, image):
        values = trace(self, image)
        name = list(values)[3]
        values[name] = values[name].copy()
        values[name].flat[5] ^= 1
        return values

    def wrong_call(self, image):
        labels = call(self, image)
        if self.isa != 'portable':
            self.logits[0, 0, 0] += 1  # the copy that it keeps
        return labels

    monkeypatch.setattr(Engine, 'trace', wrong_trace)
    monkeypatch.setattr(Engine, '__call__', wrong_call)


@pytest.mark.skipif(VECTOR == ['portable'], reason='this CPU has one kind of code only')
def test_nothing_is_timed_unless_ours_is_right(run, config, tmp_path, lying_engine, monkeypatch):
    with pytest.raises(SystemExit, match='differs in 1 of'):
        run(config, '--peers')
    monkeypatch.setattr(cpu, '_hold_to_oracle', lambda *_: None)
    with pytest.raises(SystemExit, match=f'{VECTOR[0]} and portable differ'):
        run(config, '--peers')
    assert not (tmp_path / 'results').exists()


@pytest.mark.parametrize(
    ('precision', 'change', 'said'),
    [
        ('float32', lambda s: s + 0.01 * abs(s).max(), 'off by 0.01'),
        ('float32', lambda s: s[..., 1:], r'scores are \(1, 3, 4, 4\)'),
        ('int8', lambda s: s[:, ::-1], 'correlation'),
        ('bf16', lambda s: np.full_like(s, np.nan), 'correlation'),
    ],
)
def test_nothing_is_timed_unless_a_peer_is_right(precision, change, said):
    scores = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    arrays = dict(scores=scores)

    def contender(values):
        return worker.contenders.Contender('peer', precision, '1', 'avx2', lambda: values)

    worker.check(contender(scores), arrays)
    with pytest.raises(SystemExit, match=said):
        worker.check(contender(change(scores)), arrays)


def test_turns_are_round_robin_with_one_untimed_run_before_each():
    ran = []
    runs = {name: (lambda name=name: ran.append(name)) for name in 'abc'}
    said = []
    seconds = timing.in_turns(runs, rounds=3, threads=1, progress=said.append)
    assert ''.join(ran) == 'aabbcc' * 4
    assert {name: len(values) for name, values in seconds.items()} == {'a': 3, 'b': 3, 'c': 3}
    assert not said  # of a short measurement
    assert timing.quartiles([4, 1, 3, 2, 5]) == (2, 3, 4)
    assert timing.ratios([6, 8], [2, 4]) == [3, 2]


def test_progress_is_told_in_a_long_measurement(monkeypatch):
    monkeypatch.setattr(timing, '_SILENCE', 0)
    said = []
    timing.in_turns({'a': lambda: None}, rounds=3, threads=1, progress=said.append)
    assert said == [f'{done} of 3 rounds timed' for done in range(3)]


def test_large_images_are_timed_fewer_times():
    assert [cpu._rounds(size) for size in ((160, 256), (360, 480), (1024, 2048))] == [15, 15, 5]


def test_the_least_float32_memory_by_hand():
    net = Builder(0, (8, 8))
    net.image_codes('pixels', zero_point=120)
    net.conv('stem', [net.term('pixels', 16, 3, bits=8, form=1, stride=2)], 2)
    net.conv('side', [net.term('stem', 16, 1)], 2)
    net.conv('join', [net.term('side', 16, 3)], 2, residuals=('stem',))
    net.conv('scores', [net.term('join', 5)], None)
    net.add(ops.ArgMax('labels', 'scores'))
    image, map16 = 4 * 3 * 8 * 8, 4 * 16 * 4 * 4
    assert memory.float32_peak(net.graph(), 8, 8) == max(image + map16, 2 * map16)
    assert memory.float32_peak(net.graph(), 16, 16) == 4 * 2 * map16  # join takes stem's place


def test_float32_scores_are_added_in_place_by_hand():
    net = Builder(0, (8, 8))
    net.image_codes('pixels', zero_point=120)
    net.conv('stem', [net.term('pixels', 2, 3, bits=8, form=1)], 2)
    net.conv('coarse', [net.term('stem', 50, 3, stride=2)], None)
    net.conv('fine', [net.term('stem', 50, 3)], None)
    net.add(ops.Resize('up', 'coarse', like='fine'))
    net.add(ops.Add('sum', ('up', 'fine')))
    net.add(ops.ArgMax('labels', 'sum'))
    stem, coarse, fine = (4 * c * side * side for c, side in ((2, 8), (50, 4), (50, 8)))
    assert memory.float32_peak(net.graph(), 8, 8) == stem + coarse + fine


def test_a_resize_that_is_read_twice_is_stored_by_hand():
    net = Builder(0, (8, 8))
    net.image_codes('pixels', zero_point=120)
    net.conv('coarse', [net.term('pixels', 50, 3, stride=2)], None)
    net.conv('fine', [net.term('pixels', 50, 3)], None)
    net.add(ops.Resize('up', 'coarse', like='fine'))
    net.add(ops.Add('sum', ('up', 'fine')))
    net.add(ops.Add('twice', ('up', 'sum')))
    coarse, fine = 4 * 50 * 4 * 4, 4 * 50 * 8 * 8
    assert memory.float32_peak(net.graph(), 8, 8) == max(coarse + 2 * fine, 12 * 64 + coarse + fine)


def test_a_process_knows_the_most_that_it_held():
    """In a process of its own: what others free meanwhile would be counted, too."""
    program = """
import numpy as np
import _bfcn_command
from bfcn_mm.benchmark import memory
memory.reset_peak()
before, _ = memory.resident()
block = np.ones(40_000_000, np.uint8)
held, most = memory.resident()
del block
print(before, held, most, memory.resident()[1])
"""
    env = environment()
    done = subprocess.run(
        [sys.executable, '-c', program], env=env, capture_output=True, text=True, check=True
    )
    before, held, most, later = map(int, done.stdout.split())
    assert held > before + 30_000_000
    assert min(most, later) > held - 1_000_000  # the kernel counts in batches


def test_other_columns_are_not_mixed(tmp_path):
    path = tmp_path / 'a.csv'
    report.append(path, [dict(a=1, b=2)], ['a', 'b'])
    report.append(path, [dict(a=3, b=4)], ['a', 'b'])
    assert [row['b'] for row in read_csv(path)] == ['2', '4']
    with pytest.raises(ValueError, match='has other columns'):
        report.append(path, [dict(a=3, c=4)], ['a', 'c'])


def row(**values):
    base = dict.fromkeys(report.HEADER, '')
    base |= dict(
        time='2026-01-01', network='bfcn_r50_x', weights='random', height='160', width='256'
    )
    base |= dict(threads='1', isa='avx512', isa_used='avx512', rounds='15')
    base |= dict(median_ms='10', q1_ms='9', q3_ms='12', min_ms='8', device='CPU', cores='2')
    return base | values


FAST = dict(over_float32='11.5', over_float32_q1='11', over_float32_q3='12')
FAST |= dict(over_int8='3.4', over_int8_q1='3', over_int8_q3='3.5')
ROWS = [
    row(contender='bfcn', precision='1-2', activation_bytes='500000', process_bytes='9', **FAST),
    row(contender='torch', precision='float32', median_ms='115', activation_bytes='5000000'),
    row(contender='bfcn', precision='1-2', threads='2', median_ms='6', **FAST),
]


def test_tables_hold_results_and_targets_side_by_side():
    assert '| 11.5 (11.0 .. 12.0) | 12 | 3.4 (3.0 .. 3.5) | 3.2 |' in markdown.speed('avx512')(
        ROWS, []
    )
    assert '160x256, 1 core, avx512 | 11.5 / 3.4 |' in markdown.sizes(ROWS, [])
    assert 'bfcn 1-2 1.67' in markdown.second_core(ROWS, [])
    assert '| bfcn 1-2 | 0.50 | 10.0 | 12 |' in markdown.memory(ROWS, [])
    missed = markdown.missed(ROWS, [])
    assert (
        '| 160x256, 1 core, avx512 | bfcn 1-2 | over the best float32 peer | 11.50 | 12 |' in missed
    )
    assert '| bfcn 1-2 | float32 maps over ours | 10.0 | 12 |' in missed
    assert '| 160x256, avx512 | bfcn 1-2 | two cores over one | 1.67 | 1.8 |' in missed
    assert 'int8' not in missed
    assert markdown.speed('avx2')(ROWS, []) == markdown.NOTHING
    later = [row(contender='bfcn', precision='1-1', time='2026-01-02')]
    assert next(iter(report.grouped(ROWS + later).values())) == later


def test_tables_are_written_between_their_markers():
    text = 'a\n<!-- table sizes -->\nold\n<!-- end -->\nb\n'
    once = markdown.filled(text, ROWS, [])
    assert 'old' not in once
    assert once.startswith('a\n<!-- table sizes -->\n|')
    assert once.endswith('<!-- end -->\nb\n')
    assert markdown.filled(once, ROWS, []) == once
    for bad in ('<!-- table sizes -->\n', '<!-- table other -->\n<!-- end -->'):
        with pytest.raises(ValueError, match='names no table or is not closed'):
            markdown.filled(bad, ROWS, [])


def test_the_pages_say_what_the_csvs_say(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['performance.py', '--check'])
    with pytest.raises(SystemExit) as error:
        performance.main()
    assert error.value.code == 0
    text = ''.join(page.read_text() for page in performance.PAGES)
    for name in markdown.TABLES:
        assert f'<!-- table {name} -->' in text


@pytest.mark.skipif('avx2' not in VECTOR, reason='this CPU has no AVX2')
def test_kernels_are_verified_and_measured(tmp_path, monkeypatch, capsys):
    table = tmp_path / 'kernels.csv'
    kernels = ('int2_gemm_16x32s16__amx', 'bits_gemm_a1_8x16__avx512', 'lut4_gemm_a2_4x64__avx2')
    (kernel,) = (name for name in kernels if name.endswith(f'__{VECTOR[0]}'))
    monkeypatch.setattr(sys, 'argv', ['rates.py', '--only', kernel, '--csv', str(table)])
    kernel_bench.main()
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row['kernel'] for row in rows} == {kernel}
    assert {kernel_bench.bits_of(row) for row in rows} >= {'1-1', '1-2', '2-2'}
    macs = dict.fromkeys(('1-1', '1-2'), 0)
    for row in rows:
        if (bits := kernel_bench.bits_of(row)) in macs:
            macs[bits] += int(row['count']) * int(row['macs'])
    assert macs['1-1'] == macs['1-2'] == 6_496_097_280  # of the network's low-bit layers
    for row in rows:
        assert float(row['gmac_per_s']) == pytest.approx(
            1e-9 * int(row['macs']) / float(row['seconds_min']), rel=0.01
        )
        assert float(row['share']) > 0
    assert f'{VECTOR[0]}: all low-bit layers' in capsys.readouterr().out


def test_no_kernel_of_that_name(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['rates.py', '--only', 'nonsense'])
    with pytest.raises(SystemExit, match='--only nonsense: no kernel'):
        kernel_bench.main()


def test_the_worker_needs_no_torch_for_ours(config, tmp_path):
    """Memory is measured in a process that holds one library."""
    from mmengine.config import Config

    from bfcn_mm.benchmark import network

    net = network.from_config(Config.fromfile(config), [], tmp_path)
    reference = tmp_path / 'reference.npz'
    np.savez(reference, image=np.zeros((32, 48, 3), np.uint8))
    entry = dict(name='bfcn', precision='1-2', file=str(net.packed['1-2']))
    plan = dict(task='memory', entries=[entry], threads=1, isa=VECTOR[0], reference=str(reference))
    plan |= dict(cores=[report.cpus()[-1]], rounds=3)
    code = (
        'import runpy, sys\n'
        f'sys.argv = ["worker.py", {str(tmp_path / "plan.json")!r}, {str(tmp_path / "out.json")!r}]\n'
        f'runpy.run_path({str(Path(worker.__file__))!r}, run_name="__main__")\n'
        'assert not {"torch", "mmseg", "onnxruntime", "openvino"} & set(sys.modules)\n'
    )
    (tmp_path / 'plan.json').write_text(json.dumps(plan))
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    stdin, ours = os.pipe()
    command = [sys.executable, '-S', '-c', _WITH_SITE + code]
    done = subprocess.run(command, env=environment, stdin=stdin)
    os.close(stdin), os.close(ours)
    assert done.returncode == 0
    assert json.loads((tmp_path / 'out.json').read_text())['process'] > 0


@pytest.mark.parametrize('by', [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_with_its_parent(tmp_path, by):
    children = Path('/proc/self/task')
    if not children.exists():
        pytest.skip('this system has no /proc')
    net = Builder(0, (8, 8))
    net.image_codes('pixels')
    net.conv('scores', [net.term('pixels', 5, 3)], None)
    net.add(ops.ArgMax('labels', 'scores'))
    write(tmp_path / 'net.gguf', Model(net.graph(), Metadata('net')))
    np.savez(tmp_path / 'reference.npz', image=np.zeros((32, 48, 3), np.uint8))
    entry = dict(name='bfcn', precision='1-1', file=str(tmp_path / 'net.gguf'))
    plan = dict(task='time', entries=[entry], threads=1, isa=VECTOR[0], rounds=10**9)
    plan |= dict(cores=[report.cpus()[-1]], reference=str(tmp_path / 'reference.npz'))
    code = 'import _bfcn_command; from bfcn_mm.benchmark import process; '
    code += 'from bfcn_mm.cli import benchmark; benchmark.end_cleanly(); '
    code += f'process.measure({plan})'
    env = environment() | dict(TMPDIR=str(tmp_path))
    with subprocess.Popen([sys.executable, '-c', code], env=env) as parent:
        child = _until(lambda: _children(parent.pid), parent)[0]
        _until(lambda: b'worker.py' in Path(f'/proc/{child}/cmdline').read_bytes(), parent)
        parent.send_signal(by)
        parent.wait()
    _until(lambda: not Path(f'/proc/{child}').exists() or _is_zombie(child))
    assert by == signal.SIGKILL or not list(tmp_path.glob('bfcn-plan-*'))


def _children(pid):
    return Path(f'/proc/{pid}/task/{pid}/children').read_text().split()


def _is_zombie(pid):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'


def _until(holds, process=None, seconds=60):
    """What holds() returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.05)
    return found


# site-packages without its .pth files, which import hooks of other packages
_WITH_SITE = f'import sys; sys.path.append({str(Path(np.__file__).parents[1])!r})\n'
