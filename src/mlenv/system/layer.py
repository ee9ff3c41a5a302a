"""An environment that is built for an image: one fixed folder, in one layer or in two.

Its marker, ``mlenv-image.json``, says that mlenv made the folder and, once the first layer is there, which foundation
it holds. It is complete only with the marker of every finished environment, ``mlenv.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlenv.system.files import write_atomically
from mlenv.values import dataclass

MARKER = "mlenv-image.json"
ADDING = "mlenv-adding.json"  # there while the second layer is being added: the files of the first
Stamps = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """The first layer as its marker describes it."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def backend(self) -> str:
        """The backend it was built for."""
        return str(self.manifest["backend"])

    @property
    def inputs(self) -> dict[str, str]:
        """What it was built from: name of the input → digest."""
        return {str(name): str(digest) for name, digest in self.manifest["inputs"].items()}

    @property
    def planned(self) -> dict[str, str]:
        """name → version of its packages."""
        return {str(name): str(version) for name, version in self.manifest["planned"].items()}

    @property
    def listed(self) -> Path:
        """Its packages with files and hashes (PEP 751)."""
        return self.path / f"pylock.{self.backend}.toml"


def marked(path: Path) -> bool:
    """Whether the folder is mlenv's, built for an image."""
    return (path / MARKER).is_file()


def begin(path: Path) -> None:
    """Mark the folder as ours, before anything is installed: an unfinished one may then be removed."""
    write_atomically(path / MARKER, json.dumps({"schema": 1}) + "\n")


def finish(path: Path, manifest: Mapping[str, Any]) -> None:
    """Mark the first layer as there."""
    write_atomically(path / MARKER, json.dumps({"schema": 1, "foundation": manifest}, indent=1, sort_keys=True) + "\n")


def read(path: Path) -> Foundation | None:
    """The first layer at ``path``; None where there is none."""
    try:
        manifest = json.loads((path / MARKER).read_text(encoding="utf-8"))["foundation"]
        found = Foundation(path=path, manifest=manifest)
        return found if {"inputs", "planned", "inventory", "python"} <= manifest.keys() and found.backend else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stamps(path: Path) -> Stamps:
    """Every file below ``path``, with what changes when anybody writes to it."""
    found = {}
    for file in _files(path):
        status = file.lstat()
        found[file.relative_to(path).as_posix()] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def written(path: Path, before: Stamps) -> tuple[str, ...]:
    """The files of ``before`` that were written to or removed since, sorted."""
    now = stamps(path)
    return tuple(sorted(name for name, stamp in before.items() if now.get(name) != stamp))


def begin_adding(path: Path) -> Stamps:
    """Note which files are there before the second layer is added, for ``take_away_half``; returns their stamps."""
    before = stamps(path)
    write_atomically(path / ADDING, json.dumps(sorted(before)) + "\n")
    return before


def end_adding(path: Path) -> None:
    """The second layer is complete, or what it added was removed."""
    if (path / ADDING).exists():  # where the image is read-only, not even a missing file can be removed
        (path / ADDING).unlink()


def take_away_half(path: Path) -> bool:
    """Remove what a second step added that was killed; whether there was one."""
    try:
        before = json.loads((path / ADDING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    remove_added(path, {*map(str, before), ADDING})
    end_adding(path)  # last, so that a kill in between leaves the same again
    return True


def remove_added(path: Path, before: Container[str]) -> None:
    """Remove the files that were not there ``before``, and the folders that are empty without them."""
    for file in _files(path):
        if file.relative_to(path).as_posix() not in before:
            with suppress(OSError):
                file.unlink()
                _remove_empty(file.parent, above=path)


def _remove_empty(folder: Path, *, above: Path) -> None:
    """Remove a folder and those around it up to ``above``, until one holds something."""
    with suppress(OSError):
        while folder != above:
            folder.rmdir()
            folder = folder.parent


def _files(path: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(path):
        linked = (name for name in names if Path(folder, name).is_symlink())
        yield from (Path(folder, name) for name in (*files, *linked))
