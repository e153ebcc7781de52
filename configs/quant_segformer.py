# 8, 7, ..., 3 bits for 16000 iterations each, 2 bits for the rest of mmseg's own schedule.
_base_ = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'
custom_imports = dict(imports=['bfcn_mm'], allow_failed_imports=False)
quant = dict(w=2, a=2, decay=dict(start=8, rate=1, every=16000))
