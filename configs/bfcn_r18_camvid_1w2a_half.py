# 8, 7, ..., 2 bits for 200 iterations each, then 1-bit weights for 1600.
_base_ = './bfcn_r18_camvid_fp32_half.py'
quant = dict(w=1, a=2, decay=dict(start=8, rate=1, every=200))
