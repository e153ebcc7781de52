# 8, 7, 6, 5 bits for 1000 iterations each, then 4 bits for 8000.
_base_ = './bfcn_r18_camvid_fp32.py'
quant = dict(w=4, a=4, decay=dict(start=8, rate=1, every=1000))
