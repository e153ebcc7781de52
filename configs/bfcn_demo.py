# The demo: from the float network of bfcn_demo_fp32.py down to 1-bit weights and 2-bit activations.
_base_ = './bfcn_demo_fp32.py'
quant = dict(w=1, a=2, calibrate=8, decay=dict(stages=[8, 4, 2, 1], every=[80, 80, 160]))
load_from = 'demo_out/float/iter_640.pth'
optim_wrapper = dict(optimizer=dict(lr=0.0015, weight_decay=0.0))
param_scheduler = [  # each stage ends at a low rate: what it learned shows in its validation
    dict(
        type='CosineRestartLR',
        periods=[80, 80, 160, 320],
        restart_weights=[0.3, 0.5, 1.0, 1.0],
        eta_min=1e-5,
        by_epoch=False,
    ),
]
# A validation at the end of each stage: at 80, 160, 320 and 640.
train_cfg = dict(max_iters=640, val_interval=80, dynamic_intervals=[(160, 160), (320, 320)])
default_hooks = dict(checkpoint=dict(interval=640))
