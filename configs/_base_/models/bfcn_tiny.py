# Half the width of ResNet-18: trains on two CPU cores in minutes.
_base_ = './bfcn_r18.py'
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=[32, 32, 48, 64]),
)
