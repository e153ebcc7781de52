"""Who is trained when: in order, once, and the rest when one fails."""

import pytest
from helpers.program import ROOT

from lab.study import Ledger, Row, camvid, select
from lab.study import carry_out as module
from lab.study.carry_out import Place, carry_out, make_jobs
from lab.study.ledger import COLLAPSED, locked
from lab.study.progress import Progress, clock


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function (names, fails=(), seeds=1) -> (failures, runs tried); trains nothing."""
    place = Place(ROOT, tmp_path / 'work', 'data/camvid', 'tiny')
    ledger = Ledger(tmp_path / 'x.csv', ('sky',))
    runs = camvid('tiny')

    def go(names, fails=(), seeds=1, held=()):
        tried = []

        def one(job, needs, ledger, place, child):
            assert all(other.trained for other in needs)
            tried.append(job.run.name)
            if job.run.name in fails:
                return 'the reason'
            job.checkpoint.touch()
            (job.folder / 'last_checkpoint').write_text(f'/elsewhere/{job.checkpoint.name}')
            ledger.append(Row(job.run.name, job.seed, 'tiny', job.hash, miou=1.0))
            return ''

        monkeypatch.setattr(module, '_carry_out_one', one)
        jobs = make_jobs(runs, select(runs, (), names), range(seeds), place)
        return carry_out(jobs, ledger, place, Progress()), tried

    go.ledger, go.place = ledger, place
    return go


def test_what_is_needed_comes_first_and_nothing_twice(study):
    assert study(['w2a2_via8', 'w1a2']) == ([], ['float', 'w8a8_mid', 'w2a2_via8', 'w1a2'])
    assert study(['w2a2_via8', 'w1a2']) == ([], [])
    assert study(['w1a2', 'w1a1']) == ([], ['w1a1'])
    assert study(['w1a2'], seeds=2) == ([], ['float', 'w1a2'])


def test_a_failure_takes_along_only_what_needs_it(study):
    failed, tried = study(['w2a2_via8', 'w1a2'], fails=['w8a8_mid'])
    assert tried == ['float', 'w8a8_mid', 'w1a2']
    assert failed == [
        'w8a8_mid, seed 0: the reason',
        'w2a2_via8, seed 0: not tried, it needs w8a8_mid, seed 0',
    ]
    assert study(['w2a2_via8', 'w1a2']) == ([], ['w8a8_mid', 'w2a2_via8'])


def test_weights_that_went_are_trained_again_only_if_needed(study):
    study(['w1a2'])
    for path in study.place.work.rglob('*.pth'):
        path.unlink()
    assert study(['w1a2']) == ([], [])
    assert study(['w1a1']) == ([], ['float', 'w1a1'])
    assert len(study.ledger.read()) == 3


def test_weights_that_were_not_written_to_their_end_do_not_count(study):
    runs = camvid('tiny')
    study(['float'])
    job = make_jobs(runs, select(runs, (), ['float']), [0], study.place)[0]
    assert job.trained
    (job.folder / 'last_checkpoint').write_text('iter_15.pth')
    assert not job.trained


def test_a_run_that_collapsed_is_not_tried_again(study):
    runs = camvid('tiny')
    study(['float'])
    job = make_jobs(runs, select(runs, (), ['w4a1']), [0], study.place)[-1]
    study.ledger.append(Row('w4a1', 0, 'tiny', job.hash, status=COLLAPSED))
    assert study(['w4a1']) == ([], [])


def test_a_run_in_other_hands_is_left_to_them(study, monkeypatch):
    runs = camvid('tiny')
    study(['float'])
    job = make_jobs(runs, select(runs, (), ['w1a2']), [0], study.place)[-1]
    lock = locked(job.folder / '.lock')
    lock.__enter__()
    waits = []

    def wait(_):
        waits.append(1)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(module.time, 'sleep', wait)
    assert study(['w1a2', 'w1a1']) == ([], ['w1a1', 'w1a2'])
    assert len(waits) == 1


def test_time_left_in_hours_and_minutes():
    assert [clock(s) for s in (5, 65, 3600, 7325)] == ['<0:01', '0:01', '1:00', '2:02']
