"""Graph records and tensors that break a rule."""

import struct

from hostile_case import (
    ACCEPTED,
    FILE,
    GRAPH,
    cases,
    with_attributes,
    with_change,
    with_tensor,
    with_word,
)
from packed_file import F32, I32, I64, SCORES, PackedFile, Tensor, every_op, tiny, word


def graphs():
    case = cases('graph')

    def without(name: str) -> bytes:
        return with_change(lambda file: file.tensors.pop(name), every_op)

    said = "tensor 'bfcn.graph' must be I32 [words]"
    yield case('the graph as F32', with_attributes(graph=Tensor([4], F32, bytes(16))), FILE, said)
    yield case(
        'the graph in 2 dimensions',
        with_attributes(graph=Tensor([2, 2], I32, bytes(16))),
        FILE,
        said,
    )
    data = tiny().bytes().replace(b'bfcn.graph', b'bfcn.grasp')
    yield case('no graph', data, FILE, "tensor 'bfcn.graph' is missing")
    words = [0, 0, 0, 0, 0]
    data = with_attributes(graph=Tensor([5], I32, struct.pack('<5i', *words)))
    yield case('a graph of 5 words', data, GRAPH, 'record must have 6 words, got 5')
    records = [
        ('pixels', 0, 0, 'opcode must be an int in 1..11, got 0'),
        ('pixels', 0, 12, 'opcode must be an int in 1..11, got 12'),
        ('pixels', 1, 5, 'record length must be an int in 6..'),
        ('pixels', 1, 8, 'record must hold order, got 8 words'),
        ('pixels', 1, 10, 'record must end after 9 words, got 10'),
        ('pixels', 1, -(2**31), 'record length must be an int in 6..'),
        ('labels', 1, 2**31 - 1, 'record length must be an int in 6..'),
        ('stem', 2, 0, 'kind must be an int in 1..3, got 0'),
        ('stem', 2, 4, 'kind must be an int in 1..3, got 4'),
        ('stem', 2, 3, 'bits must be an int in 0..0, got 2'),
        ('pixels', 2, 2, 'bits must be an int in 0..0, got 8'),
        ('stem', 3, 0, 'channels must be an int in 1..65536, got 0'),
        ('stem', 3, 65537, 'channels must be an int in 1..65536, got 65537'),
        ('stem', 3, 7, "tensor 'stem.weight' must be"),
        ('stem', 4, 0, 'bits must be an int in 1..8, got 0'),
        ('stem', 4, 9, 'bits must be an int in 1..8, got 9'),
        ('stem', 5, 4, 'zero_point must be an int in 0..3, got 4'),
        ('fine', 4, 1, 'bits must be an int in 0..0, got 1'),
        ('fine', 5, 1, 'zero_point must be an int in 0..0, got 1'),
        ('pixels', 6, 3, 'order must be an int in 0..2, got 3'),
        ('stem', 6, 0, 'terms must be an int in 1..16, got 0'),
        ('stem', 6, 17, 'terms must be an int in 1..16, got 17'),
        ('stem', 6, 2, 'record must hold source, got 20 words'),
        ('stem', 7, 17, 'residuals must be an int in 0..16, got 17'),
        ('stem', 7, -1, 'residuals must be an int in 0..16, got -1'),
        ('stem', 8, 2, 'source must be an int in 0..1, got 2'),
        ('stem', 8, -1, 'source must be an int in 0..1, got -1'),
        ('stem', 8, 0, 'must be codes, got image'),
        ('up', 6, 3, 'must be described as'),
        ('low', 6, 0, 'source must be codes, got image'),
        ('sum', 6, 3, 'source must be scores, got codes'),
        ('edge', 7, 1, 'source must be scores, got codes'),
        ('labels', 6, 2, 'source must be scores, got codes'),
        ('joined', 20, 1, 'must have 8 channels, got'),
        ('stem', 9, 0, 'kernel must be an int in 1..4096, got 0'),
        ('stem', 10, 4097, 'kernel must be an int in 1..4096, got 4097'),
        ('stem', 11, 0, 'stride must be an int in 1..4096, got 0'),
        ('stem', 13, 4097, 'padding must be an int in 0..4096, got 4097'),
        ('stem', 13, -1, 'padding must be an int in 0..4096, got -1'),
        ('stem', 15, 0, 'dilation must be an int in 1..4096, got 0'),
        ('stem', 17, 0, 'groups must be an int in 1..65536, got 0'),
        ('stem', 17, 2, 'groups must divide 3'),
        ('stem', 17, 65536, 'groups must divide 3'),
        ('stem', 18, 0, 'weight bits must be an int in 1..8, got 0'),
        ('stem', 18, 9, 'weight bits must be an int in 1..8, got 9'),
        ('stem', 19, 0, 'form must be an int in 1..2, got 0'),
        ('stem', 19, 3, 'form must be an int in 1..2, got 3'),
        ('joined', 19, 1, '1-bit weights must have form 2 (bipolar), got 1'),
        ('low', 4, 8, ''),
        ('pooled', 3, 7, 'must be described as'),
        ('pooled', 7, 0, 'kernel must be an int in 1..4096, got 0'),
        ('pooled', 9, 0, 'stride must be an int in 1..4096, got 0'),
        ('pooled', 11, 2, 'padding must be at most half the kernel'),
        ('pooled', 13, 4097, 'dilation must be an int in 1..4096, got 4097'),
        ('pooled', 15, 2, 'ceil must be an int in 0..1, got 2'),
        ('mean', 11, -1, 'padding must be an int in 0..4096, got -1'),
        ('mean', 12, 2, 'padding must be at most half the kernel'),
        ('mean', 14, 7, 'count_include_pad must be an int in 0..1, got 7'),
        ('one', 7, 0, 'size must be an int in 1..32768, got 0'),
        ('one', 8, 32769, 'size must be an int in 1..32768, got 32769'),
        ('spread', 7, 3, 'mode must be an int in 0..2, got 3'),
        ('spread', 8, 3, 'target must be an int in 0..2, got 3'),
        ('spread', 9, 8, 'source must be an int in 0..7, got 8'),
        ('spread', 10, 1, 't1 must be an int in 0..0, got 1'),
        ('up', 11, word(2), 'a resize of scores must have A 1, B 0'),
        ('up', 12, word(1), 'a resize of scores must have A 1, B 0'),
        ('both', 6, 0, 'n must be an int in 1..64, got 0'),
        ('both', 6, 65, 'n must be an int in 1..64, got 65'),
        ('both', 3, 17, 'must be described as'),
        ('both', 8, 5, 'must share bits and zero point'),
        ('edge', 8, -1, 'dilation must be an int in 0..4096, got -1'),
        ('edge', 8, 4097, 'dilation must be an int in 0..4096, got 4097'),
        ('labels', 7, 3, 'mode must be an int in 0..2, got 3'),
        ('labels', 3, 3, 'must be described as'),
    ]
    for op, index, value, said in records:
        yield case(
            f'word {index} of {op} is {value}',
            with_word(op, index, value),
            GRAPH if said else ACCEPTED,
            said,
        )
    data = with_change(
        lambda file: file.ops['spread'].__setitem__(slice(8, 11), [1, 0, 5]), every_op
    )
    yield case('a resize to 0 x 5', data, GRAPH, 'size must be an int in 1..32768, got 0')
    data = with_change(
        lambda file: file.ops['spread'].__setitem__(slice(8, 11), [2, 1, 65]), every_op
    )
    yield case('a resize by 65', data, GRAPH, 'factor must be an int in 1..64, got 65')
    data = with_change(lambda file: file.add('more', 8, (SCORES, 2, 0, 0), 14, 14), every_op)
    yield case('an argmax that is not the last op', data, GRAPH, 'an argmax must be the last op')
    data = with_change(
        lambda file: (file.ops.pop('labels'), file.add('more', 8, (SCORES, 2, 0, 0), 13, 13)),
        every_op,
    )
    yield case('an op that nothing reads', data, GRAPH, 'its value must be read by a later op')
    data = with_change(lambda file: file.ops.pop('labels'), every_op)
    yield case('a graph that ends in scores', data)
    yield case('no weights', without('stem.weight'), GRAPH, "tensor 'stem.weight' is missing")
    yield case('no coefficients', without('deep:1.R'), GRAPH, "tensor 'deep:1.R' is missing")
    data = with_tensor('stem.weight', kind=F32, data=bytes(4 * 64))
    yield case('weights of F32', data, GRAPH, "tensor 'stem.weight' must be")
    data = with_tensor('stem.weight', dims=[8, 8, 1])
    yield case('weights of another shape', data, GRAPH, "tensor 'stem.weight' must be")
    data = with_tensor('low.table', dims=[2, 2])
    yield case('a table in 2 dimensions', data, GRAPH, "tensor 'low.table' must be")
    data = with_tensor('stem.B', dims=[7])
    yield case('a coefficient too few', data, GRAPH, "tensor 'stem.B' must be")

    def grown(file: PackedFile, kernel: list[int], dims: list[int], size: int) -> None:
        """4096 x 4096 x 256 weights a filter are 0 in 32 bits, and 2^32 in 64."""
        del file.ops['labels'], file.ops['scores']
        wide = file.conv('wide', (1, 256, 1, 0), [(2, 8, 1, 1, 2, 1)])
        huge = file.conv('huge', (1, 8, 1, 0), [(wide, 256, 1, 1, 2, 1)])
        file.ops['huge'][9:11] = kernel
        file.ops['huge'][13:15] = [side // 2 for side in kernel]  # the padding
        file.tensors['huge.weight'] = Tensor(dims, I64, bytes(size))
        file.conv('end', (2, 2, 0, 0), [(huge, 8, 1, 1, 2, 1)])

    large, said = [4096, 4096], "tensor 'huge.weight' must be"
    data = with_change(lambda file: grown(file, large, [0, 1, 8], 0))
    yield case('4096 x 4096 x 256 weights, in an empty tensor', data, FILE, 'must not be empty')
    data = with_change(lambda file: grown(file, large, [1, 1, 8], 64))
    yield case('4096 x 4096 x 256 weights, in 8 words', data, GRAPH, said)
    data = with_change(lambda file: grown(file, [4096, 64], [1, 1, 8], 64))
    yield case('4096 x 64 x 256 weights, in 8 words', data, GRAPH, said)
