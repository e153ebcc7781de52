# 8 bits from the start: nothing to decay.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=8, a=8)
