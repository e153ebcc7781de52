# 367 images in batches of 8: 44 epochs.
# Random weights, few epochs: AdamW is ahead of SGD, and moves LSQ's steps, which SGD hardly does.
optimizer = dict(type='AdamW', lr=0.003, weight_decay=0.01)
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, clip_grad=None)
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=2000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2000, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
