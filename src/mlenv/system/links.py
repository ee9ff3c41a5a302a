"""Links to folders, and the one-step exchange of two folders, on every platform."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux: renameat2(2)
_RENAME_SWAP = 2  # macOS: renamex_np(2)


def make_link(link: Path, target: str, *, windows: bool) -> None:
    """A link to a folder: a junction on Windows, where a symbolic link needs a right that users don't have."""
    if windows:
        import _winapi

        create: Callable[[str, str], None] = _winapi.CreateJunction  # type: ignore[attr-defined]
        create(str((link.parent / target).resolve()), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def is_link(path: Path) -> bool:
    """Whether it is a symbolic link or, on Windows, a junction."""
    try:
        path.readlink()
    except OSError:
        return False
    return True


def remove_link(path: Path) -> None:
    """Remove a link, never what it points to: a junction is removed as a folder is."""
    if os.name == "nt":
        path.rmdir()
    else:
        path.unlink()


def exchange(first: Path, second: Path) -> None:
    """Let two names (folders or links, on one file system) change places in one step; raises OSError.

    Where the platform or the file system has no such step (Windows, some network file systems) it takes three
    renames, and for a moment there is nothing at ``second``.
    """
    try:
        _exchange_at_once(first, second)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        _exchange_in_steps(first, second)


def _exchange_at_once(first: Path, second: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2") and sys.platform == "linux":
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)  # type: ignore[union-attr]
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, _RENAME_SWAP)  # type: ignore[union-attr]
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(second))


def _exchange_in_steps(first: Path, second: Path) -> None:
    between = first.with_name(f"{first.name}.exchanged")
    second.rename(between)
    try:
        first.rename(second)
    except OSError:
        between.rename(second)
        raise
    between.rename(first)
