"""Keys that are missing, of another type, or out of range."""

import struct

from hostile_case import FILE, GRAPH, cases, u32, with_attributes, with_change, with_key
from packed_file import (
    ARRAY,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    PackedFile,
    array,
    floats,
    string,
)


def keys():
    case = cases('keys')

    def gone(name: str) -> bytes:
        return with_change(lambda file: file.keys.pop(name.encode()))

    architecture = 'general.architecture'
    said = "general.architecture must be 'bfcn'"
    yield case('no architecture', gone(architecture), FILE, said)
    yield case('another architecture', with_key(architecture, STRING, string('llama')), FILE, said)
    data = with_key(architecture, ARRAY, array(STRING, string('bfcn')))
    yield case(
        'the architecture in an array', data, FILE, 'must be of type string, got array of string'
    )
    yield case('no version', gone('bfcn.version'), FILE, 'bfcn.version must be 1')
    yield case(
        'version 2', with_key('bfcn.version', UINT32, u32(2)), FILE, 'bfcn.version must be 1, got 2'
    )
    others = {INT32: u32(1), UINT64: struct.pack('<Q', 1), BOOL: b'\1', FLOAT32: floats(1)}
    for kind, value in others.items():
        data = with_key('bfcn.version', kind, value)
        yield case(
            f'a version of type {kind}', data, FILE, 'bfcn.version must be of type uint32, got'
        )
    data = with_key('bfcn.weight_bits', INT32, u32(1))
    yield case(
        'weight_bits of type int32',
        data,
        FILE,
        'bfcn.weight_bits must be of type uint32, got int32',
    )
    data = with_key('bfcn.weight_bits', STRING, string('1'))
    yield case('weight_bits of type string', data, FILE, 'must be of type uint32, got string')
    data = with_key('bfcn.activation_bits', BOOL, b'\1')
    yield case('activation_bits of type bool', data, FILE, 'must be of type uint32, got bool')
    data = with_key('general.name', UINT32, u32(7))
    yield case(
        'a name of type uint32', data, FILE, 'general.name must be of type string, got uint32'
    )
    data = with_key('bfcn.train_config', ARRAY, array(UINT8, b'a'))
    yield case('a config of type array', data, FILE, 'must be of type string, got array of uint8')
    data = with_key('bfcn.classes', ARRAY, array(UINT8, b'a', b'b'))
    yield case(
        'classes of uint8', data, FILE, 'must be of type array of string, got array of uint8'
    )
    yield case('an empty list of classes', with_key('bfcn.classes', ARRAY, array(STRING)))

    def palette(kind: int, *numbers: bytes) -> bytes:
        return with_key('bfcn.palette', ARRAY, array(kind, *numbers))

    yield case('a palette', palette(UINT8, *[b'\1'] * 6))
    yield case('an empty palette', palette(UINT8))
    said = 'bfcn.palette must have one colour per class'
    yield case('a palette of 1 colour for 2 classes', palette(UINT8, *[b'\1'] * 3), FILE, said)
    yield case('a palette of 3 colours for 2 classes', palette(UINT8, *[b'\1'] * 9), FILE, said)
    data = palette(UINT8, *[b'\1'] * 4)
    yield case('a palette of 4 numbers', data, FILE, 'bfcn.palette must hold r g b per class')
    data = palette(INT32, *[u32(1)] * 6)
    yield case(
        'a palette of int32', data, FILE, 'must be of type array of uint8, got array of int32'
    )

    def without_classes(file: PackedFile) -> None:
        del file.keys[b'bfcn.classes']
        file.keys[b'bfcn.palette'] = ARRAY, array(UINT8, *[b'\1'] * 3)

    yield case('a palette without classes', with_change(without_classes))
    for key in ('mean', 'std'):
        data = with_key(f'bfcn.{key}', ARRAY, array(FLOAT32, *[floats(1)] * 3))
        yield case(f'bfcn.{key}', data)
        data = with_key(f'bfcn.{key}', ARRAY, array(FLOAT32, *[floats(1)] * 2))
        yield case(f'bfcn.{key} of 2 numbers', data, FILE, f'bfcn.{key} must be 3 numbers, got 2')
        for bad in ('nan', '-nan', 'inf', '-inf'):
            data = with_key(
                f'bfcn.{key}', ARRAY, array(FLOAT32, floats(1), floats(float(bad)), floats(1))
            )
            said = f'bfcn.{key} must be finite, got {bad.replace("-nan", "nan")}'
            yield case(f'bfcn.{key} with {bad}', data, FILE, said)
        data = with_key(f'bfcn.{key}', ARRAY, array(FLOAT64, *[struct.pack('<d', 1)] * 3))
        yield case(
            f'bfcn.{key} of float64', data, FILE, 'must be of type array of float32, got array of'
        )
    data = with_key('bfcn.op_names', STRING, string('pixels'))
    yield case('op names in one string', data, FILE, 'must be of type array of string, got string')
    said = 'bfcn.op_names must name 1..4096 ops, got'
    yield case('no op names', with_key('bfcn.op_names', ARRAY, array(STRING)), FILE, f'{said} 0')
    many = array(STRING, *(string(f'{i}') for i in range(4097)))
    yield case('4097 op names', with_key('bfcn.op_names', ARRAY, many), FILE, f'{said} 4097')
    said = 'a name must be 1..48 of A-Z a-z 0-9 _ . - and not'
    wrong = {
        'a space': b'a b', 'a slash': b'a/b', 'no letter': b'', '49 letters': b'x' * 49,
        'umlauts': 'ä'.encode(), 'image': b'image', 'a line break': b'pixels\n',
    }  # fmt: skip
    for title, name in wrong.items():
        yield case(
            f'an op name of {title}', with_attributes(names=[name, b'a', b'b', b'c']), GRAPH, said
        )
    data = with_attributes(names=[b'pixels', b'stem', b'stem', b'labels'])
    yield case('two ops of one name', data, GRAPH, 'names must be distinct')
    data = with_attributes(names=[b'pixels', b'stem', b'scores'])
    yield case('fewer names than records', data, GRAPH, 'graph must end')
    data = with_attributes(names=[b'pixels', b'stem', b'scores', b'labels', b'more'])
    yield case('more names than records', data, GRAPH)
