"""Quantized layers are the float layers with another class.

A conversion replaces `module.__class__` by a subclass and adds quantizers as children: parameters,
their names, hooks and every reference to the module stay, so that a float checkpoint loads and a
config that names modules still finds them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..quantizers import WEIGHT_QUANTIZERS, ActivationQuantizer, WeightQuantizer


class QuantizedLayer:
    """Mixin of layers with a weight: quantizes the weight, and the input where the converter says so.

    weight_quant: None at 32 bits. input_quant: None where the input already lies on the grid that this
    layer reads (it comes from a quantized activation), or at 32 bits.
    """

    weight_quant: WeightQuantizer | None
    input_quant: ActivationQuantizer | None
    output_axis = 0
    quantized_weights = {'weight_quant': 'weight'}  # quantizer -> the weight that it rounds

    def quantized_weight(self) -> Tensor:
        return self.weight if self.weight_quant is None else self.weight_quant(self.weight)

    def quantized_input(self, x: Tensor) -> Tensor:
        return x if self.input_quant is None else self.input_quant(x)

    def attach(
        self, w: int, input_quant: ActivationQuantizer | None, method: str, per_channel: bool
    ) -> None:
        """Add the quantizers: w bits of weight (32: none) and the given input quantizer."""
        self.weight_quant = None
        if w != 32:
            self.weight_quant = WEIGHT_QUANTIZERS[method](
                w, tuple(self.weight.shape), self.output_axis, per_channel
            ).to(self.weight.device)
        self.input_quant = input_quant

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Load the layer's own tensors; its quantizers, which load next, learn whether weights came."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name, weight in self.quantized_weights.items():
            quantizer = getattr(self, name)
            if quantizer is not None:
                quantizer.expect(self._comes(weight, state_dict, prefix))

    def _comes(self, weight: str, state_dict: dict, prefix: str) -> bool:
        """Whether all tensors that the weight is computed from are in the file, in their shapes.

        A weight under weight_norm or a parametrization is computed from weight_g and weight_v, or from
        parametrizations.weight.*.
        """
        starts = weight, f'parametrizations.{weight}.'
        own = {
            name: tensor
            for name, tensor in self.named_parameters()
            if name.startswith(starts) and not name.startswith(tuple(self.quantized_weights))
        }
        given = [(state_dict.get(prefix + name), tensor) for name, tensor in own.items()]
        return all(g is not None and g.shape == mine.shape for g, mine in given)


_derived: dict[tuple[type, type], type] = {}


def derive(mixin: type, layer: type) -> type:
    """The quantized class of a float layer class: `Quant<name>`, made once per class.

    A class that overrides the layer's own methods (mmcv's Conv2dAdaptivePadding, say) keeps them. The
    layer's own bases are listed too: mmengine's init_cfg finds layers by the names of a class and of
    its direct bases. No module has such a class under its name, so that instances are copied and
    pickled by (mixin, layer); see derived_instance().
    """
    key = (mixin, layer)
    if key not in _derived:

        def reduce(self, protocol):
            make, arguments, *state = super(kind, self).__reduce_ex__(max(protocol, 2))
            if arguments and arguments[0] is kind:
                make, arguments = derived_instance, (mixin, layer, *arguments[1:])
            return make, arguments, *state

        members = {
            '__module__': mixin.__module__,
            '__doc__': layer.__doc__,
            '__reduce_ex__': reduce,
        }
        kind = type(f'Quant{layer.__name__}', (mixin, layer, *layer.__bases__), members)
        _derived[key] = kind
    return _derived[key]


def derived_instance(mixin: type, layer: type, *arguments: Any) -> Any:
    """An instance of derive(mixin, layer) without a call of its __init__: what unpickling fills."""
    kind = derive(mixin, layer)
    return kind.__new__(kind, *arguments)
