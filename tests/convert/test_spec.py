"""Every bad key gives one line with the value, the rule and the way out."""

import math

import pytest

from bfcn_mm import QuantSpec

GOOD = dict(w=1, a=2)
BAD = [
    (dict(w=0), r'quant\.w must be an integer in 1\.\.8, or 32 for float, got 0'),
    (dict(w=9), r'quant\.w must be .* got 9'),
    (dict(w=True), r'quant\.w must be .* got True'),
    (dict(w='1'), r"quant\.w must be .* got '1'"),
    (dict(a=1.5), r'quant\.a must be .* got 1\.5'),
    (dict(a=None), r'quant\.a must be .* got None'),
    (dict(methd='lsq'), r"quant has no key 'methd', did you mean 'method'.*it takes w, a, first"),
    (dict(zzz=1), r"quant has no key 'zzz': it takes"),
    (dict(method='xnor'), r"quant\.method must be one of lsq, dorefa, got 'xnor'"),
    (dict(per_channel=1), r'per_channel must be True or False, got 1'),
    (dict(residual=0), r'quant\.residual must be .* got 0'),
    (dict(residual=1), r'residual must be at least quant\.a = 2, got 1'),
    (dict(calibrate=0), r'quant\.calibrate must be an integer >= 1, got 0'),
    (dict(first=8), r'quant\.first must be a dict\(w=\.\.\., a=\.\.\.\), got 8'),
    (dict(last=dict(w=8)), r"quant\.last must give both w and a, 'a' is missing"),
    (dict(first=dict(w=8, b=8)), r"quant\.first has no key 'b'"),
    (dict(overrides={'x': dict(w=0, a=2)}), r"quant\.overrides\['x'\]\.w must be .* got 0"),
    (dict(overrides={'x': 4}), r"quant\.overrides\['x'\] must be a dict"),
    (dict(overrides=7), r'quant\.overrides must be a dict'),
    (dict(overrides=['backbone']), r'quant\.overrides must be a dict'),
    (dict(overrides=('backbone',)), r'quant\.overrides must be a dict'),
    (dict(overrides={1: dict(w=2, a=2)}), r'overrides must name modules by strings, got 1'),
    (dict(overrides={'x': None}), r"quant\.overrides\['x'\] must be a dict.*got None"),
    (dict(skip=['a', 1]), r'quant\.skip must be a list of module names'),
    (dict(method=['lsq']), r"quant\.method must be one of lsq, dorefa, got \['lsq'\]"),
    (dict(method=None), r'quant\.method must be one of lsq, dorefa, got None'),
    (dict(calibrate=True), r'quant\.calibrate must be an integer >= 1, got True'),
    (dict(calibrate='8'), r"quant\.calibrate must be an integer >= 1, got '8'"),
    (dict(decay=dict(start='8')), r"quant\.decay\.start must be an integer >= 1, got '8'"),
    (dict(decay=dict(stages='81')), r"stages must list at least one bit-width, got '81'"),
    (dict(decay=dict(stages=[8, None])), r'stages must hold integers in 1\.\.8, got None'),
    (dict(decay=dict(start=4, every=[5, '5', 5])), r"every must be an integer >= 1, got '5'"),
    (dict(decay=dict(every={})), r'quant\.decay\.every must be an integer >= 1, got {}'),
    (dict(decay=[8, 4]), r'quant\.decay must be a dict or None, got \[8, 4\]'),
    (dict(skip=7), r'quant\.skip must be'),
    (dict(decay=8), r'quant\.decay must be a dict or None, got 8'),
    (dict(decay=dict(strat=8)), r"quant\.decay has no key 'strat', did you mean 'start'"),
    (dict(decay=dict(start=9)), r'quant\.decay\.start must be in 1\.\.8, got 9'),
    (dict(w=4, a=4, decay=dict(start=3)), r'starts at 3 bits, below the target of 4'),
    (dict(w=4, a=4, decay=dict(stages=[3])), r'starts at 3 bits, below the target of 4'),
    (dict(decay=dict(rate=0)), r'quant\.decay\.rate must be an integer >= 1, got 0'),
    (dict(decay=dict(every=0)), r'quant\.decay\.every must be an integer >= 1, got 0'),
    (dict(decay=dict(every='x')), r"quant\.decay\.every must be an integer >= 1, got 'x'"),
    (dict(decay=dict(start=4, every=[5])), r'every lists 1 lengths for 4 stages: give one number'),
    (dict(decay=dict(stages=[])), r'stages must list at least one bit-width'),
    (dict(decay=dict(stages=[4, 8])), r'stages must decrease, got \[4, 8\]'),
    (dict(decay=dict(stages=[9, 1])), r'stages must hold integers in 1\.\.8, got 9'),
    (dict(decay=dict(stages=4)), r'quant\.decay\.stages must'),
    (dict(decay=dict(by_epoch=1)), r'quant\.decay\.by_epoch must be True or False, got 1'),
    (dict(decay=dict(rewarm=5)), r'quant\.decay\.rewarm must be a dict'),
    (dict(decay=dict(rewarm=dict(factor=0.5))), r'rewarm\.iters must be an integer >= 1, got None'),
    (dict(decay=dict(rewarm=dict(iters=5, factor=0))), r'factor must be in \(0, 1\], got 0'),
    (dict(decay=dict(rewarm=dict(iters=5, factor='a'))), r"factor must be in \(0, 1\], got 'a'"),
    (dict(decay=dict(rewarm=dict(iters=5, factor=math.nan))), r'factor must be .* got nan'),
    (dict(decay=dict(rewarm=dict(iters=5, factor=True))), r'factor must be .* got True'),
    (dict(distill=5), r'quant\.distill must be a dict\(teacher=\.\.\.\) or None, got 5'),
    (dict(distill=dict(weight=1)), r'quant\.distill must give teacher'),
    (dict(distill=dict(teachr='x')), r"quant\.distill has no key 'teachr', did you mean 'teacher'"),
    (dict(distill=dict(teacher='')), r"quant\.distill\.teacher must be a file, got ''"),
    (dict(distill=dict(teacher='x', config=3)), r'quant\.distill\.config must be a file, got 3'),
    (dict(distill=dict(teacher='x', weight=-1)), r'weight must be 0 or more, got -1'),
    (dict(distill=dict(teacher='x', weight='1')), r"weight must be 0 or more, got '1'"),
    (dict(distill=dict(teacher='x', weight=math.inf)), r'weight must be 0 or more, got inf'),
    (dict(distill=dict(teacher='x', features=math.nan)), r'features must be 0 or more, got nan'),
    (dict(distill=dict(teacher=['x'])), r"distill\.teacher must be a file, got \['x'\]"),
    (dict(distill=dict(teacher='x', temperature=0)), r'temperature must be more than 0, got 0'),
    (dict(distill=dict(teacher='x', weight=0)), r'weight and features are both 0'),
    (dict(w=32, a=32, decay=dict(start=8)), r'needs a target below 32 bits'),
]


@pytest.mark.parametrize(('bad', 'message'), BAD, ids=[str(bad) for bad, _ in BAD])
def test_bad_values(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        QuantSpec.parse(GOOD | bad)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('given', [5, 'w1a2', [1, 2], True])
def test_quant_must_be_a_dict(given):
    with pytest.raises(ValueError, match=r'quant must be a dict such as dict\(w=1, a=2\)'):
        QuantSpec.parse(given)


@pytest.mark.parametrize('key', ['w', 'a'])
def test_w_and_a_are_required(key):
    with pytest.raises(ValueError, match=f"quant must give both w and a, '{key}' is missing"):
        QuantSpec.parse({k: v for k, v in GOOD.items() if k != key})


def test_a_spec_survives_plain_containers():
    spec = QuantSpec.parse(
        dict(
            w=1,
            a=2,
            last=dict(w=4, a=4),
            residual=8,
            overrides={'backbone.layer4': dict(w=4, a=4)},
            skip=['auxiliary_head'],
            decay=dict(stages=[8, 4, 1], every=[5, 6], rewarm=dict(iters=3, factor=0.2)),
            distill=dict(teacher='float.pth', features=0.5),
        )
    )
    assert QuantSpec.parse(spec.to_dict()) == spec
    assert QuantSpec.parse(spec) is spec


def test_the_longest_override_wins_and_names_match_whole():
    overrides = {'a.b': dict(w=3, a=3), 'a': dict(w=4, a=4)}
    spec = QuantSpec.parse(dict(w=1, a=2, overrides=overrides, skip='c.d'))
    assert spec.override_of('a.b.c').w == 3
    assert spec.override_of('a.bc').w == 4
    assert spec.override_of('ab') is None
    assert spec.skips('c.d.e')
    assert not spec.skips('c.de')
