"""What every quantizer keeps: its bits, and whether its grid has been placed."""

from __future__ import annotations

import torch
from torch import nn

from .grids import check_bits


class Quantizer(nn.Module):
    """State of a quantizer, in buffers, so that it travels in the checkpoint.

    bits: the width in force (1..8); target: the width that training ends at; allowed: the widths on
    the way there; initialized: whether the grid has been placed. The buffers are mirrored in python,
    so that forward never waits for a GPU. A state dict of an unquantized model leaves a quantizer as
    it is; one with bits that are not allowed raises ValueError.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        check_bits(bits)
        self.target = bits
        self.allowed: tuple[int, ...] = (bits,)
        self.register_buffer('_bits', torch.tensor(bits, dtype=torch.int32))
        self.register_buffer('_initialized', torch.tensor(False))
        self._now = (bits, False)

    @property
    def bits(self) -> int:
        return self._now[0]

    @property
    def initialized(self) -> bool:
        return self._now[1]

    def set_bits(self, bits: int) -> None:
        """Change the width; the grid is placed anew at the next use."""
        check_bits(bits)
        if bits != self.bits:
            self._set(bits, False)

    def _set(self, bits: int, initialized: bool) -> None:
        self._bits.fill_(bits)
        self._initialized.fill_(initialized)
        self._now = (bits, initialized)

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, *args) -> None:
        bits = int(state_dict.get(prefix + '_bits', self.bits))
        if bits not in self.allowed:
            raise ValueError(
                f'the checkpoint has {bits} bits at {prefix[:-1]}, the config '
                f'{" or ".join(map(str, self.allowed))}: test it with the config it was trained with, '
                'or start training from it with load_from'
            )
        own: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, own, *args)
        if prefix + '_bits' in state_dict:
            missing.extend(own)
        self._now = (int(self._bits), bool(self._initialized))

    def extra_repr(self) -> str:
        return f'bits={self.bits}'
