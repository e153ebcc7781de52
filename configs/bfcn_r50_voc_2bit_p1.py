# Route P1 (Table 3): 2 bits at once, from the trained float network.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=2, a=2)
load_from = 'work_dirs/bfcn_r50_voc_fp32/iter_40000.pth'
model = dict(backbone=dict(init_cfg=None))  # nothing to download
custom_hooks = []  # all levels are in the loss from the start
