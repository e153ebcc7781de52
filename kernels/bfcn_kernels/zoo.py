"""Packed models by name: those that a checkout keeps in zoo/, or that lie in the folder BFCN_ZOO."""

from __future__ import annotations

import os
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2] / 'zoo'


def folder() -> Path:
    """Where models are looked for; it need not exist."""
    return Path(os.environ.get('BFCN_ZOO') or _CHECKOUT)


def names() -> list[str]:
    """The models of the zoo, in alphabetical order."""
    return sorted(path.parent.name for path in folder().glob('*/model.gguf'))


def resolve(model: str | Path) -> Path:
    """The file that a path or a name of the zoo stands for: a file of that path comes first.

    Raises ValueError, with the names there are, for what looks like a name (no suffix, no folder) and is
    none.
    """
    path = Path(model)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    named = folder() / path / 'model.gguf'
    if named.is_file():
        return named
    there = ', '.join(names()) or 'no model'
    raise ValueError(
        f'{str(model)!r} is neither a file nor a model of the zoo: {folder()} holds {there}'
    )
