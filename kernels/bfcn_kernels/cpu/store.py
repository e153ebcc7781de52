"""The folder of built libraries: whose it is, one builder at a time, whether a file in it is whole."""

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAGIC = b'bfcn-seal'
_ALIEN = 'set BFCN_CACHE to a folder of your own'


def folder() -> Path:
    """BFCN_CACHE, or bfcn_kernels in XDG_CACHE_HOME or ~/.cache; it need not exist."""
    if os.environ.get('BFCN_CACHE'):
        return Path(os.environ['BFCN_CACHE']).absolute()
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home).absolute() / 'bfcn_kernels'


def check_owner(path: Path) -> None:
    """Raise RuntimeError if someone other than this user and root could have put code into a path."""
    about = path.stat()
    if about.st_uid not in (os.geteuid(), 0):
        raise RuntimeError(
            f'{path} belongs to user {about.st_uid}, not to you ({os.geteuid()}), '
            f'and no code is loaded from there: {_ALIEN}'
        )
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(
            f'{path} can be written by others (mode {stat.S_IMODE(about.st_mode):o}), '
            f'and no code is loaded from there: chmod go-w it, or {_ALIEN}'
        )


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the folder's lock; a process that ends, however it ends, gives it up.

    What killed builders left behind is removed. Where the file system has no locks, nothing is held, and
    several may build at once, each its own file.
    """
    with open(place / '.lock', 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield
            return
        for left in place.glob('.build-*'):
            shutil.rmtree(left, ignore_errors=True)
        yield


def seal(path: Path, **about: str) -> None:
    """Append what a library is made of and the digest of its bytes; a loader ignores both."""
    about['sha256'] = hashlib.sha256(path.read_bytes()).hexdigest()
    record = json.dumps(about).encode()
    with path.open('ab') as file:
        file.write(record + len(record).to_bytes(4, 'little') + _MAGIC)


def is_sealed(path: Path) -> bool:
    """Whether a file ends as `seal` leaves it."""
    return path.read_bytes().endswith(_MAGIC)


def read_seal(path: Path) -> dict[str, str] | None:
    """What `seal` has written; None if there is none, or if the bytes are others."""
    data = path.read_bytes()
    end = len(data) - len(_MAGIC) - 4
    if end < 0 or not data.endswith(_MAGIC):
        return None
    start = end - int.from_bytes(data[end : end + 4], 'little')
    try:
        about = json.loads(data[max(start, 0) : end])
    except ValueError:
        return None
    whole = hashlib.sha256(data[: max(start, 0)]).hexdigest() == about.get('sha256')
    return about if whole else None
