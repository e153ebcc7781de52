# BFCN with ResNet-18 for quick work: random weights to start with, nothing to download.
_base_ = './bfcn_r50.py'
model = dict(
    backbone=dict(depth=18, init_cfg=None),
    decode_head=dict(
        in_channels=[64, 128, 256, 512],
        channels=[64, 96, 128, 192],
        num_blocks=1,
        num_classes=11,
    ),
)
