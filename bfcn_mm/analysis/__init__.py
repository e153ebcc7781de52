"""What a network costs: operations and bytes, layer by layer."""

from .complexity import Complexity, Layer, complexity

__all__ = ['Complexity', 'Layer', 'complexity']
