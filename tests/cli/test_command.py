"""The command `bfcn`: it starts at once, names its commands, and tools/*.py are the same commands."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT, TOOLS, environment, run_here

from bfcn_mm import __version__, cli
from bfcn_mm.cli import verify
from bfcn_mm.export import verdict

LIGHT = """
import json, sys, time
import _bfcn_command
from bfcn_mm import cli
heavy = {}
for name in [None, *cli.COMMANDS]:
    start = time.process_time()
    try:
        cli.main([name, '--help'] if name else ['--help'])
    except SystemExit as end:
        assert end.code == 0
    seconds = time.process_time() - start
    found = {'torch', 'mmengine', 'mmseg', 'bfcn_kernels', 'cv2'} & set(sys.modules)
    heavy[str(name)] = seconds, sorted(found)
print(json.dumps(heavy))
"""


def python(*arguments, **more):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        **more,
    )


def test_help_imports_nothing_heavy():
    done = python('-c', LIGHT)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert {name: found for name, (_, found) in measured.items() if found} == {}
    assert max(seconds for seconds, _ in measured.values()) < 1


@pytest.mark.parametrize(
    'words', [('-m', 'bfcn_mm'), ('-c', 'import _bfcn_command; _bfcn_command.main()')]
)
def test_every_door_lists_the_commands(words):
    done = python('-X', 'importtime', *words, cwd=ROOT)
    assert done.returncode == 0
    assert all(f'  {name} ' in done.stdout for name in cli.COMMANDS)
    assert ' torch' not in done.stderr


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_tools_are_the_same_commands(name, tmp_path):
    done = run_here(TOOLS / f'{name}.py', '--help', cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f'usage: bfcn {name}')


def test_help_of_training_is_that_of_mmseg(capsys):
    with pytest.raises(SystemExit):
        cli.main(['train', '--help'])
    said = capsys.readouterr().out
    assert all(option in said for option in ('--work-dir', '--resume', '--amp', '--launcher'))


def test_version(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'bfcn {__version__}\n'


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(['exprot']) == 2
    assert "no command 'exprot', did you mean export?" in capsys.readouterr().err


def test_importing_registers_except_in_the_command():
    program = 'import {}bfcn_mm, sys; print("mmseg" in sys.modules); bfcn_mm.register(); '
    program += 'print("mmseg" in sys.modules, bfcn_mm.quantize_.__name__)'
    plain, command = (python('-c', program.format(first)) for first in ('', '_bfcn_command, '))
    assert plain.stdout.split() == ['True', 'True', 'quantize_']
    assert command.stdout.split() == ['False', 'True', 'quantize_']


def test_limits_of_verify_are_those_of_export():
    assert (verify.CODES, verify.PIXELS) == (verdict.CODES, verdict.PIXELS)
