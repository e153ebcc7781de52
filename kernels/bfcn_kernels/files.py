"""Files of models: read whole into memory, replaced whole on disk."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bfcn_kernels.gguf_container import FileError


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class FolderError(FileError, IsADirectoryError):
    """A folder where a file was named."""


class UnreadableFileError(FileError, OSError):
    """The system does not let this file be read."""


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file: a copy, because others may cut a file that is mapped.

    Raises FileError where it is missing, unreadable, empty, no regular file, or changes size meanwhile.
    What the system refuses is an OSError (FileNotFoundError etc.), too.
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) != size:
        raise FileError(f'{path}: the size changed while the file was read, from {size} bytes')
    return data


def file_bytes(path: str | Path) -> int:
    """The size of a file that read_bytes would read. Raises as read_bytes does."""
    with _open(path) as file:
        return os.fstat(file.fileno()).st_size


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file in path's folder that takes path's place when the block ends well.

    After an error, Ctrl-C included, path is as it was and the temporary file is gone. What path had for
    permissions stays; a link's target is replaced, not the link. Raises OSError, also where path is a
    folder or a device.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f'{path} must be a regular file or absent to be written')
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary = target.with_name(f'.{target.name}.{secrets.token_hex(4)}.tmp')
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: str | Path):
    """A regular, non-empty file, opened for reading; a pipe is not waited for."""
    extra = getattr(os, 'O_NONBLOCK', 0)
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | extra), 'rb')
    except FileNotFoundError as error:
        raise MissingFileError(f'{path}: {error.strerror}') from error
    except IsADirectoryError as error:
        raise FolderError(f'{path}: {error.strerror}') from error
    except OSError as error:
        raise UnreadableFileError(f'{path}: {error.strerror}') from error
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return file
    file.close()
    regular = stat.S_ISREG(status.st_mode)
    raise FileError(f'{path}: {"the file is empty" if regular else "this is no regular file"}')
