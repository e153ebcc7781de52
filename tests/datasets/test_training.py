"""The data sets and hooks in mmengine's own runner, on a few tiny scenes."""

import logging

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

import bfcn_mm  # noqa: F401

HEAD = dict(
    type='FCNHead',
    in_channels=64,
    in_index=3,
    channels=8,
    num_convs=1,
    num_classes=9,
    norm_cfg=dict(type='BN'),
    loss_decode=dict(type='CrossEntropyLoss'),
)


def make_config(tmp_path, **hooks):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(
        type='StreetsDataset',
        data_root=str(tmp_path / 'streets'),
        num_images=6,
        size=(64, 96),
        pipeline=pipeline,
    )
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 96)),
                backbone=dict(
                    type='ResNetV1c', depth=18, base_channels=8, norm_cfg=dict(type='BN')
                ),
                decode_head=HEAD,
                test_cfg=dict(mode='whole'),
            ),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dataset,
            ),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
                dataset_check=dict(type='DatasetCheckHook'),
            ),
            custom_hooks=[dict(type='ClassWeightHook')],
            randomness=dict(seed=0),
            work_dir=str(tmp_path / 'work'),
            experiment_name=tmp_path.name,
            log_processor=dict(by_epoch=False),
            **hooks,
        )
    )


def weights_after_training(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.model.decode_head.loss_decode.class_weight


@pytest.fixture
def quiet_logs():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def test_weights_reach_the_loss_and_survive_a_resume(tmp_path, quiet_logs):
    cfg = make_config(tmp_path)
    first = weights_after_training(cfg)
    assert len(first) == 9
    assert 1 < min(first) < max(first) < 3
    cfg.merge_from_dict({'train_cfg.max_iters': 2, 'resume': True, 'experiment_name': 'resumed'})
    cfg.train_dataloader.dataset.seed = 1
    assert weights_after_training(cfg) == first


def test_the_check_stops_a_run_before_its_first_iteration(tmp_path, quiet_logs):
    cfg = make_config(tmp_path)
    cfg.model.decode_head.num_classes = 8
    with pytest.raises(ValueError, match=r'num_classes must be 9'):
        Runner.from_cfg(cfg).train()
    assert not list((tmp_path / 'work').glob('*.pth'))
