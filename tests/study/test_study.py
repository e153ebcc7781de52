"""tools/study.py from end to end on a tiny network, and into the zoo."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TOOLS, command, environment, run_here, run_script
from helpers.program import ROOT
from mmengine.config import Config

import bfcn_kernels
from bfcn_mm.datasets import CamVidDataset
from lab.study import Ledger, Row, camvid, select
from lab.study.carry_out import Place, make_jobs
from lab.study.measure import evaluate
from lab.study.publish import publish
from lab.study.runs import model_name

CLASSES = CamVidDataset.METAINFO['classes']


def words(folder, data, *more):
    fixed = ['camvid', '--scale', 'tiny', '--data', data, '--work', folder / 'work']
    return [*fixed, '--csv', folder / 'x.csv', *more]


@pytest.fixture(scope='module')
def done(camvid_like, tmp_path_factory):
    """(folder, what was said) of a study of w1a2 and what it starts from."""
    folder = tmp_path_factory.mktemp('study')
    result = run_script(
        TOOLS / 'study.py', *words(folder, camvid_like, '--run', 'w1a2'), cwd=folder
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


@pytest.mark.slow
def test_every_run_is_trained_packed_measured_and_written_down(done):
    folder, said = done
    rows = {row.run: row for row in Ledger(folder / 'x.csv', CLASSES).read()}
    assert list(rows) == ['float', 'w1a2']
    low = rows['w1a2']
    assert (low.w, low.a, low.iters, low.total_iters, low.start) == (1, 2, 16, 32, 'float')
    assert (rows['float'].w, rows['float'].miou_packed) == (32, None)
    assert 0 < low.miou_packed <= 100
    assert abs(low.miou - low.miou_packed) < 1
    assert low.miou == pytest.approx(sum(low.iou.values()) / len(CLASSES), abs=1e-3)
    assert low.bytes == next(folder.glob('work/tiny/w1a2-*/model.gguf')).stat().st_size
    assert low.bitops > 0 == rows['float'].bitops
    assert 0 < low.head_macs < low.macs
    assert '2 of 2 runs done' in said


@pytest.mark.slow
def test_another_run_of_the_same_command_does_nothing(done, camvid_like):
    folder, _ = done
    before = (folder / 'x.csv').read_bytes()
    line = words(folder, camvid_like, '--run', 'w1a2')
    result = run_here(TOOLS / 'study.py', *line, cwd=folder)
    assert result.returncode == 0
    assert '2 of 2 runs are done already' in result.stdout
    assert (folder / 'x.csv').read_bytes() == before
    listed = run_here(TOOLS / 'study.py', *line, '--list', cwd=folder).stdout
    assert 'float > w1a2' in listed
    dry = run_here(TOOLS / 'study.py', *line, '--dry-run', cwd=folder).stdout
    assert dry.count('done') == 2


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again_end_as_if_nothing_had_been(done, camvid_like, tmp_path):
    line = command(TOOLS / 'study.py', *words(tmp_path, camvid_like, '--run', 'float'))
    process = subprocess.Popen(
        line,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not any('Iter(train) [ 4/16]' in p.read_text() for p in tmp_path.rglob('study.log')):
        assert process.poll() is None, process.stdout.read()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert 'Stopped. The same command goes on from here.' in said
    assert not (tmp_path / 'x.csv').exists()
    log = next(tmp_path.rglob('study.log'))
    assert 'interrupted: wrote a checkpoint' in log.read_text()
    again = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert 'resumed epoch' in log.read_text()
    whole, resumed = (
        torch.load(next(folder.glob('work/tiny/float-*/iter_16.pth')), weights_only=False)
        for folder in (done[0], tmp_path)
    )
    for name, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][name]), name


BAD = {
    'table': (['--table', '9'], 'table must be one of 1, 2, 3'),
    'run': (['--run', 'w7a7'], "no run 'w7a7' at this scale: there are float"),
    'data': (
        ['--data', 'nowhere'],
        'nowhere: the train data of CamVidDataset is missing: put CamVid',
    ),
    'publish': (['--publish', 'w1a1'], 'w1a1, seed 0 has no row in'),
    'float': (['--publish', 'fp32'], 'fp32 is a float network: the zoo holds packed models'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_ends_in_one_line(tmp_path, camvid_like, case):
    more, said = BAD[case]
    result = run_here(TOOLS / 'study.py', *words(tmp_path, camvid_like, *more), cwd=tmp_path)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert said in result.stderr.strip().splitlines()[-1]


@pytest.fixture
def published(done, tmp_path, monkeypatch):
    """(job, row, zoo) of the tiny network, passed off as one of half scale."""
    runs = camvid('half')
    place = Place(ROOT, tmp_path / 'work', 'data/camvid', 'half')
    job = make_jobs(runs, select(runs, (), ['w1a2']), [0], place)[-1]
    shutil.copytree(next(done[0].glob('work/tiny/w1a2-*')), job.folder)
    given = next(row for row in Ledger(done[0] / 'x.csv', CLASSES).read() if row.run == 'w1a2')
    row = Row(**(vars(given) | dict(scale='half', hash=job.hash)))
    ledger = Ledger(tmp_path / 'half.csv', CLASSES)
    ledger.append(row)
    publish(job, ledger, tmp_path, tmp_path / 'zoo')
    monkeypatch.setenv('BFCN_ZOO', str(tmp_path / 'zoo'))
    return job, row, tmp_path / 'zoo'


@pytest.mark.slow
def test_a_published_model_loads_by_name_and_keeps_its_score(published, camvid_like):
    _, row, zoo = published
    name = 'bfcn_r18_camvid_1w2a_half'
    metadata = bfcn_kernels.load(name).model.metadata
    assert (metadata.name, metadata.classes) == (name, CLASSES)
    folder = zoo / name
    assert sorted(p.name for p in folder.iterdir()) == [
        'config.py', 'metafile.yml', 'model.gguf', 'train.log',
    ]  # fmt: skip
    cfg = Config.fromfile(folder / 'config.py')
    assert cfg.test_dataloader.dataset.data_root == 'data/camvid'
    cfg.test_dataloader.dataset.data_root = str(camvid_like)
    assert abs(evaluate(cfg, str(folder / 'model.gguf'))[0]['miou'] - stated(folder)) < 0.01
    assert stated(folder) == pytest.approx(row.miou_packed, abs=1e-4)
    index = yaml.safe_load((zoo.parent / 'model-index.yml').read_text())
    assert index == dict(Import=[f'zoo/{name}/metafile.yml'])


@pytest.mark.slow
def test_nothing_of_the_machine_is_published(published):
    job, _, zoo = published
    for path in zoo.rglob('*.*'):
        text = path.read_text(errors='replace')
        for folder in (job.folder.parents[2], job.folder, ROOT):
            assert str(folder) not in text, path.name
        assert 'Iter(train)' in text or path.suffix != '.log'


def test_names_of_the_zoo():
    def name(scale, run):
        return model_name(camvid(scale)[run], scale)

    assert name('full', 'w1a2') == 'bfcn_r18_camvid_1w2a'
    assert name('full', 'w1a2_ema') == 'bfcn_r18_camvid_1w2a_ema'
    assert name('full', 'r50_w1a2') == 'bfcn_r50_camvid_1w2a'
    assert name('half', 'w1a1') == 'bfcn_r18_camvid_1w1a_half'


def stated(folder: Path) -> float:
    meta = yaml.safe_load((folder / 'metafile.yml').read_text())
    return meta['Models'][0]['Results'][0]['Metrics']['mIoU']


ZOO = sorted(path.parent for path in (ROOT / 'zoo').glob('*/model.gguf'))


@pytest.mark.slow
@pytest.mark.skipif(not ZOO, reason='the zoo holds no model yet')
@pytest.mark.skipif(not (ROOT / 'data/camvid').exists(), reason='needs CamVid in data/camvid')
@pytest.mark.parametrize('folder', ZOO, ids=lambda path: path.name)
def test_a_model_of_the_zoo_keeps_its_score_on_camvid(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    packed = shutil.copy(folder / 'model.gguf', tmp_path)  # mmengine writes beside it
    measured, _ = evaluate(Config.fromfile(folder / 'config.py'), packed)
    assert abs(measured['miou'] - stated(folder)) < 0.01


def test_the_index_names_every_model_of_the_zoo():
    index = ROOT / 'model-index.yml'
    listed = yaml.safe_load(index.read_text())['Import'] if index.exists() else []
    assert sorted(listed) == [f'zoo/{path.name}/metafile.yml' for path in ZOO]
    sizes = [(path / 'model.gguf').stat().st_size for path in ZOO]
    assert max(sizes, default=0) <= 5_000_000
    assert sum(sizes) <= 25_000_000


def test_help_is_there(tmp_path):
    for tool in ('study.py', 'results.py'):
        assert 'usage' in run_here(TOOLS / tool, '--help', cwd=tmp_path).stdout
