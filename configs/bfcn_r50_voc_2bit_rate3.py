# Decay rate 3 (Table 6): 8, 5 bits for 12000 iterations each, then 2 bits for 16000.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=2, a=2, decay=dict(start=8, rate=3, every=12000))
