"""The ARM model and tools: rates, counts, errors. `make arm` runs the kernels themselves."""

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bfcn_kernels import Model, write
from bfcn_kernels.arm import pack, toolchain
from bfcn_kernels.gguf_io import Metadata
from bfcn_kernels.nets import resnet_bfcn, toy
from lab.arm import blocks, cortex_a15, cycles, microkernels, timing

ROOT = Path(__file__).parents[2]
TOOLS = [
    'qemu-arm', 'qemu-aarch64', 'arm-linux-gnueabihf-gcc', 'aarch64-linux-gnu-gcc', 'llvm-mca-19',
]  # fmt: skip
missing = [tool for tool in TOOLS if not shutil.which(tool)]
needs_tools = pytest.mark.skipif(bool(missing), reason=f'not installed: {", ".join(missing)}')


def _lines(*texts: str) -> list[str]:
    return [text.replace(' ', '\t', 1) for text in texts]


@pytest.mark.parametrize(
    ('body', 'expected'),
    [
        (['vadd.i8 q{}, q{}, q0'], 4),  # two a cycle
        (['vcnt.8 q{}, q0'], 8),  # both pipes
        (['vmull.s8 q{}, d0, d1'], 8),  # one pipe multiplies
        (['vsra.u8 q{}, q0, #4'], 8),  # the other shifts and adds
        (['vmull.s8 q{}, d0, d1', 'vsra.u8 q{}, q0, #4'], 8.5),  # a chain, but both pipes at once
        (['vmla.f32 q{}, q0, q1'], 8),  # 4 MAC a cycle
        (['vld1.8 {{d0, d1}}, [r{}]'], 8),  # one load a cycle
        (['add r{0}, r{0}, #1'], 4),  # two integer pipes
    ],
)
def test_a15_rates(body, expected):
    block = [line.format(8 + i % 4, 8 + i % 4) for i in range(8) for line in body]
    block = [
        line.format(8 + i, 8 + i) for i in range(8) for line in body if 'r' not in line
    ] or block
    assert cortex_a15.cycles(_lines(*block), loops=False) == pytest.approx(expected, abs=0.6)


def test_a15_waits_for_results_in_a_loop_alone():
    chain = _lines('vadd.i8 q8, q8, q0')
    assert cortex_a15.cycles(chain, loops=True) == pytest.approx(4)
    assert cortex_a15.cycles(chain, loops=False) == pytest.approx(0.5, abs=0.1)


def test_a15_forwards_running_sums():
    assert cortex_a15.cycles(_lines('vpadal.s16 q8, q0'), loops=True) == pytest.approx(1)
    assert cortex_a15.cycles(_lines('vmla.f32 q8, q0, q1'), loops=True) == pytest.approx(4)


def test_a15_reads_what_an_instruction_reads():
    read, written = cortex_a15.flow('vtbl.8\td12, {d8, d9}, d0')
    assert set(read) == {'d8', 'd9', 'd0'}
    assert written == ('d12',)
    assert cortex_a15.flow('vld1.8\t{d0, d1}, [r3]!') == (('r3',), ('d0', 'd1', 'r3'))
    assert 'd16' in cortex_a15.flow('vsra.u8\tq8, q0, #4')[0]


def test_a15_names_an_instruction_without_a_rate():
    with pytest.raises(ValueError, match=r'no Cortex-A15 rate for NEON instruction vfoo'):
        cortex_a15.cost('vfoo.i8\tq0, q1, q2')


def test_layers_of_the_paper_network():
    layers = timing.layers_of(Model(resnet_bfcn(50, 1, 2), Metadata('r50')), (160, 256))
    assert layers[0].shape == (160, 256, 3, 64, 7, 2, 1, 1)
    assert layers[0].macs == 80 * 128 * 64 * 147
    assert sum(layer.macs for layer in layers) == 6_592_435_200


def test_unknown_core():
    with pytest.raises(ValueError, match=r"--cpu must be one of cortex-a15, .* got 'cortex-a99'"):
        timing.core_of('cortex-a99')


@pytest.mark.parametrize(
    ('program', 'package'),
    [
        ('qemu-arm', 'qemu-user'), ('aarch64-linux-gnu-gcc', 'gcc-aarch64-linux-gnu'),
        ('llvm-mca-19', 'llvm-19'),
    ],
)  # fmt: skip
def test_missing_tool_names_its_package(monkeypatch, tmp_path, program, package):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(RuntimeError, match=rf'{program} not found: apt-get install {package}$'):
        toolchain.require(program)


def test_model_too_large_for_the_core(tmp_path):
    path = tmp_path / 'toy.gguf'
    write(path, model := Model(toy(), Metadata('toy')))
    small = replace(timing.core_of('cortex-a15'), memory_bytes=50_000)
    with pytest.raises(ValueError, match=r'toy.gguf at 24 x 36 needs .* MB, cortex-a15 .* --size'):
        timing.check_fits(path, model, (24, 36), small)
    timing.check_fits(path, model, (24, 36), timing.core_of('cortex-a15'))


def test_tool_says_one_line():
    command = [sys.executable, ROOT / 'tools/arm_timing.py', 'no.gguf', '--cpu', 'cortex-a99']
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith('arm_timing: --cpu must be one of cortex-a15')
    assert run.stderr.count('\n') == 1


def test_chart_needs_totals(tmp_path):
    pytest.importorskip('matplotlib')
    chart = [sys.executable, ROOT / 'tools/arm_chart.py']
    bad = subprocess.run([*chart, __file__, tmp_path / 'x.png'], capture_output=True, text=True)
    assert (bad.returncode, bad.stderr.count('\n')) == (1, 1)
    assert 'has no total' in bad.stderr
    table = ROOT / 'results/arm.csv'
    subprocess.run([*chart, table, tmp_path / 'x.png'], check=True)
    assert (tmp_path / 'x.png').read_bytes()[1:4] == b'PNG'


def test_docs_quote_the_table():
    text = (ROOT / 'docs/performance.md').read_text()
    with (ROOT / 'results/arm.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert {row['cpu'] for row in rows} == {'cortex-a15', 'cortex-a53', 'cortex-a72', 'cortex-a76'}
    for row in rows:
        line = next(line for line in text.splitlines() if line.startswith(f'| {row["cpu"]} |'))
        assert f' {float(row["ms"]):.1f} ms ' in line, row
    beside = (ROOT / 'docs/arm.md').read_text()
    for row in (row for row in rows if row['cpu'] == 'cortex-a15'):
        assert f' {float(row["ms"]):.1f} ms ' in beside, row


def test_blocks_cut_at_pages_are_whole_again():
    """qemu cuts at a page's end, and before and after an instruction across it, whose first half
    then hangs on the one before it."""
    one, four = '0000', '22222222'
    loop = [blocks.Block(0x0FFC, (one, one)), blocks.Block(0x1000, (four,))]
    listed, (phase,) = blocks._whole(loop, [blocks.Phase(0, {0: 5, 1: 5})])
    assert listed[0] == blocks.Block(0x0FFC, (one, one, four))
    assert phase.counts == {0: 5}
    across = [(0x0FF8, (four, one + four[:4])), (0x0FFE, (four,)), (0x1002, (one,))]
    loop = [blocks.Block(*block) for block in across]
    listed, (phase,) = blocks._whole(loop, [blocks.Phase(0, {0: 5, 1: 5, 2: 5})])
    assert listed[0] == blocks.Block(0x0FF8, (four, one, four, one))
    assert phase.counts == {0: 5}
    entered_twice, (phase,) = blocks._whole(loop, [blocks.Phase(0, {0: 5, 1: 6, 2: 6})])
    assert entered_twice[0] == loop[0]
    assert phase.counts == {0: 5, 1: 6}


@needs_tools
@pytest.mark.parametrize('core', sorted(microkernels.LOOPS))
def test_model_agrees_with_known_loops(tmp_path, core):
    for loop in microkernels.LOOPS[core]:
        got = microkernels.modelled(loop, cycles.CORES[core], tmp_path)
        assert got == pytest.approx(loop.cycles, rel=0.05), loop.name


@needs_tools
def test_plugin_counts_every_instruction(tmp_path):
    """The first turn's block is entered before the mark: 999 more, then nop, two moves and svc."""
    loop = microkernels.LOOPS['cortex-a15'][0]
    program = microkernels._assemble(loop, 'armv7', tmp_path)
    address = toolchain.symbols(program, 'armv7')
    listed, phases, _ = blocks.count(
        toolchain.emulator('armv7', 'cortex-a15'), blocks.build_plugin(tmp_path),
        [address['begin'], address['end']], [str(program)], tmp_path,
    )  # fmt: skip
    inside = phases[1]
    assert inside.mark == address['begin']
    executed = sum(n * len(listed[index].words) for index, n in inside.counts.items())
    assert executed == 999 * (len(loop.body) + 2) + 4


@pytest.mark.parametrize(
    'name',
    [
        'net.gguf',
        'my net (1).gguf',
        "o'net.gguf",
        '$(touch hit).gguf',
        '-net.gguf',
        'a;b"`.gguf',
        'ü\n.gguf',
    ],
)
def test_run_script_takes_any_name_of_a_model(tmp_path, name):
    """The programs are stand-ins that print their arguments; so is uname, which says aarch64."""
    board, elsewhere = tmp_path / 'my board', tmp_path / 'elsewhere'
    (board / 'aarch64').mkdir(parents=True)
    elsewhere.mkdir()
    (board / 'run.sh').write_text(pack.run_script(name))
    for path in (board / 'aarch64' / 'bfcn-bench', board / 'aarch64' / 'bfcn-run'):
        path.write_text('#!/bin/sh\nprintf "%s|" "${0##*/}" "$@"\n')
    uname = elsewhere / 'uname'
    uname.write_text('#!/bin/sh\necho aarch64\n')
    uname.chmod(0o755)
    done = subprocess.run(
        ['sh', board / 'run.sh', '24', '36', 'in 1.ppm', 'out.ppm'],
        cwd=elsewhere,
        env=os.environ | {'PATH': f'{elsewhere}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    timed = f'bfcn-bench|{board / name}|--size|24|36|--runs|20|--csv|'
    assert (board / 'result.csv').read_text() == timed
    assert done.stdout.endswith(f'bfcn-run|{board / name}|in 1.ppm|out.ppm|')
    assert not list(tmp_path.rglob('hit'))


@needs_tools
def test_pack_holds_what_a_board_needs(tmp_path):
    model = tmp_path / 'net.gguf'
    write(model, Model(toy(), Metadata('toy')))
    names = pack.pack(model, tmp_path / 'board.tar.gz', tmp_path / 'build')
    programs = [f'board/{a}/bfcn-{p}' for a in toolchain.ARCHITECTURES for p in ('bench', 'run')]
    assert names == ['board/run.sh', 'board/net.gguf', *programs]
    shutil.unpack_archive(tmp_path / 'board.tar.gz', tmp_path)
    command = ['qemu-arm', '-cpu', 'cortex-a15', 'armv7/bfcn-bench', 'net.gguf', '--size', '24', '36',
               '--runs', '1', '--csv']  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path / 'board', capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert ', neon portable: median' in run.stdout.splitlines()[-1]
