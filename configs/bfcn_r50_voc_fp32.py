# The paper's network on VOC 2012: the 32x loss first, finer ones join one by one.
_base_ = [
    './_base_/models/bfcn_r50.py',
    './_base_/datasets/voc12_aug.py',
    './_base_/schedules/voc12_aug.py',
    './_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(512, 512)), decode_head=dict(num_classes=21))
custom_hooks = [dict(type='StageLossHook', begins=(0, 1000, 2000, 3000))]
