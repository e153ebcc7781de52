# Route P2 (Table 3): 2 bits at once, from a classifier. The paper's is a 2-bit ResNet-50: pass yours as
# --cfg-options model.backbone.init_cfg.checkpoint=FILE. The default, ImageNet's, is cut to 2 bits.
_base_ = './bfcn_r50_voc_fp32.py'
quant = dict(w=2, a=2)
