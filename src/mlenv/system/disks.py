"""Where a folder lies: its file system, the room left there, whether we may write."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlenv.values import dataclass

_MOUNTS = Path("/proc/self/mounts")
# Where Linux' own driver puts its libraries; WSL2's, which are Windows', are in /usr/lib/wsl/lib.
_DRIVER_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/local/lib")
_DRIVER_FILES = ("libcuda.so.1", "libnvidia-ml.so.1")
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Where ``path``, or the nearest folder above it that is there, lies.

    ``mount`` and ``kind`` (``ext4``, ``9p``, ``nfs4``) are empty where the system doesn't tell; ``free`` is in bytes.
    """

    path: Path
    device: int
    mount: str
    kind: str
    free: int
    writable: bool

    def links_to(self, other: Disk) -> bool:
        """Whether a file of one can be a hard link in the other: one device, seen through one mount."""
        return (self.device, self.mount) == (other.device, other.mount)


def look(path: Path) -> Disk:
    """The disk of ``path``. Raises OSError."""
    import shutil

    there = next(folder for folder in (path, *path.parents) if folder.exists()).resolve()
    mount, kind = mount_of(there, _mounts())
    return Disk(
        path=path,
        device=there.stat().st_dev,
        mount=mount,
        kind=kind,
        free=shutil.disk_usage(there).free,
        writable=there.is_dir() and os.access(there, os.W_OK | os.X_OK),
    )


def mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """(mount point, type) of the file system that ``path`` is on, by the text of /proc/mounts.

    The last one that covers it counts: what is mounted later hides what was there.
    """
    found = ("", "")
    for fields in map(str.split, mounts.splitlines()):
        if len(fields) < 3:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[1])
        if path.is_relative_to(point):
            found = (point, fields[2])
    return found


def _mounts() -> str:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def linux_drivers(root: Path = Path("/")) -> tuple[str, ...]:
    """Libraries of a Linux driver of NVIDIA's that are installed under ``root``."""
    paths = (root / folder / name for folder in _DRIVER_FOLDERS for name in _DRIVER_FILES)
    return tuple(str(path) for path in paths if path.exists())


@dataclass(frozen=True, kw_only=True)
class Use:
    """The bytes that a folder takes: in all, and those that no hard link elsewhere (uv's cache) would keep."""

    total: int
    alone: int


def use(folder: Path) -> Use:
    """What a folder takes on its disk; what can't be read counts for nothing."""
    total = alone = 0
    stack = [os.fspath(folder)]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            size = getattr(status, "st_blocks", 0) * 512 or status.st_size
            total += size
            alone += size if status.st_nlink == 1 or entry.is_dir(follow_symlinks=False) else 0
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
    return Use(total=total, alone=alone)


def shown(size: int) -> str:
    """``5.7 GB``, ``21 MB``, ``2.8 MB``"""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
