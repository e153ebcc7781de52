# 8, 7, ..., 3 bits for 4000 iterations each, 2 bits for the rest of mmseg's own schedule.
_base_ = 'mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py'
custom_imports = dict(imports=['bfcn_mm'], allow_failed_imports=False)
quant = dict(w=2, a=2, decay=dict(start=8, rate=1, every=4000))
