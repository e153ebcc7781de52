# Every 1000 iterations a bit less, from 8 bits to 1-bit weights and 2-bit activations.
_base_ = './bfcn_r18_camvid_fp32.py'
quant = dict(w=1, a=2, decay=dict(start=8, rate=1, every=1000))
