"""worker.py as a child: one plan in, one result out, progress shown, and no end later than our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from .contenders import CAPS

_WORKER = Path(__file__).with_name('worker.py')
_PROGRESS = 'progress: '


def measure(plan: dict) -> list[dict] | dict | None:
    """Carry out a plan in a process of its own. Raises RuntimeError with its last words if it fails.

    Its standard input is a pipe from here, which ends when we do, however that comes about.
    """
    with tempfile.TemporaryDirectory(prefix='bfcn-plan-') as name:
        folder = Path(name)
        (folder / 'plan.json').write_text(json.dumps(plan))
        status = _run(folder, _environment(plan))
        if status or not (folder / 'result.json').exists():
            said = (folder / 'stderr').read_text(errors='replace').strip().splitlines()
            raise RuntimeError(
                f'the measuring process failed: {(said or [f"status {status}"])[-1]}'
            )
        return json.loads((folder / 'result.json').read_text())


def end_with_parent() -> None:
    """In the child: leave at once when the other end of standard input is gone."""

    def wait() -> None:
        while os.read(0, 1):  # sys.stdin's lock would be held at exit
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def progress(text: str) -> None:
    """In the child: what the parent is to show."""
    print(f'{_PROGRESS}{text}', flush=True)


def _environment(plan: dict) -> dict[str, str]:
    """Ours, with what caps the plan's instruction set and nothing else that does."""
    caps = {name for cap in CAPS.values() for name in cap}
    env = {name: value for name, value in os.environ.items() if name not in caps}
    env |= CAPS.get(plan['isa'], {})
    return env | dict(
        OMP_NUM_THREADS=str(plan['threads']), CI='true'
    )  # no usage data: files._quiet


def _run(folder: Path, env: dict[str, str]) -> int:
    command = [sys.executable, str(_WORKER), str(folder / 'plan.json'), str(folder / 'result.json')]
    with (folder / 'stderr').open('wb') as errors:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        child = subprocess.Popen(command, env=env, text=True, **pipes)
        try:
            for line in child.stdout:
                if line.startswith(_PROGRESS):
                    print(line.removeprefix(_PROGRESS), end='', file=sys.stderr, flush=True)
            return child.wait()
        finally:  # what ends us ends it, too
            child.kill()
            child.wait()
