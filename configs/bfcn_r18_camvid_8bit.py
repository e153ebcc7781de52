# 8 bits from the start: nothing to decay.
_base_ = './bfcn_r18_camvid_fp32.py'
quant = dict(w=8, a=8)
