# 8, 7, ..., 2 bits for 1000 iterations each, then 1 bit for 5000.
_base_ = './bfcn_r18_camvid_fp32.py'
quant = dict(w=1, a=1, decay=dict(start=8, rate=1, every=1000))
