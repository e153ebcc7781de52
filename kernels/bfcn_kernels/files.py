"""Files that strangers wrote, read whole: what is mapped can be cut while it is in use."""

import os
import stat
from pathlib import Path

from bfcn_kernels.gguf_container import FileError


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a file. Raises FileError unless it is there, regular, readable and not empty."""
    try:
        mode = os.stat(path).st_mode  # a pipe is not opened: that waits for a writer
        if stat.S_ISDIR(mode):
            raise FileError(f'{path}: is a folder, not a packed model')
        if not stat.S_ISREG(mode):
            raise FileError(f'{path}: a packed model must be a regular file')
        data = Path(path).read_bytes()
    except OSError as err:
        raise FileError(f'{path}: {err.strerror}') from err
    if not data:
        raise FileError(f'{path}: the file is empty')
    return data
