"""What every quantizer keeps: its bits, whether its grid is placed, which file entries it believes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .grids import check_bits


class Run:
    """What the quantizers of one model share.

    training: the whole model runs forward in training mode, so that grids may be placed, also in parts
    that are frozen in evaluation mode. notes: (why, name) of each grid that was not believed, until
    they are reported; each pair once.
    """

    def __init__(self) -> None:
        self.training = False
        self.notes: list[tuple[str, str]] = []
        self._noted: set[tuple[str, str]] = set()

    def note(self, why: str, name: str) -> None:
        if (why, name) not in self._noted:
            self._noted.add((why, name))
            self.notes.append((why, name))


class Quantizer(nn.Module):
    """State of a quantizer, in buffers, so that it travels in the checkpoint.

    bits: the width in force (1..8); target: the width that training ends at; allowed: the widths on
    the way there; initialized: whether the grid has been placed. The buffers are mirrored in python,
    so that forward never waits for a GPU. name: of this module in the model, for messages; run: shared
    by all quantizers of the model.

    Loading: a grid is believed only with the values it was made for. Entries of another method or
    shape are ignored, the grid is placed again at the next use, and `run.notes` says why. Bits that are
    not allowed raise ValueError. See also give_up_stale.
    """

    optional: tuple[str, ...] = ()  # entries that files of earlier versions lack

    def __init__(self, bits: int) -> None:
        super().__init__()
        check_bits(bits)
        self.target = bits
        self.allowed: tuple[int, ...] = (bits,)
        self.name = ''
        self.run = Run()
        self.register_buffer('_bits', torch.tensor(bits, dtype=torch.int32))
        self.register_buffer('_initialized', torch.tensor(False))
        self._now = (bits, False)
        self.placements = 0  # how often the grid was placed in this process

    @property
    def bits(self) -> int:
        return self._now[0]

    @property
    def initialized(self) -> bool:
        return self._now[1]

    @property
    def may_place(self) -> bool:
        """Whether this forward may place the grid: training, of this module or of the whole model."""
        return self.training or self.run.training

    def set_bits(self, bits: int) -> None:
        """Change the width; the grid is placed again at the next use."""
        check_bits(bits)
        if bits != self.bits:
            self._set(bits, False)

    def give_up(self, why: str) -> None:
        """Forget the grid, so that it is placed again at the next use."""
        if self.initialized:
            self._set(self.bits, False)
            self.run.note(why, self.name)

    def _set(self, bits: int, initialized: bool) -> None:
        self._bits.fill_(bits)
        self._initialized.fill_(initialized)
        self._now = (bits, initialized)
        self.placements += initialized

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, *args) -> None:
        if prefix + '_bits' not in state_dict:
            return
        self._check_bits(int(state_dict[prefix + '_bits']), prefix)
        why = self._refusal(state_dict, prefix)
        if why:
            self._set(int(state_dict[prefix + '_bits']), bool(state_dict[prefix + '_initialized']))
            self.give_up(why)
            return
        own: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, own, *args)
        missing.extend(key for key in own if key.removeprefix(prefix) not in self.optional)
        self._now = (int(self._bits), bool(self._initialized))

    def _check_bits(self, bits: int, prefix: str) -> None:
        if bits not in self.allowed:
            raise ValueError(
                f'the checkpoint has {bits} bits at {prefix[:-1]}, the config '
                f'{" or ".join(map(str, self.allowed))}: test it with the config it was trained with, '
                'or start training from it with load_from'
            )

    def _refusal(self, state_dict: dict[str, Any], prefix: str) -> str:
        """Why the entries of the file are no grid of this quantizer; '' if they are."""
        own = {
            name: value
            for name, value in (*self._parameters.items(), *self._buffers.items())
            if value is not None
        }
        for name in ENTRIES:
            given, mine = state_dict.get(prefix + name), own.get(name)
            if given is None and (mine is None or name in self.optional):
                continue
            if given is None or mine is None:
                return 'the file has grids of another method'
            if isinstance(given, Tensor) and given.shape != mine.shape:
                return 'the file has grids of another shape'
        return ''

    def extra_repr(self) -> str:
        return f'bits={self.bits}'


def give_up_stale(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_) -> None:
    """A load_state_dict pre-hook: weights that come without grids make those in place stale."""
    if not any(
        key.startswith(prefix) and key.rpartition('.')[2] not in ENTRIES for key in state_dict
    ):
        return
    for name, quantizer in module.named_modules():
        if isinstance(quantizer, Quantizer) and f'{prefix}{name}._bits' not in state_dict:
            quantizer.give_up('weights were loaded that bring no grid')


ENTRIES = ('_bits', '_initialized', 'placed', 'drift', '_zero_point', '_size')
