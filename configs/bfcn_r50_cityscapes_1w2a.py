# 8, 7, ..., 2 bits for 8000 iterations each, then 1-bit weights for 24000.
_base_ = './bfcn_r50_cityscapes_fp32.py'
quant = dict(w=1, a=2, decay=dict(start=8, rate=1, every=8000))
