"""The config in a packed file is data: what is written, what a network is built from, what is refused."""

import json

import pytest
import torch
from helpers import tiny_model
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS

import bfcn_mm  # noqa: F401
from bfcn_mm.export.train_config import build_float, from_json, to_json


def config(**more):
    model = tiny_model()
    model.pop('auxiliary_head')
    return Config(dict(default_scope='mmseg', model=model, quant=dict(w=1, a=2), **more))


def changed(**changes):
    """The config of a file in which keys of the backbone were changed or added."""
    values = json.loads(to_json(config()))
    values['model']['backbone'].update(changes)
    return from_json(json.dumps(values))


def test_it_comes_back_as_the_resolved_config():
    again = from_json(to_json(config(train_cfg=dict(max_iters=7), nothing=None)))
    assert again.model.quant == dict(w=1, a=2)
    assert (again.train_cfg.max_iters, again.nothing) == (7, None)
    net = build_float(again, 10**8)
    twin = config()
    twin.quant = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        own = MODELS.build(twin.model)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in own.state_dict().items()
    }
    assert not net.training


def test_nothing_of_this_machine_is_written():
    text = to_json(
        config(
            work_dir='/home/me/work',
            load_from='/home/me/a.pth',
            custom_imports=dict(imports=['mine']),
            data_root='/home/me/data/cityscapes',
            windows='C:\\Users\\me\\data',
            home='~/data/camvid',
            inside=dict(paths=['data/camvid', '/mnt/x/list.txt']),
            address='https://me:secret@example.org/a.pth',
            most=float('inf'),
        )
    )
    values = json.loads(text)
    assert not {'work_dir', 'load_from', 'custom_imports'} & values.keys()
    assert (values['data_root'], values['windows'], values['home']) == (
        'cityscapes', 'data', 'camvid',
    )  # fmt: skip
    assert values['inside']['paths'] == ['data/camvid', 'list.txt']
    assert values['address'] == 'https://example.org/a.pth'
    assert values['most'] == 'inf'
    assert '/home' not in text
    assert 'secret' not in text


def test_classes_are_written_by_their_import_path():
    own = config()
    own.model.backbone.type = ResNet
    again = from_json(to_json(own))
    assert again.model.backbone.type == 'mmseg.models.backbones.resnet.ResNet'
    assert isinstance(build_float(again, 10**8).backbone, ResNet)


def test_a_function_has_no_place_in_a_file():
    with pytest.raises(TypeError, match=r'config\.collate\.f is <built-in function print>'):
        to_json(config(collate=dict(f=print)))


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ("__import__('os').system('touch pwned')", 'not JSON.*give the config itself'),
        ('model = dict(type="EncoderDecoder")', 'not JSON'),
        ('[' * 100_000, 'not JSON'),
        ('[]', "must be a JSON object with an object 'model'"),
        ('{"model": 3}', "must be a JSON object with an object 'model'"),
        ('{"model": {}, "filename": "/etc/passwd"}', 'is no config'),
        ('{"x": "' + 'y' * 2**20 + '"}', r'has 1,048,\d+ characters, at most 1,048,576'),
    ],
)
def test_text_that_is_no_config_is_refused(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        from_json(text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(type='os.system', command='touch pwned'), "model.backbone.type .* 'os.system'"),
        (dict(type='subprocess.Popen', args='x'), 'not registered here'),
        (dict(type='antigravity.Net'), 'not registered here'),
        (dict(type='mmseg.NoSuchNet'), 'not registered here'),
        (dict(_scope_='antigravity'), "_scope_ .* 'antigravity', which is not imported here"),
        (dict(type=['ResNet']), 'not registered here'),
        (dict(plugins=[dict(cfg=dict(type='os.system'))]), r'plugins\[0\].cfg.type'),
        (dict(checkpoint='weights.pth'), 'must name no other file'),
        (dict(checkpoint='http://example.org/x'), 'must name no other file'),
        (dict(checkpoint='../../x'), 'must name no other file'),
        (dict(base_channels=2**24), 'more than 1,000,000 parameters'),
        (dict(base_channels=2**25), 'must be at most 16777216, got 33554432'),
        (dict(stem_channels=float('inf')), 'must be at most'),
    ],
)
def test_a_network_that_runs_loads_or_fills_the_memory_is_not_built(
    changes, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        build_float(changed(**changes), 10**6)
    assert not list(tmp_path.iterdir())


def test_an_endless_network_is_not_built():
    file = from_json(to_json(config()))
    file.model.decode_head.num_convs = 2**24
    with pytest.raises(ValueError, match='more than 20,000 modules'):
        build_float(file, 10**12)


def test_what_a_file_imports_is_not_imported(monkeypatch, tmp_path):
    (tmp_path / 'brings_harm.py').write_text("open('pwned', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    values = json.loads(to_json(config()))
    values['custom_imports'] = dict(imports=['brings_harm'], allow_failed_imports=False)
    build_float(from_json(json.dumps(values)), 10**8)
    with pytest.raises(ValueError, match=r"default_scope .* 'brings_harm', which is not imported"):
        build_float(from_json(json.dumps(values | dict(default_scope='brings_harm'))), 10**8)
    assert not (tmp_path / 'pwned').exists()


def test_weights_are_not_loaded(monkeypatch):
    def load(*_, **__):
        raise AssertionError('a file is loaded')

    monkeypatch.setattr(torch, 'load', load)
    harmful = dict(type='Pretrained', checkpoint='x.pth')
    file = changed(init_cfg=harmful, pretrained=None)
    file.model.decode_head.init_cfg = harmful
    build_float(file, 10**8).init_weights()
