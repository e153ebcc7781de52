_base_ = [
    './_base_/models/bfcn_r18.py',
    './_base_/datasets/camvid.py',
    './_base_/schedules/camvid.py',
    './_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(360, 480)))
