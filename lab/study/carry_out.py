"""Train, measure and record the runs of a study, each once, whatever is interrupted on the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from .ledger import COLLAPSED, DONE, Ledger, Row, locked
from .progress import Progress
from .runs import Run, chain

COLLAPSE = 'training collapsed'
# What may differ between machines without making it another experiment.
_ELSEWHERE = ('work_dir', 'load_from', 'resume', 'launcher', 'randomness', 'env_cfg', 'log_level')


@dataclass(frozen=True)
class Place:
    """Where a study lives. root: of the repository; work: of the work directories; data: data_root of
    every run; scale, device: as in the command line; threads: of each process."""

    root: Path
    work: Path
    data: str
    scale: str
    device: str = 'cpu'
    threads: int = 1


@dataclass(frozen=True, eq=False)
class Job:
    """One run with one seed. hash: of its config and of its ancestors'. folder: its work directory."""

    run: Run
    seed: int
    hash: str
    folder: Path
    total_iters: int

    @property
    def label(self) -> str:
        return f'{self.run.name}, seed {self.seed}'

    @property
    def checkpoint(self) -> Path:
        return self.folder / f'iter_{self.run.iters}.pth'

    @property
    def trained(self) -> bool:
        """Whether the last weights are there, written to their end: mmengine notes that afterwards."""
        note = self.folder / 'last_checkpoint'
        noted = note.exists() and Path(note.read_text().strip()).name == self.checkpoint.name
        return noted and self.checkpoint.exists()

    @property
    def packed(self) -> Path | None:
        return self.folder / 'model.gguf' if self.run.packed else None


def make_jobs(
    runs: Mapping[str, Run], selected: Iterable[Run], seeds: Iterable[int], place: Place
) -> list[Job]:
    """All jobs of one seed before those of the next."""
    hashes: dict[str, str] = {}
    selected = list(selected)
    for run in selected:
        hashes[run.name] = _hash(run, hashes, place)
    return [
        Job(
            run,
            seed,
            hashes[run.name],
            place.work / place.scale / f'{run.name}-s{seed}-{hashes[run.name]}',
            sum(part.iters for part in chain(runs, run.name)),
        )
        for seed in seeds
        for run in selected
    ]


def carry_out(jobs: Sequence[Job], ledger: Ledger, place: Place, progress: Progress) -> list[str]:
    """Train and measure what the ledger lacks; returns a line for each job that failed.

    A job that another process has in its hands is left to it, and looked at again later. What needs a
    failed job is not tried.
    """
    pending, failed, lost = list(jobs), [], set()
    progress.plan(jobs, [job for job in jobs if not _open(job, jobs, ledger)])
    while pending:
        moved = False
        for job in list(pending):
            needs = _needed(job, jobs)
            if gone := [other for other in needs if other in lost]:
                failed.append(f'{job.label}: not tried, it needs {gone[0].label}')
                lost.add(job)
            elif any(other in pending for other in needs):
                continue
            elif _open(job, pending, ledger):
                with locked(job.folder / '.lock', wait=False) as lock:
                    if not lock:
                        continue
                    if _open(job, pending, ledger):
                        child = Child(place, job.folder / 'study.log', lock, progress)
                        reason = _carry_out_one(job, needs, ledger, place, child)
                        if reason:
                            failed.append(f'{job.label}: {reason}')
                            lost.add(job)
            pending.remove(job)
            moved = True
            break
        if not moved:
            progress.wait(pending[0])
            time.sleep(5)
    return failed


def _open(job: Job, others: Sequence[Job], ledger: Ledger) -> bool:
    """Whether something is left to do: the row, or weights that a job with an open row begins with."""
    rows = {row.key: row for row in ledger.read()}
    row = rows.get((job.run.name, job.seed, place_of(job), job.hash))
    if row is None:
        return True
    if row.status == COLLAPSED or job.trained:
        return False
    return any(job in _needed(other, others) and _open(other, others, ledger) for other in others)


def place_of(job: Job) -> str:
    """The scale of a job."""
    return job.folder.parent.name


def _needed(job: Job, jobs: Sequence[Job]) -> list[Job]:
    return [other for other in jobs if other.seed == job.seed and other.run.name in job.run.needs]


def _carry_out_one(job: Job, needs: list[Job], ledger: Ledger, place: Place, child: Child) -> str:
    """'' when done, else why not, in one line. KeyboardInterrupt passes when the child has ended."""
    started = time.monotonic()
    path = write_config(job, needs, place)
    progress = child.progress
    row = dict(
        run=job.run.name,
        seed=job.seed,
        scale=place.scale,
        hash=job.hash,
        commit=commit_of(place.root),
        config=job.run.config,
        start=job.run.start or '',
        device=device_name(place.device),
        iters=job.run.iters,
        total_iters=job.total_iters,
    )
    if not job.trained:
        missing = [other.label for other in needs if not other.trained]
        if missing:
            return f'not tried, {missing[0]} left no weights'
        progress.start(job, 'starting')
        reason = child.run(_training(job, path, place))
        if COLLAPSE in reason:
            ledger.append(Row(**row, status=COLLAPSED))
            return ''
        if reason:
            return reason
        _add_seconds(job, time.monotonic() - started)
    result = job.folder / 'result.json'
    command = [sys.executable, '-m', 'lab.study.measure', path, job.checkpoint]
    command += ['--out', result, *(['--packed', job.packed] if job.packed else [])]
    progress.start(job, 'measuring')
    reason = child.run(command)
    if reason:
        return reason
    row |= json.loads(result.read_text()) | dict(seconds=_seconds(job))
    ledger.append(Row(**row, status=DONE))
    progress.done(job, row)
    return ''


def write_config(job: Job, needs: Sequence[Job], place: Place) -> Path:
    """The whole config of a job, as a file in its work directory."""
    cfg = _config(job.run, place)
    folders = {other.run.name: other.checkpoint for other in needs}
    changes: dict = {
        f'{part}_dataloader.dataset.data_root': place.data for part in ('train', 'val', 'test')
    }
    changes |= {
        'work_dir': str(job.folder),
        'randomness.seed': job.seed,
        'load_from': str(folders[job.run.start]) if job.run.start else None,
    }
    if job.run.teacher:
        changes['quant'] = dict(distill=dict(teacher=str(folders[job.run.teacher])))
    cfg.merge_from_dict(changes)
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / 'run.py'
    cfg.dump(path)
    return path


def _config(run: Run, place: Place) -> Config:
    """The run's config on any machine: its schedule, and checkpoints to go on from."""
    cfg = Config.fromfile(place.root / run.config)
    options = dict(run.options)
    if run.teacher:
        options['quant'] = dict(
            options['quant'], distill=dict(options['quant']['distill'], teacher='teacher')
        )
    cfg.merge_from_dict(options)
    cfg.merge_from_dict(
        {
            'train_cfg.max_iters': run.iters,
            'train_cfg.val_interval': max(1, run.iters // 5),
            'param_scheduler.0.end': run.iters,
            'default_hooks.checkpoint.interval': max(1, run.iters // 20),
            'default_hooks.checkpoint.max_keep_ckpts': 2,  # one is whole while another is written
            'default_hooks.checkpoint.save_best': None,  # the last weights count: nothing is chosen on
            'default_hooks.logger.interval': max(1, min(50, run.iters // 8)),
        }
    )
    hooks = list(cfg.get('custom_hooks') or [])
    if 'ExactResumeHook' not in [hook['type'] for hook in hooks]:  # quant brings it along
        cfg.custom_hooks = [*hooks, dict(type='ExactResumeHook')]
    return cfg


def _hash(run: Run, hashes: Mapping[str, str], place: Place) -> str:
    """Eight digits for the config and for what it begins with and learns from."""
    config = {k: v for k, v in _config(run, place).to_dict().items() if k not in _ELSEWHERE}
    config['default_hooks'] = None  # logging and saving change no weight
    parts = [config, *(hashes[name] for name in run.needs)]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _training(job: Job, path: Path, place: Place) -> list[object]:
    command = [sys.executable, place.root / 'tools/train.py', path, '--work-dir', job.folder]
    if (job.folder / 'last_checkpoint').exists():
        command += [
            '--resume',
            '--cfg-options',
            'load_from=None',
        ]  # mmengine would resume from that
    return command


@dataclass(frozen=True)
class Child:
    """Runs programs of the study, their output appended to `log`. lock: a file descriptor that they
    inherit, so that a folder stays taken while one lives."""

    place: Place
    log: Path
    lock: int
    progress: Progress

    def run(self, command: Sequence[object]) -> str:
        """To its end; '' or, if it failed, its last line. Ctrl-C is passed on once: training then
        writes a checkpoint before it ends. Another Ctrl-C ends it at once."""
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.place.root,
            env=os.environ | self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
            pass_fds=[self.lock],
        )
        last = ''
        with self.log.open('a', buffering=1) as file:
            try:
                for line in process.stdout:
                    file.write(line)
                    last = line.strip() or last
                    self.progress.show(line)
                status = process.wait()
            except KeyboardInterrupt:
                file.write(_end(process))
                raise
        return '' if status == 0 else f'{last} (status {status}, {self.log})'

    def _environment(self) -> dict[str, str]:
        root, threads = self.place.root, str(self.place.threads)
        env = dict(
            PYTHONPATH=os.pathsep.join([str(root), str(root / 'kernels')]),
            OMP_NUM_THREADS=threads,
            OMP_WAIT_POLICY='PASSIVE',
        )
        return env | (dict(CUDA_VISIBLE_DEVICES='') if self.place.device == 'cpu' else {})


def _end(process: subprocess.Popen) -> str:
    """Tell a child to stop, more firmly each minute or at each further Ctrl-C; what it still said."""
    for tell in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(tell)
        try:
            return process.communicate(timeout=60)[0] or ''
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            pass
    return ''


def _seconds(job: Job) -> float | None:
    path = job.folder / 'seconds.json'
    return json.loads(path.read_text()) if path.exists() else None


def _add_seconds(job: Job, seconds: float) -> None:
    """Wall time of training. One that was interrupted is not known in whole: nothing is written."""
    logs = len(list(job.folder.glob('*/vis_data')))
    if logs == 1:
        (job.folder / 'seconds.json').write_text(json.dumps(round(seconds, 1)))


def commit_of(root: Path) -> str:
    """The commit, with '+' if files that git follows have changed; '' outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(['git', '-C', root, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ''

    commit = git('rev-parse', '--short=10', 'HEAD')
    return commit + ('+' if git('status', '--porcelain', '-uno') else '') if commit else ''


def device_name(device: str) -> str:
    """What the CSV says: the GPU's or the processor's own name."""
    if device != 'cpu':
        import torch

        return torch.cuda.get_device_name(0)
    info = Path('/proc/cpuinfo')
    names = re.findall(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else []
    return names[0] if names else 'cpu'
