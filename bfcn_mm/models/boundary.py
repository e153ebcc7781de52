"""Boundary masking of Laplacian reconstruction (Ghiasi and Fowlkes 2016, section 4)."""

import torch.nn.functional as F
from torch import Tensor


def boundary_mask(scores: Tensor, dilation: int = 0) -> Tensor:
    """True where the prediction of `scores` (N, K, H, W) changes class nearby: (N, 1, H, W), bool.

    label = argmax over K, the lowest class among equals;
    edge(p) = max(label) != min(label) over the 3x3 window of p;
    mask(p) = any(edge) over the (2 * dilation + 1) squared window of p.
    Windows are cut off at the image border: what lies outside takes no part. Labels are whole
    numbers below 2**24, exact in float32, so equal scores give an equal mask everywhere. No
    gradient passes: argmax has none.
    """
    label = scores.argmax(dim=1, keepdim=True).float()
    high = F.max_pool2d(label, 3, stride=1, padding=1)
    low = -F.max_pool2d(-label, 3, stride=1, padding=1)
    edge = high != low
    if dilation == 0:
        return edge
    window = 2 * dilation + 1
    return F.max_pool2d(edge.float(), window, stride=1, padding=dilation) > 0
