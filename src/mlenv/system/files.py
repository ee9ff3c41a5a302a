"""Files that are replaced whole, and the lock that only one mlenv holds at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlenv.errors import BusyError, EnvironmentBuildError


def write_atomically(path: Path, text: str, *, staging: Path | None = None, shown: str | None = None) -> None:
    """Replace ``path`` by rename, flushed to disk, its mode kept: a reader sees the old text or the new one.

    The new text is first written beside it, or in ``staging`` where the project's lock is held: a folder in which
    nobody minds what ``kill -9`` leaves, until the next time. Raises EnvironmentBuildError, where it can't be written;
    ``shown`` is what that calls the file.
    """
    target = path.resolve() if path.is_symlink() else path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if staging is None or not _replaced_from(staging, target, text):
            _replace(target, text, folder=target.parent)
    except OSError as error:
        raise EnvironmentBuildError(
            f"can't be written: {error.strerror}",
            path=shown or path.name,
            hint="check the permissions of its folder and the space left",
        ) from error


def _replaced_from(staging: Path, target: Path, text: str) -> bool:
    """Replace it by way of ``staging``; False where that is on another file system or a mount of its own."""
    for left in staging.glob(f".{target.name}.*"):
        left.unlink()
    try:
        _replace(target, text, folder=staging)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def _replace(target: Path, text: str, *, folder: Path) -> None:
    import tempfile  # a command that writes nothing need not pay for it

    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode(target))
        os.replace(temporary, target)  # noqa: PTH105 - named for what it does
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


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
    if not ignore.exists() or not ignore.stat().st_size:  # an empty one was left by a full disk
        ignore.write_text("*\n", encoding="utf-8")


def names_in(folder: Path) -> tuple[str, ...]:
    """The names in a folder, sorted; empty where it can't be listed."""
    try:
        return tuple(sorted(path.name for path in folder.iterdir()))
    except OSError:
        return ()
