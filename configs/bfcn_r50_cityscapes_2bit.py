# 8, 7, ..., 3 bits for 8000 iterations each, then 2 bits for 32000.
_base_ = './bfcn_r50_cityscapes_fp32.py'
quant = dict(w=2, a=2, decay=dict(start=8, rate=1, every=8000))
