# Crops of 1536x768, whole images in validation, ENet's class weights, as in the paper.
_base_ = [
    './_base_/models/bfcn_r50.py',
    './_base_/datasets/cityscapes.py',
    './_base_/schedules/cityscapes.py',
    './_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(768, 1536)))
custom_hooks = [
    dict(type='ClassWeightHook', c=1.4),
    dict(type='StageLossHook', begins=(0, 2000, 4000, 6000)),
]
