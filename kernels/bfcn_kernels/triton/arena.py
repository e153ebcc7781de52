"""One block of memory for every value of a run: a value's bytes are free again after its last reader."""

from dataclasses import dataclass

ALIGNMENT = 256  # bytes


@dataclass(frozen=True)
class Life:
    """Bytes needed from step `birth` to step `death`, both included."""

    size: int
    birth: int
    death: int


def place(lives: list[Life]) -> tuple[list[int], int]:
    """(offset of each life, bytes in all): large ones first, each at the lowest gap that fits.

    Two lives that share a step never share a byte.
    """
    offsets = [0] * len(lives)
    placed: list[int] = []
    for i in sorted(range(len(lives)), key=lambda i: -lives[i].size):
        offsets[i] = _lowest_gap(
            lives[i].size,
            sorted(
                (offsets[j], offsets[j] + lives[j].size)
                for j in placed
                if lives[j].birth <= lives[i].death and lives[i].birth <= lives[j].death
            ),
        )
        placed.append(i)
    ends = [offset + life.size for offset, life in zip(offsets, lives, strict=True)]
    return offsets, max(ends, default=0)


def _lowest_gap(size: int, taken: list[tuple[int, int]]) -> int:
    offset = 0
    for start, end in taken:
        if offset + size <= start:
            break
        offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
    return offset
