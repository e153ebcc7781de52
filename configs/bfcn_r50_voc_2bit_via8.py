# Via 8 bits (Table 3; no decay in Table 6): 2 bits at once, from the trained 8-bit network.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=2, a=2)
load_from = 'work_dirs/bfcn_r50_voc_8bit/iter_40000.pth'
model = dict(backbone=dict(init_cfg=None))  # nothing to download
custom_hooks = []  # all levels are in the loss from the start
