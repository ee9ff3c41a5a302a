"""What somebody put into an environment by hand, which a new one does not have."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from mlenv.system import inventory
from mlenv.system.files import names_in
from mlenv.system.generation import Generation

_CACHE = "__pycache__"
_OF_BUILD = "pylock."  # each generation has its plan, and the record of its backend


def put_in(old: Generation, new: Path) -> tuple[str, ...]:
    """The paths in ``old`` that it was not finished with, no package brought and ``new`` lacks, sorted.

    In site-packages only the names at its top are looked at, and RECORDs are read only where a file is suspect: it
    takes milliseconds.
    """
    try:
        site = inventory.site_packages(old.path)
        finished_with = set(map(str, old.manifest["inventory"].get("", [])))
        prefix = site.relative_to(old.path).as_posix()
        top = [f"{prefix}/{name}" for name in names_in(site) if name not in {*finished_with, _CACHE}]
        found = [path for path in _files(old.path, without=prefix) if path not in finished_with]
    except OSError:
        return ()
    lacking = [path for path in (*top, *found) if not os.path.lexists(new / path)]
    brought = _brought(site, prefix) if set(lacking) - set(top) else frozenset()
    return tuple(sorted(path for path in lacking if path not in brought))


def _files(root: Path, *, without: str) -> Iterator[str]:
    """Every file below ``root``, but for what is below ``without``, caches and mlenv's own."""
    stack = [""]
    while stack:
        folder = stack.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if not entry.is_dir(follow_symlinks=False):
                    yield from () if path.startswith(_OF_BUILD) else (path,)
                elif path != without and entry.name != _CACHE:
                    stack.append(path)


def _brought(site: Path, prefix: str) -> frozenset[str]:
    """What the packages' RECORDs name outside of site-packages."""
    lines = (line for path in site.glob("*.dist-info/RECORD") for line in path.read_text("utf-8").splitlines())
    return frozenset(
        posixpath.normpath(f"{prefix}/{line.rsplit(',', 2)[0].strip(chr(34))}") for line in lines if "../" in line
    )
