"""The folders of the project and of uv's cache: slow or full file systems, copies instead of links. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from mlenv.machine import Machine
from mlenv.report import Area, Finding
from mlenv.system.disks import Disk
from mlenv.system.uv_messages import OTHER_CACHE

GB = 10**9
PROJECT_NEEDS = 6 * GB
CACHE_NEEDS = 3 * GB
"""What a CUDA environment takes unpacked and what its wheels take (FACTS, Speed; cuda-facts.toml, size_mb)."""

# How WSL2 shows Windows' drives: 9p (drvfs before), virtiofs where that is switched on.
_WINDOWS_DRIVES = ("9p", "drvfs", "v9fs", "virtiofs")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "sshfs", "fuse.sshfs", "afs", "ceph", "lustre", "beegfs", "gpfs")
_SLOW_COPIES = (
    "each build copies every file where links do, and the disk holds them twice: of a CUDA environment 5.7 GB, 12 s "
    "instead of 0.6 s"
)


CACHE_NOT_WRITABLE = "cache-not-writable"
"""The finding that comes before everything that uv would do."""


def judge(machine: Machine, project: Disk | None, cache: Disk, *, link_mode: str | None) -> Area:
    """The area: the project's disk (None outside a project) beside that of uv's cache.

    ``link_mode`` is uv's, where a variable or uv.toml sets one.
    """
    findings = [*_cache(cache), *_copies(project, cache, link_mode)] if cache.writable else [_unwritable(cache)]
    if project is not None:
        findings = [*_project(machine, project), *findings]
    shown = [f"cache {cache.path}{_kind(cache)}, {_room(cache)}"]
    if project is not None:
        shown.insert(0, f"project{_kind(project)}, {_room(project)}")
    return Area(name="disks", seen="; ".join(shown), findings=tuple(findings))


def _project(machine: Machine, disk: Disk) -> Iterator[Finding]:
    if machine.wsl and disk.kind in _WINDOWS_DRIVES:
        yield Finding(
            kind="disk-windows-drive",
            message=f"the project is on a drive of Windows ({disk.mount}, {disk.kind})",
            why="each file goes through Windows: environments of 17,000 files take minutes to build, imports seconds",
            hint=f"move it into Linux' own file system: `cp -r {shlex.quote(str(disk.path))} ~/`",
            severity="warning",
        )
    elif disk.kind in _NETWORK:
        yield _on_network("the project", disk)
    if not disk.writable:
        yield Finding(
            kind="disk-read-only",
            message=f"{disk.path} can't be written by this user",
            why="`mlenv lock` and `mlenv sync` write there; `mlenv run` works all the same",
            hint=f"`ls -ld {shlex.quote(str(disk.path))}` shows who may",
            severity="warning",
        )
    if disk.free < PROJECT_NEEDS:
        yield _full(disk, "the project's disk", PROJECT_NEEDS, hint="`du -sh .mlenv/gen/*` shows what old builds take")


def _unwritable(disk: Disk) -> Finding:
    return Finding(
        kind=CACHE_NOT_WRITABLE,
        message=f"uv's cache {disk.path} can't be written by this user",
        why="uv stops at its first download",
        hint=OTHER_CACHE,
    )


def _cache(disk: Disk) -> Iterator[Finding]:
    if disk.kind in _NETWORK:
        yield _on_network("uv's cache", disk)
    if disk.free < CACHE_NEEDS:
        yield _full(disk, "the disk of uv's cache", CACHE_NEEDS, hint="`uv cache prune` drops what nothing uses")


def _copies(project: Disk | None, cache: Disk, mode: str | None) -> Iterator[Finding]:
    if project is not None and not project.writable:
        return  # nothing is built there
    if project is not None and not project.links_to(cache):
        yield Finding(
            kind="cache-elsewhere",
            message=f"uv's cache {cache.path} is on another file system than the project",
            why=_SLOW_COPIES,
            hint=f"put it beside the project: `export UV_CACHE_DIR={shlex.quote(str(_beside(project)))}`",
            severity="warning" if mode != "symlink" else "note",
        )
    elif mode == "copy":
        yield Finding(
            kind="link-mode-copy",
            message="uv's link mode is set to copy",
            why=_SLOW_COPIES,
            hint="`unset UV_LINK_MODE`, or take link-mode out of uv.toml",
            severity="warning",
        )


def _beside(project: Disk) -> Path:
    """A folder on the project's file system: next to the project, or inside where the project is mounted itself."""
    inside = Path(project.mount) == project.path
    return project.path / ".mlenv/uv-cache" if inside else project.path.parent / ".uv-cache"


def _on_network(what: str, disk: Disk) -> Finding:
    return Finding(
        kind="disk-network",
        message=f"{what} is on a network file system ({disk.mount}, {disk.kind})",
        why="thousands of small files are slow there, and file locks and links may not hold",
        hint="keep it on a local disk: `export UV_CACHE_DIR=/local/folder` for the cache, [tool.mlenv] environment "
        "for the environment",
        severity="warning",
    )


def _full(disk: Disk, what: str, needed: int, *, hint: str) -> Finding:
    return Finding(
        kind="disk-full",
        message=f"{what} has {_room(disk)} ({disk.mount or disk.path})",
        why=f"a CUDA environment takes about {needed // GB} GB there; the old one stands while the new one is built",
        hint=hint,
        severity="warning",
    )


def _kind(disk: Disk) -> str:
    return f" ({disk.kind})" if disk.kind else ""


def _room(disk: Disk) -> str:
    return f"{disk.free / GB:.1f} GB free"
