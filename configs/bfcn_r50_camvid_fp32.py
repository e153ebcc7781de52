# The paper's network on CamVid, from random weights.
_base_ = [
    './_base_/models/bfcn_r50.py',
    './_base_/datasets/camvid.py',
    './_base_/schedules/camvid.py',
    './_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(360, 480)),
    backbone=dict(init_cfg=None),
    decode_head=dict(num_classes=11),
)
