# 8, 7, ..., 3 bits for 4000 iterations each, then 2 bits for 16000.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=2, a=2, decay=dict(start=8, rate=1, every=4000))
