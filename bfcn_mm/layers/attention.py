"""Multi-head attention with quantized projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizers import WEIGHT_QUANTIZERS, ActivationQuantizer
from .base import QuantizedLayer


def forbid_fused_encoders(model: nn.Module) -> None:
    """Make torch's encoder layers call their children, in evaluation too.

    Without gradients nn.TransformerEncoderLayer hands the parameters of its children to one fused kernel,
    and nn.TransformerEncoder packs padded batches into nested tensors: both pass quantizers by.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = module.enable_nested_tensor = False


class QuantAttention(QuantizedLayer):
    """MultiheadAttention with quantized projections; scores and softmax stay in float.

    query, key, value and the attended values are each quantized, with a zero point, before the
    projection that reads them. Attention maps are not formed: the second result is always None.
    """

    quantized_weights = {
        'weight_quant': 'in_proj_weight',
        'out_weight_quant': 'out_proj.weight',
    }

    def attach(
        self, w: int, input_quant: ActivationQuantizer | None, method: str, per_channel: bool
    ) -> None:
        self.weight_quant = self.out_weight_quant = None
        if w != 32:
            make, device = WEIGHT_QUANTIZERS[method], self.in_proj_weight.device
            shapes = [tuple(m.shape) for m in (self.in_proj_weight, self.out_proj.weight)]
            self.weight_quant = make(w, shapes[0], 0, per_channel).to(device)
            self.out_weight_quant = make(w, shapes[1], 0, per_channel).to(device)
        self.input_quant = self.key_quant = self.value_quant = self.out_quant = None
        if input_quant is not None:
            self.input_quant = input_quant
            for name in ('key_quant', 'value_quant', 'out_quant'):
                setattr(self, name, input_quant.twin())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        inputs = (query, key, value)
        if query.dim() == 2:  # a sequence without a batch
            inputs = tuple(x.unsqueeze(0) for x in inputs)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        weight = self._quantized(self.weight_quant, self.in_proj_weight).chunk(3)
        bias = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        quants = (self.input_quant, self.key_quant, self.value_quant)
        heads = [
            self._split(F.linear(self._quantized(quant, x), w, b))
            for quant, x, w, b in zip(quants, inputs, weight, bias, strict=True)
        ]
        mask = self._mask(attn_mask, key_padding_mask, heads[0])
        dropout = self.dropout if self.training else 0.0
        causal = is_causal and mask is None
        y = F.scaled_dot_product_attention(*heads, mask, dropout, causal)
        y = self._quantized(self.out_quant, y.transpose(1, 2).flatten(2))
        y = F.linear(
            y, self._quantized(self.out_weight_quant, self.out_proj.weight), self.out_proj.bias
        )
        if query.dim() == 2:
            return y.squeeze(0), None
        return (y if self.batch_first else y.transpose(0, 1)), None

    @staticmethod
    def _quantized(quant: nn.Module | None, x: Tensor) -> Tensor:
        return x if quant is None else quant(x)

    def _split(self, x: Tensor) -> Tensor:
        """(N, L, E) -> (N, heads, L, E / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _mask(self, attn: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """One additive mask, broadcastable to (N, heads, L, S); True in a boolean mask shuts out."""
        total = None
        for mask, shape in ((attn, (-1, self.num_heads)), (padding, None)):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float('-inf'))
            if shape is None:
                mask = mask[:, None, None, :]
            elif mask.dim() == 3:
                mask = mask.unflatten(0, shape)
            total = mask if total is None else total + mask
        return total
