"""Containers that lie, text that is none, tensors that leave the file."""

import struct

from hostile_case import FILE, cases, u32, with_attributes, with_extra, with_key
from packed_file import (
    ARRAY,
    BOOL,
    F16,
    F32,
    I64,
    Q4_0,
    STRING,
    UINT32,
    UINT64,
    Tensor,
    array,
    every_op,
    string,
    tiny,
)


def containers():
    case, good, header = cases('container'), tiny().bytes(), 24
    cut = 'truncated: '
    yield case('as it should be', good)
    yield case('every op there is', every_op().bytes())
    yield case('an empty file', b'', FILE, 'empty')
    yield case('one byte', b'G', FILE, cut)
    yield case('text', b'not a model\n' * 10, FILE, 'magic must be')
    yield case(
        'a Git LFS pointer', b'version https://git-lfs.github.com/spec/v1\n', FILE, 'magic must'
    )
    yield case(
        'the magic of a big-endian file', with_attributes(magic=b'FUGG'), FILE, 'magic must be'
    )
    yield case('GGUF version 2', with_attributes(version=2), FILE, 'GGUF version must be 3, got 2')
    yield case('the header alone', good[:header], FILE, cut)
    yield case('half of the index', good[: header + 300], FILE, cut)
    yield case('the last byte missing', good[:-1], FILE, cut)
    yield case('bytes after the end', good + b'hello')
    for count in (4097, 2**32 + 1, 2**63):
        said = f'key count must be at most 4096, got {count}'
        yield case(f'{count} keys, it says', with_attributes(counts=(None, count)), FILE, said)
    for count in (65537, 2**32 + 9):
        said = f'tensor count must be at most 65536, got {count}'
        yield case(f'{count} tensors, it says', with_attributes(counts=(count, None)), FILE, said)
    yield case('one key more than there are', with_attributes(counts=(None, 6)), FILE, '')
    more = [(f'x.{i}'.encode(), UINT32, u32(i)) for i in range(4096 - 5)]
    yield case('4096 keys', with_attributes(more_keys=more))
    more = [*more, (b'y', UINT32, u32(0))]
    yield case('4097 keys', with_attributes(more_keys=more), FILE, 'key count must be at most 4096')
    more = [(b'x', UINT32, u32(0))] * 2
    yield case('one key twice', with_attributes(more_keys=more), FILE, "key 'x' must appear once")
    more = [(b'x', kind, bytes(size)) for kind, size in ((13, 8), (2**31, 8))]
    for key in more:
        said = f"key 'x' must be of a scalar type of GGUF, got type {key[1]}"
        yield case(f'a key of type {key[1]}', with_attributes(more_keys=[key]), FILE, said)
    nested = with_key('x', ARRAY, array(ARRAY, array(UINT32)))
    yield case(
        'an array of arrays', nested, FILE, "key 'x' must be of a scalar type of GGUF, got type 9"
    )
    for count in (2**31, 2**32 + 1, 2**60, 2**64 - 1):
        lie = struct.pack('<IQ', UINT64, count)
        yield case(f'an array of {count} numbers, it says', with_key('x', ARRAY, lie), FILE, cut)
        lie = struct.pack('<IQ', STRING, count)
        yield case(f'an array of {count} strings, it says', with_key('x', ARRAY, lie), FILE, cut)
        lie = struct.pack('<Q', count)
        yield case(f'a string of {count} bytes, it says', with_key('x', STRING, lie), FILE, cut)
    yield case(
        'a bool of 2', with_key('x', BOOL, b'\2'), FILE, "key 'x' must hold bools of 0 or 1, got 2"
    )
    yield case('an empty array', with_key('x', ARRAY, array(STRING)))
    yield case('unknown keys of every type', with_attributes(more_keys=[
        (f'x.{kind}'.encode(), kind, bytes(size))
        for kind, size in enumerate((1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8))
    ]))  # fmt: skip


def texts():
    case = cases('text')
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
        data = with_key('bfcn.classes', ARRAY, array(STRING, string(text)))
        yield case(f'a class name with {title}', data, FILE, said)
    data = with_attributes(more_keys=[(b'x\xff', UINT32, u32(0))])
    yield case('a key that is not UTF-8', data, FILE, said)
    yield case('an unknown string, not UTF-8', with_key('x', STRING, string(b'\xff')), FILE, said)
    data = with_key('general.name', STRING, string(b'\xff'))
    yield case('a name that is not UTF-8', data, FILE, said)
    data = with_extra(b'x\xff', [1], F32, bytes(4))
    yield case('a tensor name that is not UTF-8', data, FILE, said)
    data = with_key(
        'bfcn.classes', ARRAY, array(STRING, string('日本'), string('\U0001f6b2'), string(''))
    )
    yield case('class names of 3 and 4 bytes a letter, and an empty one', data)


def tensors():
    case = cases('tensors')

    for alignment in (8, 32, 4096):
        yield case(f'alignment {alignment}', with_attributes(alignment=alignment))
    said = 'general.alignment must be a uint32, a power of two from 8'
    for alignment in (0, 1, 4, 24):
        data = with_key('general.alignment', UINT32, u32(alignment))
        yield case(f'alignment {alignment}', data, FILE, said)
    yield case('alignment 2^31', with_key('general.alignment', UINT32, u32(2**31)), FILE, '')
    data = with_key('general.alignment', UINT64, struct.pack('<Q', 8))
    yield case('alignment of type uint64', data, FILE, said)
    yield case('an unknown tensor', with_extra('x', [2, 3], F32, bytes(24)))
    said = "tensor 'x' must be F32, I8, I32 or I64, got type"
    yield case('an unknown tensor of F16', with_extra('x', [4], F16, bytes(8)), FILE, said)
    yield case('an unknown tensor of Q4_0', with_extra('x', [32], Q4_0, bytes(18)), FILE, said)
    yield case('a tensor of type 2^32 - 1', with_extra('x', [1], 2**32 - 1, bytes(4)), FILE, said)
    said = "tensor 'x' must not be empty"
    yield case('an empty tensor', with_extra('x', [0], F32, b''), FILE, said)
    yield case('a tensor with a side of 0', with_extra('x', [2**40, 0, 3], F32, b''), FILE, said)
    yield case('a tensor without dimensions', with_extra('x', [], F32, bytes(4)), FILE, said)
    data = with_extra('x', [1] * 5, F32, bytes(4))
    yield case(
        'a tensor of 5 dimensions', data, FILE, "rank of tensor 'x' must be at most 4, got 5"
    )
    wraps = {
        '2^40 x 2^40': [2**40, 2**40], '2^61 words': [2**61], '2^32 x 2^32': [2**32, 2**32],
        '2^16 to the fourth': [2**16] * 4, '2^29 words': [2**29], '2^32 + 1': [2**32 + 1],
    }  # fmt: skip
    for title, dims in wraps.items():
        yield case(
            f'a tensor of {title}', with_extra('x', dims, I64, bytes(8)), FILE, 'truncated: '
        )
    data = with_extra('x', [1], F32, bytes(4), 4)
    yield case(
        'an offset off the alignment', data, FILE, "tensor 'x' must be aligned to 8, got offset 4"
    )
    yield case('a tensor over another', with_extra('x', [1], F32, bytes(4), 8), FILE, 'overlaps')
    yield case(
        'a tensor in the place of another', with_extra('x', [1], F32, bytes(4), 0), FILE, 'overlaps'
    )
    for offset in (2**20, 2**32, 2**63, 2**64 - 8):
        data = with_extra('x', [1], F32, bytes(4), offset)
        yield case(f'an offset of {offset}', data, FILE, 'truncated: ')
    yield case('a gap before a tensor', with_attributes(tensors={
        name: Tensor(t.dims, t.kind, t.data + bytes(64)) for name, t in tiny().tensors.items()
    }))  # fmt: skip
    yield case('tensors listed backwards', with_attributes(backwards=True))
    data = with_extra('stem.B', [8], F32, bytes(32))
    yield case('one tensor twice', data, FILE, "tensor 'stem.B' must appear once")
