"""Files that are replaced whole, and the lock that only one mlenv holds at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlenv.errors import BusyError, EnvironmentBuildError


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by rename, flushed to disk, its mode kept: a reader sees the old text or the new one.

    Raises EnvironmentBuildError where it can't be written.
    """
    target = path.resolve() if path.is_symlink() else path
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode(target))
        os.replace(temporary, target)  # noqa: PTH105 - named for what it does
    except OSError as error:
        if temporary:
            with suppress(OSError):
                Path(temporary).unlink()
        raise EnvironmentBuildError(
            f"can't be written: {error.strerror}",
            path=path.name,
            hint="check the permissions of its folder and the space left",
        ) from error


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


@contextmanager
def project_lock(state: Path, *, wait: float, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the project's lock file in ``state``; ``wait`` is in seconds.

    Raises BusyError where another mlenv still holds it then, EnvironmentBuildError where it can't be made.
    """
    from filelock import FileLock, Timeout

    try:
        make_state(state)
        lock = FileLock(state / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait <= 0:
                raise
            waiting(f"another mlenv holds this project; waiting up to {wait:g} s")
            lock.acquire(timeout=wait)
    except Timeout as error:
        longer = f" for more than {wait:g} s" if wait > 0 else ""
        raise BusyError(
            f"another mlenv holds this project{longer}", hint="let it finish, or wait longer: --wait SECONDS"
        ) from error
    except OSError as error:
        raise EnvironmentBuildError(
            f"can't be written: {error.strerror}",
            path=str(state),
            hint="is the project read-only? `mlenv run` and `mlenv lock --check` write nothing",
        ) from error
    try:
        yield
    finally:
        lock.release()


def make_state(state: Path) -> None:
    """Make mlenv's own folder; a .gitignore inside keeps it out of commits whatever the project's says."""
    state.mkdir(parents=True, exist_ok=True)
    ignore = state / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
