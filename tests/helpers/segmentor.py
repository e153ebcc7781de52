"""A segmentor around any body, and a check that what it packs to computes the same."""

import numpy as np
import torch
from torch import nn

import bfcn_mm
from bfcn_kernels.builder import random_image
from bfcn_mm.export import TorchEngine, pack, verify


class Segmentor(nn.Module):
    """As much of mmseg's segmentor as export reads: `body` between a stem and a score layer."""

    def __init__(self, body, channels=8, stem=None, head=None, **quant):
        super().__init__()
        self.backbone = stem or nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.body = body
        self.data_preprocessor = nn.Identity()
        self.decode_head = head or Head(channels)
        torch.manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, 0, 0.5)
        bfcn_mm.quantize_(self, **({'w': 1, 'a': 2} | quant))
        with torch.no_grad():
            for _ in range(2):
                self.train()(torch.rand(2, 3, 32, 32) * 255)
        self.eval()

    def extract_feat(self, x):
        return self.body(self.backbone(x))

    def forward(self, x):
        return self.decode_head.forward(self.extract_feat(x))


class Head(nn.Module):
    align_corners = False

    def __init__(self, channels, out_channels=4):
        super().__init__()
        self.out_channels = out_channels
        self.scores = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x):
        return self.scores(x)


class Body(nn.Module):
    """A body from a function (module, x) and child modules."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.function(self, x)


def both_ways(segmentor, *sizes):
    """The ops by name, after their scores have been compared with the float model's at image sizes."""
    graph = pack(segmentor).model.graph
    engine = TorchEngine(graph)
    for size in sizes or [(33, 45)]:
        image = random_image(*size)
        maps = verify.oracle(graph, image)
        assert verify.first_difference(graph, maps, engine.trace(image)) is None
        bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            expected = segmentor(bgr)[0].permute(1, 2, 0).numpy()
        assert expected.std() > 1e-3
        assert engine.logits.shape == expected.shape
        close = np.isclose(engine.logits, expected, rtol=1e-4, atol=1e-3 * expected.std())
        assert close.mean() > 0.99, size  # a code at a rounding tie may fall to the other side
    return {op.name: op for op in graph.ops}


def conv(channels=8, out=8, **kwargs):
    return nn.Conv2d(channels, out, 3, padding=1, **kwargs)
