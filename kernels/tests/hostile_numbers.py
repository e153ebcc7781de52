"""Numbers out of range, bounds reached and passed, thresholds, sizes, limits."""

import struct

from hostile_case import GRAPH, MEMORY, SHAPE, WORK, cases, with_change, with_tensor, with_word
from packed_file import F32, I32, ONE, SCORES, PackedFile, Tensor, every_op, floats, tiny, word


def numbers():
    case = cases('numbers')

    values = {'NaN': float('nan'), 'infinite': float('inf'), '2^61': 2.0**61, '-2^61': -(2.0**61)}
    said = 'must be finite and at most 2^60, got'
    for title, value in values.items():
        data = with_tensor('stem.A', data=floats(*[1.0] * 7, value))
        yield case(f'a coefficient that is {title}', data, GRAPH, said)
        yield case(
            f'a residual scale that is {title}', with_word('joined', 21, word(value)), GRAPH, said
        )
        yield case(f"a pool's A that is {title}", with_word('mean', 15, word(value)), GRAPH, said)
        yield case(
            f"a resize's B that is {title}", with_word('spread', 12, word(value)), GRAPH, said
        )
    data = with_tensor('stem.A', data=floats(*[2.0**60] * 8))
    yield case('coefficients of 2^60', data)
    data = with_tensor('stem.A', data=floats(*[1e-45] * 8))
    yield case('denormal coefficients', data)
    data = with_tensor('low.table', data=bytes([0, 1, 2, 0]))
    yield case('a table entry past the bits', data, GRAPH, 'must hold codes in 0..1, got 2')
    data = with_change(
        lambda file: vars(file.tensors['pixels.table']).update(data=bytes([255] * 768)),
        lambda: _narrow(7),
    )
    yield case(
        'an image table entry past the bits', data, GRAPH, 'must hold codes in 0..127, got 255'
    )
    data = with_tensor('stem.weight', data=b'\xff' * 512)
    yield case('weight bits past the filter', data, GRAPH, 'bits past code 27 must be 0')
    for channels, verdict in ((33025, ()), (33026, (GRAPH, 'accumulator may reach 2147515650'))):
        yield case(f'{channels} products of 8 and 8 bits', _accumulator(channels), *verdict)
    for doublings, verdict in (
        (20, ()),
        (21, (GRAPH, 'scores must add at most 1048576 maps, got 2097152')),
    ):
        yield case(f'scores added to themselves {doublings} times', _doubled(doublings), *verdict)
    yield case(
        'scores added to themselves 70 times',
        _doubled(70),
        GRAPH,
        'scores must add at most 1048576',
    )
    data = with_change(lambda file: _scale_scores(file, 2.0**60))
    yield case('scores of 2^60', data)
    yield from (case(*each) for each in _thresholds())


def _narrow(bits: int) -> PackedFile:
    file = tiny()
    file.ops['pixels'][4] = bits
    return file


def _accumulator(channels: int) -> bytes:
    """A convolution of 8 by 8 bits over `channels` channels, in concats of 64 maps or fewer."""
    file = tiny()
    del file.ops['labels'], file.ops['scores']
    out = (1, 1, 8, 0)
    for name in ('scores.weight', 'scores.A', 'scores.B'):
        del file.tensors[name]
    file.ops['stem'][4] = 8
    at, made = {8: 2}, 8  # value by channels: doubled until enough
    while made * 2 <= channels:
        at[made * 2] = file.add(f'c{made * 2}', 9, (1, made * 2, 8, 0), 2, at[made], at[made])
        made *= 2
    file.conv('single', out, [(2, 8, 1, 1, 2, 1)])
    at[1] = len(file.ops)
    for size in (2, 4):
        at[size] = file.add(f'c{size}', 9, (1, size, 8, 0), 2, at[size // 2], at[size // 2])
    parts = [at[1 << bit] for bit in range(16) if channels >> bit & 1]
    both = file.add('both', 9, (1, channels, 8, 0), len(parts), *parts)
    # What the sum leaves out is read, too, or the graph is refused for it.
    file.conv('sum', (2, 2, 0, 0), [(both, channels, 1, 8, 2, 1), (at[4], 4, 1, 1, 2, 1)])
    return file.bytes()


def _doubled(times: int) -> bytes:
    def change(file: PackedFile) -> None:
        del file.ops['labels']
        at = len(file.ops)
        for index in range(times):
            at = file.add(f'double{index}', 8, (SCORES, 2, 0, 0), at, at)
        file.add('labels', 11, (3, 2, 0, 0), at, 1)
        _scale_scores(file, 2.0**60)

    return with_change(change)


def _scale_scores(file: PackedFile, scale: float) -> None:
    file.tensors['scores.A'] = Tensor([2], F32, floats(scale, -scale))
    file.tensors['scores.B'] = Tensor([2], F32, floats(-scale, scale))


def _thresholds():
    """Of a convolution whose A is 1 and B 0: code >= j where acc >= j; -0.5 rounds up."""
    bound = 27 * 2 * 255

    def file(kind: int, dims: list[int], steps: list[int], scale: float = 1.0) -> bytes:
        def change(file: PackedFile) -> None:
            file.tensors['stem.A'] = Tensor([8], F32, floats(*[scale] * 8))
            file.tensors['stem.B'] = Tensor([8], F32, floats(*[0.0] * 8))
            data = struct.pack('<24i', *steps * 8)
            file.tensors['stem.thresholds'] = Tensor(dims, kind, data)

        return with_change(change)

    said = "tensor 'stem.thresholds' must follow from A and B, and does not"
    yield 'true thresholds', file(I32, [3, 8], [1, 2, 3])
    yield 'true thresholds of negative coefficients', file(I32, [3, 8], [-1, -2, -3], -1.0)
    never = [bound + 1] * 3
    yield 'true thresholds that no sum reaches', file(I32, [3, 8], never, 0.0)
    yield 'a threshold one too large', file(I32, [3, 8], [1, 2, 4]), GRAPH, said
    yield 'a threshold one too small', file(I32, [3, 8], [0, 2, 3]), GRAPH, said
    yield 'thresholds of the wrong sign', file(I32, [3, 8], [1, 2, 3], -1.0), GRAPH, said
    yield 'thresholds past the bound', file(I32, [3, 8], [2**31 - 1] * 3, 0.0), GRAPH, said
    said = "tensor 'stem.thresholds' must be"
    yield 'thresholds of F32', file(F32, [3, 8], [1, 2, 3]), GRAPH, said
    yield 'thresholds of another shape', file(I32, [8, 3], [1, 2, 3]), GRAPH, said


def sizes():
    case = cases('size')

    yield case(
        'a window larger than the image',
        with_word('stem', 15, 9),
        SHAPE,
        'sides must be in 1..32768',
    )
    yield case('terms of different grids', with_word('deep', 23, 2), SHAPE, 'must have the grid')
    data = with_change(lambda file: file.ops['up'].__setitem__(slice(8, 11), [1, 9, 9]), every_op)
    yield case('an addition of different grids', data, SHAPE, 'must have the grid')
    data = with_change(lambda file: _enlarge(file, 32768, 32768))
    yield case('scores of 32768 x 32768', data, MEMORY, 'bytes')
    data = with_change(lambda file: _enlarge(file, 4096, 4096, classes=64))
    yield case('scores of 4096 x 4096 x 64', data, MEMORY, 'bytes')
    yield case('a pool of 4096 x 4096 taps an output', _pooled(), WORK, 'max_ops')


def _enlarge(file: PackedFile, height: int, width: int, classes: int = 2) -> None:
    del file.ops['labels'], file.ops['scores']
    out = (SCORES, classes, 0, 0)
    file.conv('scores', out, [(2, 8, 1, 1, 2, 1)])
    large = file.add('large', 7, out, 3, 1, 1, height, width, ONE, 0)
    file.add('labels', 11, (3, classes, 0, 0), large, 1)


def _pooled() -> bytes:
    """16 MB of pixels, each output of which averages all: 2^48 additions from one changed word."""

    def change(file: PackedFile) -> None:
        file.ops['stem'] = [7, 13, 1, 3, 1, 0, 1, 0, 1, 2048, 2048, word(1), 0]
        file.add('mean', 5, (1, 3, 1, 0), 2, 4096, 4096, 1, 1, 2048, 2048, 0, 1, word(1), 0)
        del file.ops['labels'], file.ops['scores']
        file.conv('scores', (SCORES, 2, 0, 0), [(3, 3, 1, 1, 2, 1)])
        file.add('labels', 11, (3, 2, 0, 0), 4, 1)

    return with_change(change)
