"""What Triton compiles for GPUs gives the oracle's numbers, run on a machine in numpy; no GPU needed.

BFCN_FULL=1 (make gpu-compile) runs more networks, and every tile that tuning may choose.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bfcn_kernels

HERE = Path(__file__).parent
FULL = os.environ.get('BFCN_FULL') == '1'
CASES = ['toy', 'training']
MORE = ['one pixel', 'random', 'r18', 'tiles']


def run(case: str, sm: int) -> str:
    paths = [str(HERE), str(Path(bfcn_kernels.__file__).parents[1]), *sys.path]
    environment = os.environ | {'TRITON_INTERPRET': '0', 'PYTHONPATH': os.pathsep.join(paths)}
    command = [sys.executable, str(HERE / 'run_compiled.py'), case, str(sm)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize('sm', [80, 90] if FULL else [90])
def test_one_bit_tensor_cores_join_in(sm):
    if (result := run('one bit', sm)).startswith('no nvcc'):
        pytest.skip(result)
    assert result == 'equal'


@pytest.mark.parametrize('sm', [80, 90])
@pytest.mark.parametrize('case', [*CASES, *(MORE if FULL else [])])
def test_compiled_code_gives_the_oracles_numbers(case, sm):
    assert run(case, sm) == 'equal'


def test_a_wrong_constant_in_the_code_is_found():
    assert run('spoiled', 80) == 'stem differs'
