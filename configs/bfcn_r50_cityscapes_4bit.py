# 8, 7, 6, 5 bits for 8000 iterations each, then 4 bits for 48000.
_base_ = './bfcn_r50_cityscapes_fp32.py'
quant = dict(w=4, a=4, decay=dict(start=8, rate=1, every=8000))
