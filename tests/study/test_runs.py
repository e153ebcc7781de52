"""The list of runs: what is compared has trained equally long, and names lead somewhere."""

import pytest
from helpers.program import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from bfcn_mm.convert import QuantSpec
from lab.study import SCALES, TABLES, camvid, chain, select
from lab.study.carry_out import Place, _config, make_jobs
from lab.study.page import STEPS, TABLE_1, TABLE_2, TABLE_3, TABLE_5, TABLE_6, TARGETS


def place(tmp_path, scale):
    return Place(ROOT, tmp_path, 'data/camvid', scale)


@pytest.mark.parametrize('scale', SCALES)
def test_whatever_a_table_compares_has_trained_as_long_as_the_float_network(scale):
    runs = camvid(scale)
    whole = sum(run.iters for run in chain(runs, 'fp32'))
    assert whole == 2 * SCALES[scale].iters
    for run in runs.values():
        if run.tables:
            assert sum(part.iters for part in chain(runs, run.name)) == whole, run.name


@pytest.mark.parametrize('scale', SCALES)
def test_every_row_of_the_page_is_a_run_of_its_table(scale):
    runs = camvid(scale)
    tables = {'1': TABLE_1, '2': TABLE_2, '3': TABLE_3, '5': TABLE_5, '6': TABLE_6, 'recipe': STEPS}
    for table, names in tables.items():
        assert set(names) <= {r.name for r in runs.values() if table in r.tables}, table
    assert set(TARGETS) <= set(TABLE_5)
    assert set(STEPS) == {r.name for r in runs.values() if 'recipe' in r.tables}


@pytest.mark.parametrize('scale', SCALES)
def test_every_run_has_a_valid_config_and_its_stages_fit(scale, tmp_path):
    for run in camvid(scale).values():
        cfg = _config(run, place(tmp_path, scale))
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == run.iters
        assert run.packed == ('quant' in cfg.model)
        assert [h['type'] for h in cfg.custom_hooks].count('ExactResumeHook') == 1
        if run.packed and (spec := QuantSpec.parse(cfg.model.quant)).decay:
            begins = spec.decay.begins(len(spec.caps()))
            assert begins[-1] <= run.iters // 2, run.name
        Config.fromstring(cfg.pretty_text, '.py')


def test_a_teacher_is_trained_first():
    runs = camvid('half')
    names = [run.name for run in select(runs, (), ['w1a2_distill'])]
    assert names == ['float', 'fp32', 'w1a2_distill']


def test_runs_that_tables_share_are_there_once():
    runs = camvid('half')
    names = [run.name for run in select(runs, TABLES, ())]
    assert len(names) == len(set(names)) == len(runs)
    for run in runs.values():
        assert all(names.index(other) < names.index(run.name) for other in run.needs)


def test_the_hash_follows_the_config_and_its_ancestors_but_not_the_seed(tmp_path, monkeypatch):
    def hashes(seed=0):
        runs = camvid('tiny')
        jobs = make_jobs(
            runs, select(runs, (), ['w2a2_via8', 'w1a2']), [seed], place(tmp_path, 'tiny')
        )
        return {job.run.name: job.hash for job in jobs}

    first = hashes()
    assert first == hashes(1)
    assert len(set(first.values())) == len(first)
    scale = SCALES['tiny']
    changed = type(scale)(
        scale.config, scale.iters, dict(scale.options) | {'optim_wrapper.optimizer.lr': 1.0}
    )
    monkeypatch.setitem(SCALES, 'tiny', changed)
    assert not set(first.values()) & set(hashes().values())


def test_unknown_names_are_told_with_those_there_are():
    with pytest.raises(ValueError, match=r"table must be one of 1, 2, .*recipe, got '9'"):
        select(camvid('half'), ['9'], [])
    with pytest.raises(ValueError, match=r"no run 'w7a7' at this scale: there are float, fp32"):
        select(camvid('half'), [], ['w7a7'])
    with pytest.raises(ValueError, match=r"scale must be one of full, half, tiny, got 'huge'"):
        camvid('huge')


def test_half_scale_is_half_of_the_network(tmp_path):
    init_default_scope('mmseg')
    runs = camvid('half')
    model = MODELS.build(_config(runs['float'], place(tmp_path, 'half')).model)
    assert model.backbone.conv1.out_channels == 32
    assert sum(p.numel() for p in model.parameters()) < 4e6
