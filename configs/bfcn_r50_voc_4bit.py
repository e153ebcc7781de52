# 8, 7, 6, 5 bits for 4000 iterations each, then 4 bits for 24000.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=4, a=4, decay=dict(start=8, rate=1, every=4000))
