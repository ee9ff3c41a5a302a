"""Private folders for the time of a call; what ``kill -9`` left of them is removed by the next one that makes one."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX = ".mlenv-uv-"
_NAME = rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}"  # as tempfile completes it: nobody else's folder
_OLD_SECONDS = 600.0  # a new one is not held yet


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, its path without links, which is gone afterwards."""
    import tempfile

    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, _held(Path(name)):
        yield Path(name).resolve()


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A lock on the folder itself, which ends with this process, whatever ends it."""
    handle = _locked(path)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(path: Path) -> int | None:
    """A handle that holds the folder; None where another process does, or the system has no such lock."""
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@cache
def _sweep() -> None:
    """Remove this user's old folders that no process holds; once a process."""
    import tempfile

    for entry in os.scandir(tempfile.gettempdir()):
        if re.fullmatch(_NAME, entry.name):
            with suppress(OSError):
                _remove_unheld(Path(entry.path))


def _remove_unheld(path: Path) -> None:
    status = path.lstat()
    if status.st_uid != os.getuid() or time.time() - status.st_mtime < _OLD_SECONDS:
        return
    handle = _locked(path)
    if handle is not None:
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)
