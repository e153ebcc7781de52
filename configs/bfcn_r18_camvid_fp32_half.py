# Half of everything: 240x180 images, half of ResNet-18's width. A study on two CPU cores.
_base_ = [
    './_base_/models/bfcn_tiny.py',
    './_base_/datasets/camvid_half.py',
    './_base_/schedules/camvid_half.py',
    './_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(180, 240)))
