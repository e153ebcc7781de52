"""A ResNet-18 FCN of 8 channels on a few procedural street scenes of 64x96."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZE = (64, 64)


def tiny_model(**changes: Any) -> dict:
    """The model dict of a two-headed FCN; changes replace top-level keys."""
    head = dict(
        type='FCNHead',
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=9,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[120.0] * 3,
            std=[60.0] * 3,
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=SIZE,
        ),
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            stem_channels=8,
            base_channels=8,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=head | dict(in_channels=64, in_index=3),
        auxiliary_head=head | dict(in_channels=32, in_index=2),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    return model | changes


def tiny_config(folder: Path, iters: int = 6, workers: int = 0, **changes: Any) -> dict:
    """A whole config as a dict of plain values; changes replace top-level keys.

    The data are drawn into folder/streets by the first run. Augmentation and dropout are random.
    """
    dataset = dict(
        type='StreetsDataset', data_root=str(folder / 'streets'), num_images=6, size=(64, 96)
    )
    read = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    augment = [
        dict(type='RandomCrop', crop_size=SIZE),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
    ]
    pack = [dict(type='PackSegInputs')]
    evaluation = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset | dict(split='val', num_images=2, pipeline=read + pack),
    )
    config = dict(
        default_scope='mmseg',
        custom_imports=dict(imports=['bfcn_mm'], allow_failed_imports=False),
        model=tiny_model(),
        train_dataloader=dict(
            batch_size=2,
            num_workers=workers,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dataset | dict(split='train', pipeline=read + augment + pack),
        ),
        val_dataloader=evaluation,
        test_dataloader=evaluation,
        test_pipeline=read[:1] + pack,
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)),
        param_scheduler=[dict(type='PolyLR', power=0.9, end=iters, by_epoch=False)],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=iters),
        ),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        visualizer=dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        work_dir=str(folder / 'work'),
    )
    return config | changes


def write_config(path: Path, config: dict) -> Path:
    """Write the dict as a config file, key by key, as a user would."""
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in config.items()) + '\n')
    return path
