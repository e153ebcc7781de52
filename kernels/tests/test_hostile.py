"""Every reader gives each hostile file the verdict of the table, which is also that of the docs."""

import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from bfcn_kernels import FileError, GraphError, WorkError, load
from bfcn_kernels.cpu import Engine, isas

sys.path.insert(0, str(Path(__file__).parent))
from hostile import all_files, table
from hostile_case import ACCEPTED, FILE, GRAPH, MEMORY, SHAPE, SIDE, WORK
from packed_file import every_op, tiny

PAGE = Path(__file__).parents[2] / 'docs/hostile_files.md'
FILES = all_files()
AT_LOAD = {FILE: FileError, GRAPH: GraphError}
AT_CALL = {SHAPE: GraphError, MEMORY: MemoryError, WORK: WorkError}
LIMIT = 256 << 20  # bytes
WORDS = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 63, 64, 65, 255, 256, 4096, 4097, 32768, 32769, 65536, 65537,
    2**31 - 1, -(2**31), -1,
)  # fmt: skip


def outcome(data: bytes, path: Path, engine: str) -> tuple[str, str, np.ndarray | None]:
    """Verdict, message and labels of one file in one engine, on an image of SIDE x SIDE."""
    path.write_bytes(data)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    try:
        loaded = load(path, engine, max_bytes=LIMIT)
    except (FileError, GraphError) as err:
        return type(err).__name__, str(err), None
    try:
        return ACCEPTED, '', loaded(image)
    except tuple(AT_CALL.values()) as err:
        return next(kind for kind, error in AT_CALL.items() if type(err) is error), str(err), None


@pytest.mark.parametrize('engine', ['numpy', 'cpu'])
def test_every_file_gets_its_verdict(tmp_path, engine):
    wrong = []
    for file in FILES:
        verdict, message, _ = outcome(file.data, tmp_path / 'm.gguf', engine)
        if verdict != file.verdict or file.says not in message:
            wrong.append(
                f'{file.title}: {verdict} {message!r}, must be {file.verdict} {file.says!r}'
            )
    assert not wrong, '\n'.join(wrong)


def test_what_both_accept_gives_the_same_labels(tmp_path):
    for file in FILES:
        if file.verdict == ACCEPTED:
            results = [
                outcome(file.data, tmp_path / 'm.gguf', name)[2] for name in ('numpy', 'cpu')
            ]
            np.testing.assert_array_equal(*results, err_msg=file.title)


def test_every_instruction_set_accepts_the_same_files(tmp_path):
    """Kernels and their layouts differ by instruction set, rules and limits do not."""
    path = tmp_path / 'm.gguf'
    for file in FILES:
        if file.verdict not in (ACCEPTED, SHAPE):
            continue
        path.write_bytes(file.data)
        for isa in isas():
            engine = Engine(path, isa=isa, max_bytes=LIMIT)
            if file.verdict == ACCEPTED:
                engine.ops(SIDE, SIDE)
            else:
                with pytest.raises(GraphError):
                    engine.ops(SIDE, SIDE)


@pytest.mark.parametrize('seed', range(4))
def test_both_readers_agree_on_files_changed_at_random(tmp_path, seed):
    """Words of records, parts of tensors, bytes anywhere."""
    rng = random.Random(seed)
    for _ in range(150):
        data = _changed(rng)
        verdicts = [outcome(data, tmp_path / 'm.gguf', name)[0] for name in ('numpy', 'cpu')]
        # What the two take differs; everything else must not.
        assert verdicts[0] == verdicts[1] or MEMORY in verdicts, verdicts


def _changed(rng: random.Random) -> bytes:
    file = rng.choice((every_op, tiny))()
    what = rng.random()
    if what < 0.5:
        record = file.ops[rng.choice(list(file.ops))]
        record[rng.randrange(len(record))] = rng.choice(WORDS)
    elif what < 0.7:
        tensor = file.tensors[rng.choice(list(file.tensors))]
        part = rng.choice(('dims', 'kind', 'offset'))
        sides = [rng.choice((0, 1, 2, 3, 8, 2**32, 2**61)) for _ in range(rng.randrange(6))]
        kinds, offsets = (0, 1, 24, 26, 27, 28), (0, 4, 8, 64, 512, 2**32, 2**64 - 8)
        choices = {'dims': [sides], 'kind': kinds, 'offset': offsets}
        setattr(tensor, part, rng.choice(choices[part]))
    data = bytearray(file.bytes())
    if what >= 0.7:
        at = rng.randrange(len(data) - 4)
        if rng.random() < 0.5:
            data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        else:
            data[at : at + 4] = struct.pack('<i', rng.choice(WORDS))
    return bytes(data)


def test_titles_are_distinct():
    assert len({(file.group, file.title) for file in FILES}) == len(FILES)


def test_the_page_shows_this_table():
    """To write it again: python kernels/tests/hostile.py --page docs/hostile_files.md"""
    assert table() in PAGE.read_text(encoding='utf-8')
