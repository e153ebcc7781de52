"""Hostile files: what each breaks and the one verdict that every reader must give.

`python hostile.py FOLDER` writes them all, with FOLDER/verdicts.txt for the C test;
`python hostile.py --page docs/hostile_files.md` writes the table there. Needs the standard library alone.
"""

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packed_file import (
    ARRAY,
    BOOL,
    F16,
    F32,
    FLOAT32,
    FLOAT64,
    I32,
    I64,
    INT32,
    ONE,
    Q4_0,
    SCORES,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    PackedFile,
    Tensor,
    array,
    every_op,
    floats,
    string,
    tiny,
    word,
)  # fmt: skip

SIDE = 8  # accepted files are run on an image of SIDE x SIDE
# Kinds of verdict. The first two are given when a file is loaded, the next three for an image's size.
FILE, GRAPH, SHAPE, MEMORY, WORK = 'FileError', 'GraphError', 'shape', 'MemoryError', 'WorkError'
ACCEPTED = 'accepted'


@dataclass(frozen=True)
class Hostile:
    """data: the file. verdict: ACCEPTED or the kind of error, of which `says` is part."""

    title: str
    group: str
    data: bytes
    verdict: str = ACCEPTED
    says: str = ''


def _u32(value: int) -> bytes:
    return struct.pack('<I', value)


Change = Callable[[PackedFile], None]


def _with(change: Change, base: Callable[[], PackedFile] = tiny) -> bytes:
    file = base()
    change(file)
    return file.bytes()


def _set(op: str, index: int, value: int, base: Callable[[], PackedFile] = every_op) -> bytes:
    """One word of one record changed; index 0 is the opcode."""
    return _with(lambda file: file.ops[op].__setitem__(index, value), base)


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _with(lambda file: file.keys.__setitem__(name.encode(), (kind, value)))


def _tensor(name: str, **changes) -> bytes:
    return _with(lambda file: vars(file.tensors[name]).update(changes), every_op)


def _extra(name: str | bytes, *tensor) -> bytes:
    return _with(lambda file: file.more_tensors.append((name, Tensor(*tensor))))


def _attribute(**changes) -> bytes:
    return _with(lambda file: vars(file).update(changes))


def all_files() -> list[Hostile]:
    makers = (_containers, _texts, _tensors, _keys, _graphs, _numbers, _limits)
    return [Hostile(title, *rest) for make in makers for title, rest in make()]


def _containers():
    group, good = 'container', tiny().bytes()
    header = 24

    def case(title: str, data: bytes, *verdict: str):
        return title, (group, data, *verdict)

    cut = 'truncated: '
    yield case('as it should be', good)
    yield case('every op there is', every_op().bytes())
    yield case('an empty file', b'', FILE, 'empty')
    yield case('one byte', b'G', FILE, cut)
    yield case('text', b'not a model\n' * 10, FILE, 'magic must be')
    yield case(
        'a Git LFS pointer', b'version https://git-lfs.github.com/spec/v1\n', FILE, 'magic must'
    )
    yield case('the magic of a big-endian file', _attribute(magic=b'FUGG'), FILE, 'magic must be')
    yield case('GGUF version 2', _attribute(version=2), FILE, 'GGUF version must be 3, got 2')
    yield case('the header alone', good[:header], FILE, cut)
    yield case('half of the index', good[: header + 300], FILE, cut)
    yield case('the last byte missing', good[:-1], FILE, cut)
    yield case('bytes after the end', good + b'hello')
    for count in (4097, 2**32 + 1, 2**63):
        said = f'key count must be at most 4096, got {count}'
        yield case(f'{count} keys, it says', _attribute(counts=(None, count)), FILE, said)
    for count in (65537, 2**32 + 9):
        said = f'tensor count must be at most 65536, got {count}'
        yield case(f'{count} tensors, it says', _attribute(counts=(count, None)), FILE, said)
    yield case('one key more than there are', _attribute(counts=(None, 6)), FILE, '')
    more = [(f'x.{i}'.encode(), UINT32, _u32(i)) for i in range(4096 - 5)]
    yield case('4096 keys', _attribute(more_keys=more))
    more = [*more, (b'y', UINT32, _u32(0))]
    yield case('4097 keys', _attribute(more_keys=more), FILE, 'key count must be at most 4096')
    more = [(b'x', UINT32, _u32(0))] * 2
    yield case('one key twice', _attribute(more_keys=more), FILE, "key 'x' must appear once")
    more = [(b'x', kind, bytes(size)) for kind, size in ((13, 8), (2**31, 8))]
    for key in more:
        said = f"key 'x' must be of a scalar type of GGUF, got type {key[1]}"
        yield case(f'a key of type {key[1]}', _attribute(more_keys=[key]), FILE, said)
    nested = _key('x', ARRAY, array(ARRAY, array(UINT32)))
    yield case(
        'an array of arrays', nested, FILE, "key 'x' must be of a scalar type of GGUF, got type 9"
    )
    for count in (2**31, 2**32 + 1, 2**60, 2**64 - 1):
        lie = struct.pack('<IQ', UINT64, count)
        yield case(f'an array of {count} numbers, it says', _key('x', ARRAY, lie), FILE, cut)
        lie = struct.pack('<IQ', STRING, count)
        yield case(f'an array of {count} strings, it says', _key('x', ARRAY, lie), FILE, cut)
        lie = struct.pack('<Q', count)
        yield case(f'a string of {count} bytes, it says', _key('x', STRING, lie), FILE, cut)
    yield case(
        'a bool of 2', _key('x', BOOL, b'\2'), FILE, "key 'x' must hold bools of 0 or 1, got 2"
    )
    yield case('an empty array', _key('x', ARRAY, array(STRING)))
    yield case('unknown keys of every type', _attribute(more_keys=[
        (f'x.{kind}'.encode(), kind, bytes(size))
        for kind, size in enumerate((1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8))
    ]))  # fmt: skip


def _texts():
    bad = {
        'a lone continuation byte': b'a\x80',
        'a cut sequence': b'a\xe2\x82',
        'an overlong sequence': b'\xc0\xaf',
        'an overlong sequence of 3 bytes': b'\xe0\x80\xaf',
        'a surrogate': b'\xed\xa0\x80',
        'a code point past 10FFFF': b'\xf4\x90\x80\x80',
        'Latin-1': b'stra\xdfe',
        'a NUL inside': b'a\0b',
    }
    said = 'must be UTF-8 without NUL'
    for title, text in bad.items():
        data = _key('bfcn.classes', ARRAY, array(STRING, string(text)))
        yield f'a class name with {title}', ('text', data, FILE, said)
    data = _attribute(more_keys=[(b'x\xff', UINT32, _u32(0))])
    yield 'a key that is not UTF-8', ('text', data, FILE, said)
    yield 'an unknown string, not UTF-8', ('text', _key('x', STRING, string(b'\xff')), FILE, said)
    data = _key('general.name', STRING, string(b'\xff'))
    yield 'a name that is not UTF-8', ('text', data, FILE, said)
    data = _extra(b'x\xff', [1], F32, bytes(4))
    yield 'a tensor name that is not UTF-8', ('text', data, FILE, said)
    data = _key(
        'bfcn.classes', ARRAY, array(STRING, string('日本'), string('\U0001f6b2'), string(''))
    )
    yield 'class names of 3 and 4 bytes a letter, and an empty one', ('text', data)


def _tensors():
    def case(title: str, data: bytes, *verdict: str):
        return title, ('tensors', data, *verdict)

    for alignment in (8, 32, 4096):
        yield case(f'alignment {alignment}', _attribute(alignment=alignment))
    said = 'general.alignment must be a uint32, a power of two from 8'
    for alignment in (0, 1, 4, 24):
        data = _key('general.alignment', UINT32, _u32(alignment))
        yield case(f'alignment {alignment}', data, FILE, said)
    yield case('alignment 2^31', _key('general.alignment', UINT32, _u32(2**31)), FILE, '')
    data = _key('general.alignment', UINT64, struct.pack('<Q', 8))
    yield case('alignment of type uint64', data, FILE, said)
    yield case('an unknown tensor', _extra('x', [2, 3], F32, bytes(24)))
    said = "tensor 'x' must be F32, I8, I32 or I64, got type"
    yield case('an unknown tensor of F16', _extra('x', [4], F16, bytes(8)), FILE, said)
    yield case('an unknown tensor of Q4_0', _extra('x', [32], Q4_0, bytes(18)), FILE, said)
    yield case('a tensor of type 2^32 - 1', _extra('x', [1], 2**32 - 1, bytes(4)), FILE, said)
    said = "tensor 'x' must not be empty"
    yield case('an empty tensor', _extra('x', [0], F32, b''), FILE, said)
    yield case('a tensor with a side of 0', _extra('x', [2**40, 0, 3], F32, b''), FILE, said)
    yield case('a tensor without dimensions', _extra('x', [], F32, bytes(4)), FILE, said)
    data = _extra('x', [1] * 5, F32, bytes(4))
    yield case(
        'a tensor of 5 dimensions', data, FILE, "rank of tensor 'x' must be at most 4, got 5"
    )
    wraps = {
        '2^40 x 2^40': [2**40, 2**40], '2^61 words': [2**61], '2^32 x 2^32': [2**32, 2**32],
        '2^16 to the fourth': [2**16] * 4, '2^29 words': [2**29], '2^32 + 1': [2**32 + 1],
    }  # fmt: skip
    for title, dims in wraps.items():
        yield case(f'a tensor of {title}', _extra('x', dims, I64, bytes(8)), FILE, 'truncated: ')
    data = _extra('x', [1], F32, bytes(4), 4)
    yield case(
        'an offset off the alignment', data, FILE, "tensor 'x' must be aligned to 8, got offset 4"
    )
    yield case('a tensor over another', _extra('x', [1], F32, bytes(4), 8), FILE, 'overlaps')
    yield case(
        'a tensor in the place of another', _extra('x', [1], F32, bytes(4), 0), FILE, 'overlaps'
    )
    for offset in (2**20, 2**32, 2**63, 2**64 - 8):
        data = _extra('x', [1], F32, bytes(4), offset)
        yield case(f'an offset of {offset}', data, FILE, 'truncated: ')
    yield case('a gap before a tensor', _attribute(tensors={
        name: Tensor(t.dims, t.kind, t.data + bytes(64)) for name, t in tiny().tensors.items()
    }))  # fmt: skip
    yield case('tensors listed backwards', _attribute(backwards=True))
    data = _extra('stem.B', [8], F32, bytes(32))
    yield case('one tensor twice', data, FILE, "tensor 'stem.B' must appear once")


def _keys():
    def case(title: str, data: bytes, *verdict: str):
        return title, ('keys', data, *verdict)

    def gone(name: str) -> bytes:
        return _with(lambda file: file.keys.pop(name.encode()))

    architecture = 'general.architecture'
    said = "general.architecture must be 'bfcn'"
    yield case('no architecture', gone(architecture), FILE, said)
    yield case('another architecture', _key(architecture, STRING, string('llama')), FILE, said)
    data = _key(architecture, ARRAY, array(STRING, string('bfcn')))
    yield case(
        'the architecture in an array', data, FILE, 'must be of type string, got array of string'
    )
    yield case('no version', gone('bfcn.version'), FILE, 'bfcn.version must be 1')
    yield case(
        'version 2', _key('bfcn.version', UINT32, _u32(2)), FILE, 'bfcn.version must be 1, got 2'
    )
    others = {INT32: _u32(1), UINT64: struct.pack('<Q', 1), BOOL: b'\1', FLOAT32: floats(1)}
    for kind, value in others.items():
        data = _key('bfcn.version', kind, value)
        yield case(
            f'a version of type {kind}', data, FILE, 'bfcn.version must be of type uint32, got'
        )
    data = _key('bfcn.weight_bits', INT32, _u32(1))
    yield case(
        'weight_bits of type int32',
        data,
        FILE,
        'bfcn.weight_bits must be of type uint32, got int32',
    )
    data = _key('bfcn.weight_bits', STRING, string('1'))
    yield case('weight_bits of type string', data, FILE, 'must be of type uint32, got string')
    data = _key('bfcn.activation_bits', BOOL, b'\1')
    yield case('activation_bits of type bool', data, FILE, 'must be of type uint32, got bool')
    data = _key('general.name', UINT32, _u32(7))
    yield case(
        'a name of type uint32', data, FILE, 'general.name must be of type string, got uint32'
    )
    data = _key('bfcn.train_config', ARRAY, array(UINT8, b'a'))
    yield case('a config of type array', data, FILE, 'must be of type string, got array of uint8')
    data = _key('bfcn.classes', ARRAY, array(UINT8, b'a', b'b'))
    yield case(
        'classes of uint8', data, FILE, 'must be of type array of string, got array of uint8'
    )
    yield case('an empty list of classes', _key('bfcn.classes', ARRAY, array(STRING)))

    def palette(kind: int, *numbers: bytes) -> bytes:
        return _key('bfcn.palette', ARRAY, array(kind, *numbers))

    yield case('a palette', palette(UINT8, *[b'\1'] * 6))
    yield case('an empty palette', palette(UINT8))
    said = 'bfcn.palette must have one colour per class'
    yield case('a palette of 1 colour for 2 classes', palette(UINT8, *[b'\1'] * 3), FILE, said)
    yield case('a palette of 3 colours for 2 classes', palette(UINT8, *[b'\1'] * 9), FILE, said)
    data = palette(UINT8, *[b'\1'] * 4)
    yield case('a palette of 4 numbers', data, FILE, 'bfcn.palette must hold r g b per class')
    data = palette(INT32, *[_u32(1)] * 6)
    yield case(
        'a palette of int32', data, FILE, 'must be of type array of uint8, got array of int32'
    )
    data = _with(lambda f: (f.keys.pop(b'bfcn.classes'),
                            f.keys.update({b'bfcn.palette': (ARRAY, array(UINT8, *[b'\1'] * 3))})))  # fmt: skip
    yield case('a palette without classes', data)
    for key in ('mean', 'std'):
        data = _key(f'bfcn.{key}', ARRAY, array(FLOAT32, *[floats(1)] * 3))
        yield case(f'bfcn.{key}', data)
        data = _key(f'bfcn.{key}', ARRAY, array(FLOAT32, *[floats(1)] * 2))
        yield case(f'bfcn.{key} of 2 numbers', data, FILE, f'bfcn.{key} must be 3 numbers, got 2')
        data = _key(f'bfcn.{key}', ARRAY, array(FLOAT64, *[struct.pack('<d', 1)] * 3))
        yield case(
            f'bfcn.{key} of float64', data, FILE, 'must be of type array of float32, got array of'
        )
    data = _key('bfcn.op_names', STRING, string('pixels'))
    yield case('op names in one string', data, FILE, 'must be of type array of string, got string')
    said = 'bfcn.op_names must name 1..4096 ops, got'
    yield case('no op names', _key('bfcn.op_names', ARRAY, array(STRING)), FILE, f'{said} 0')
    many = array(STRING, *(string(f'{i}') for i in range(4097)))
    yield case('4097 op names', _key('bfcn.op_names', ARRAY, many), FILE, f'{said} 4097')
    said = 'a name must be 1..48 of A-Z a-z 0-9 _ . - and not'
    wrong = {
        'a space': b'a b', 'a slash': b'a/b', 'no letter': b'', '49 letters': b'x' * 49, 'umlauts': 'ä'.encode(),
        'image': b'image', 'a line break': b'pixels\n',
    }  # fmt: skip
    for title, name in wrong.items():
        yield case(
            f'an op name of {title}', _attribute(names=[name, b'a', b'b', b'c']), GRAPH, said
        )
    data = _attribute(names=[b'pixels', b'stem', b'stem', b'labels'])
    yield case('two ops of one name', data, GRAPH, 'names must be distinct')
    data = _attribute(names=[b'pixels', b'stem', b'scores'])
    yield case('fewer names than records', data, GRAPH, 'graph must end')
    data = _attribute(names=[b'pixels', b'stem', b'scores', b'labels', b'more'])
    yield case('more names than records', data, GRAPH)


def _graphs():
    def case(title: str, data: bytes, *verdict: str):
        return title, ('graph', data, *verdict)

    def without(name: str) -> bytes:
        return _with(lambda file: file.tensors.pop(name), every_op)

    said = "tensor 'bfcn.graph' must be I32 [words]"
    yield case('the graph as F32', _attribute(graph=Tensor([4], F32, bytes(16))), FILE, said)
    yield case(
        'the graph in 2 dimensions', _attribute(graph=Tensor([2, 2], I32, bytes(16))), FILE, said
    )
    data = tiny().bytes().replace(b'bfcn.graph', b'bfcn.grasp')
    yield case('no graph', data, FILE, "tensor 'bfcn.graph' is missing")
    words = [0, 0, 0, 0, 0]
    data = _attribute(graph=Tensor([5], I32, struct.pack('<5i', *words)))
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
            _set(op, index, value),
            GRAPH if said else ACCEPTED,
            said,
        )
    data = _with(lambda file: file.ops['spread'].__setitem__(slice(8, 11), [1, 0, 5]), every_op)
    yield case('a resize to 0 x 5', data, GRAPH, 'size must be an int in 1..32768, got 0')
    data = _with(lambda file: file.ops['spread'].__setitem__(slice(8, 11), [2, 1, 65]), every_op)
    yield case('a resize by 65', data, GRAPH, 'factor must be an int in 1..64, got 65')
    data = _with(lambda file: file.add('more', 8, (SCORES, 2, 0, 0), 14, 14), every_op)
    yield case('an argmax that is not the last op', data, GRAPH, 'an argmax must be the last op')
    data = _with(
        lambda file: (file.ops.pop('labels'), file.add('more', 8, (SCORES, 2, 0, 0), 13, 13)),
        every_op,
    )
    yield case('an op that nothing reads', data, GRAPH, 'its value must be read by a later op')
    data = _with(lambda file: file.ops.pop('labels'), every_op)
    yield case('a graph that ends in scores', data)
    yield case('no weights', without('stem.weight'), GRAPH, "tensor 'stem.weight' is missing")
    yield case('no coefficients', without('deep:1.R'), GRAPH, "tensor 'deep:1.R' is missing")
    data = _tensor('stem.weight', kind=F32, data=bytes(4 * 64))
    yield case('weights of F32', data, GRAPH, "tensor 'stem.weight' must be")
    data = _tensor('stem.weight', dims=[8, 8, 1])
    yield case('weights of another shape', data, GRAPH, "tensor 'stem.weight' must be")
    data = _tensor('low.table', dims=[2, 2])
    yield case('a table in 2 dimensions', data, GRAPH, "tensor 'low.table' must be")
    data = _tensor('stem.B', dims=[7])
    yield case('a coefficient too few', data, GRAPH, "tensor 'stem.B' must be")

    def grown(file: PackedFile, dims: list[int], size: int) -> None:
        """The issue that 32 bits had: 4096 x 4096 x 256 weights a filter are 0 in 32 bits."""
        del file.ops['labels']
        file.conv('wide', (1, 256, 1, 0), [(2, 8, 1, 1, 2, 1)])
        file.conv('huge', (1, 8, 1, 0), [(4, 256, 1, 1, 2, 1)])
        file.ops['huge'][9:11] = 4096, 4096
        file.tensors['huge.weight'] = Tensor(dims, I64, bytes(size))

    data = _with(lambda file: grown(file, [0, 1, 8], 0))
    yield case('4096 x 4096 x 256 weights, in an empty tensor', data, FILE, 'must not be empty')
    data = _with(lambda file: grown(file, [1, 1, 8], 64))
    yield case('4096 x 4096 x 256 weights, in 8 words', data, GRAPH, "tensor 'huge.weight' must be")
    data = _with(
        lambda file: (
            grown(file, [1, 1, 8], 64),
            file.ops['huge'].__setitem__(slice(9, 11), (4096, 64)),
        )
    )
    yield case('4096 x 64 x 256 weights, in 8 words', data, GRAPH, "tensor 'huge.weight' must be")


def _numbers():
    def case(title: str, data: bytes, *verdict: str):
        return title, ('numbers', data, *verdict)

    values = {'NaN': float('nan'), 'infinite': float('inf'), '2^61': 2.0**61, '-2^61': -(2.0**61)}
    said = 'must be finite and at most 2^60, got'
    for title, value in values.items():
        data = _tensor('stem.A', data=floats(*[1.0] * 7, value))
        yield case(f'a coefficient that is {title}', data, GRAPH, said)
        yield case(
            f'a residual scale that is {title}', _set('joined', 21, word(value)), GRAPH, said
        )
        yield case(f"a pool's A that is {title}", _set('mean', 15, word(value)), GRAPH, said)
        yield case(f"a resize's B that is {title}", _set('spread', 12, word(value)), GRAPH, said)
    data = _tensor('stem.A', data=floats(*[2.0**60] * 8))
    yield case('coefficients of 2^60', data)
    data = _tensor('stem.A', data=floats(*[1e-45] * 8))
    yield case('denormal coefficients', data)
    data = _tensor('low.table', data=bytes([0, 1, 2, 0]))
    yield case('a table entry past the bits', data, GRAPH, 'must hold codes in 0..1, got 2')
    data = _with(
        lambda file: vars(file.tensors['pixels.table']).update(data=bytes([255] * 768)),
        lambda: _narrow(7),
    )
    yield case(
        'an image table entry past the bits', data, GRAPH, 'must hold codes in 0..127, got 255'
    )
    data = _tensor('stem.weight', data=b'\xff' * 512)
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
    data = _with(lambda file: _scale_scores(file, 2.0**60))
    yield case('scores of 2^60', data)
    true = Tensor([3, 8], I32, b'')
    yield from (case(*each) for each in _thresholds(true))


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

    return _with(change)


def _scale_scores(file: PackedFile, scale: float) -> None:
    file.tensors['scores.A'] = Tensor([2], F32, floats(scale, -scale))
    file.tensors['scores.B'] = Tensor([2], F32, floats(-scale, scale))


def _thresholds(tensor: Tensor):
    """Of a convolution whose A is 1 and B 0: code >= j where acc >= j; -0.5 rounds up."""
    bound = 27 * 2 * 255

    def file(kind: int, dims: list[int], steps: list[int], scale: float = 1.0) -> bytes:
        def change(file: PackedFile) -> None:
            file.tensors['stem.A'] = Tensor([8], F32, floats(*[scale] * 8))
            file.tensors['stem.B'] = Tensor([8], F32, floats(*[0.0] * 8))
            data = struct.pack('<24i', *steps * 8)
            file.tensors['stem.thresholds'] = Tensor(dims, kind, data)

        return _with(change)

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


def _limits():
    def case(title: str, data: bytes, *verdict: str):
        return title, ('size', data, *verdict)

    yield case(
        'a window larger than the image', _set('stem', 15, 9), SHAPE, 'sides must be in 1..32768'
    )
    yield case('terms of different grids', _set('deep', 23, 2), SHAPE, 'must have the grid')
    data = _with(lambda file: file.ops['up'].__setitem__(slice(8, 11), [1, 9, 9]), every_op)
    yield case('an addition of different grids', data, SHAPE, 'must have the grid')
    data = _with(lambda file: _enlarge(file, 32768, 32768))
    yield case('scores of 32768 x 32768', data, MEMORY, 'max_bytes')
    data = _with(lambda file: _enlarge(file, 4096, 4096, classes=64))
    yield case('scores of 4096 x 4096 x 64', data, MEMORY, 'max_bytes')
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
        labels = file.ops.pop('labels')
        scores = file.ops.pop('scores')
        file.conv('scores', (SCORES, 2, 0, 0), [(3, 3, 1, 1, 2, 1)])
        assert scores and labels
        file.add('labels', 11, (3, 2, 0, 0), 4, 1)

    return _with(change)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, hostile in enumerate(all_files()):
        name = f'{index:03}.gguf'
        (folder / name).write_bytes(hostile.data)
        lines.append(f'{name}\t{hostile.verdict}\t{hostile.says}\t{hostile.title}\n')
    (folder / 'verdicts.txt').write_text(''.join(lines), encoding='utf-8')


def table() -> str:
    rows = ['| | file | verdict | the message says |', '|---|---|---|---|']
    for hostile in all_files():
        rows.append(f'| {hostile.group} | {hostile.title} | {hostile.verdict} | {hostile.says} |')
    return '\n'.join(rows) + '\n'


def write_page(page: Path) -> None:
    """Put the table after the page's last paragraph."""
    text, _, _ = page.read_text(encoding='utf-8').partition('| |')
    page.write_text(text + table(), encoding='utf-8')


if __name__ == '__main__':
    if sys.argv[1] == '--page':
        write_page(Path(sys.argv[2]))
    else:
        write(Path(sys.argv[1]))
