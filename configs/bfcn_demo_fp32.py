# The float network of the demo: a quarter of ResNet-18's width, a minute on two CPU cores.
_base_ = [
    './_base_/models/bfcn_tiny.py',
    './_base_/datasets/streets.py',
    './_base_/schedules/streets.py',
    './_base_/default_runtime.py',
]
crop_size = (128, 192)
data_root = 'demo_out/streets'
norm_cfg = dict(type='BN', requires_grad=True, momentum=0.05)  # steady statistics at batch 4
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(stem_channels=16, base_channels=16, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[16, 32, 64, 128],
        channels=[32, 32, 32, 48],
        level_weights=[1.0, 0.3, 0.2, 0.2],
        num_classes=9,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, num_images=40),
)
test_dataloader = val_dataloader
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.005, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=20, end=640, by_epoch=False),
]
train_cfg = dict(max_iters=640, val_interval=640)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=640, save_best=None, max_keep_ckpts=1),
)
custom_hooks = [dict(type='ClassWeightHook')]
