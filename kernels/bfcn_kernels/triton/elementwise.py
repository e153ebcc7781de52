"""How the kernels that visit every output pixel and channel once are cut into tiles."""

import triton

from bfcn_kernels.triton.codes import EXACT, Map
from bfcn_kernels.triton.device import INTERPRETED

BLOCK = 65536 if INTERPRETED else 1024  # numbers of a tile


def tiles(out: Map, channels: int) -> tuple[tuple[int, int], dict]:
    """(grid, constants BP and BC) of tiles of BP pixels x BC channels over `channels` channels."""
    block = min(64, triton.next_power_of_2(channels))
    pixels = BLOCK // block
    grid = triton.cdiv(out.pixels, pixels), triton.cdiv(channels, block)
    return grid, dict(BP=pixels, BC=block, **EXACT)


def written(out: Map) -> dict:
    """Constants of a kernel that writes codes: OUT_WORDS, OUT_FIELD, OUT_OFFSET, OUT_ZERO."""
    form = out.form
    return dict(
        OUT_WORDS=form.words, OUT_FIELD=form.field, OUT_OFFSET=form.offset, OUT_ZERO=form.zero
    )  # fmt: skip


def read(source: Map) -> dict:
    """Constants of a kernel that reads codes: WORDS, FIELD, OFFSET."""
    form = source.form
    return dict(WORDS=form.words, FIELD=form.field, OFFSET=form.offset)
