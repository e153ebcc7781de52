# Decay rate 2 (Table 6): 8, 6, 4 bits for 8000 iterations each, then 2 bits for 16000.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=2, a=2, decay=dict(start=8, rate=2, every=8000))
