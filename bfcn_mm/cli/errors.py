"""Errors as a user of a command sees them: one line, and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SELF_EXPLAINING = (ValueError, OSError, RuntimeError, MemoryError, ImportError, SyntaxError)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """An error becomes one line on stderr and exit status 1.

    Errors whose text seldom tells what they are about also name the line of code. With
    BFCN_TRACEBACK=1 an error is raised as it is. Ctrl-C ends with status 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get('BFCN_TRACEBACK') == '1':
            raise
        text = ' '.join(str(error).split())
        if not isinstance(error, SELF_EXPLAINING) or not text:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f'{text} [{Path(place.filename).name}, line {place.lineno}]'.lstrip()
        sys.exit(f'{type(error).__name__}: {text} (BFCN_TRACEBACK=1 shows where)')
