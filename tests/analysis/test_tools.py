import csv
import json

from helpers import TOOLS, run_here, run_script, tiny_model, write_config


def write(folder, **keys):
    return write_config(folder / 'net.py', dict(default_scope='mmseg', model=tiny_model()) | keys)


def test_complexity_prints_the_sum_of_the_layers_it_writes(tmp_path):
    path = write(tmp_path, quant=dict(w=1, a=2))
    table = tmp_path / 'layers.csv'
    options = (path, '--shape', 64, 96, '--csv', table, '--sort', 'macs', '--json')
    done = run_here(TOOLS / 'complexity.py', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout[done.stdout.index('{') :])  # the fork prints a line at import
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row['macs']) for row in rows) == cost['macs'] > 0
    assert sum(int(row['bitops']) for row in rows) == cost['bitops'] > 0
    macs = [int(row['macs']) for row in rows]
    assert macs == sorted(macs, reverse=True)
    assert cost['shape'] == [1, 3, 64, 96]


def test_benchmark_train_compares_both_networks(tmp_path):
    path = write(tmp_path, quant=dict(w=1, a=2))
    table = tmp_path / 'train.csv'
    options = ('--size', 64, 64, '--batch', 2, '--steps', 2, '--threads', 1, '--csv', table)
    for _ in range(2):
        done = run_script(TOOLS / 'benchmark.py', 'train', '--config', path, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row[k]) > 0 for row in rows for k in ('float_ms', 'quantized_ms', 'ratio'))
    assert rows[0]['threads'] == '1'


def test_benchmark_refuses_a_float_config(tmp_path):
    done = run_here(TOOLS / 'benchmark.py', 'train', '--config', write(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert 'has no quant' in done.stderr.splitlines()[-1]
