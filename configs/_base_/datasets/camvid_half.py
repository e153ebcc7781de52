# CamVid at half its size: images of 240x180. Reading a batch takes a twentieth of a training step on one
# core, so it needs no worker and no cache.
_base_ = './camvid.py'
crop_size = (180, 240)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(240, 180)),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', size=crop_size[::-1]),  # (width, height)
    dict(type='PackSegInputs'),
]
test_pipeline = [  # labels keep their size: scores are resized to it
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180)),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_scales = [(120, 90), (180, 135), (240, 180), (300, 225), (360, 270), (420, 315)]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale) for scale in tta_scales],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
