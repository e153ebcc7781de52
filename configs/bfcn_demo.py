# The demo: from the float network of bfcn_demo_fp32.py down to 1-bit weights and 2-bit activations.
_base_ = './bfcn_demo_fp32.py'
quant = dict(w=1, a=2, calibrate=8, decay=dict(stages=[8, 4, 2, 1], every=[100, 100, 200]))
load_from = 'demo_out/float/iter_800.pth'
optim_wrapper = dict(optimizer=dict(lr=0.0015, weight_decay=0.0))
param_scheduler = [  # each stage ends at a low rate: what it learned shows in its validation
    dict(
        type='CosineRestartLR',
        periods=[100, 100, 200, 400],
        restart_weights=[0.3, 0.5, 1.0, 1.0],
        eta_min=1e-5,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=800, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=800))
