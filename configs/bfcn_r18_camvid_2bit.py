# 8, 7, ..., 3 bits for 1000 iterations each, then 2 bits for 6000.
_base_ = './bfcn_r18_camvid_fp32.py'
quant = dict(w=2, a=2, decay=dict(start=8, rate=1, every=1000))
