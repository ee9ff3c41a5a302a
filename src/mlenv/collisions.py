"""Packages of a plan that would overwrite each other's files, known before they are fetched (FACTS, CUDA 8). Pure."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from mlenv.errors import ResolutionError
from mlenv.values import dataclass

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Collision:
    """The packages that write the same paths with different content."""

    packages: tuple[str, ...]
    paths: tuple[str, ...]


def installed_files(record: str) -> dict[str, str]:
    """Where a wheel's RECORD says its files come to lie, with the hash of each: path → ``sha256=...``.

    ``name.data/purelib`` and ``platlib`` are site-packages as well; its other folders keep their names. What stands in
    a ``.dist-info`` is nobody else's.
    """
    found = {}
    for path, digest, *_ in (row for row in csv.reader(record.splitlines()) if len(row) >= 2):
        first, _, rest = path.partition("/")
        if first.endswith(".dist-info") or not digest:
            continue
        if first.endswith(".data"):
            kind, _, inner = rest.partition("/")
            path = inner if kind in ("purelib", "platlib") else f".data/{rest}"
        found[path] = digest
    return found


def find(files: Mapping[str, Mapping[str, str]]) -> tuple[Collision, ...]:
    """The packages (name → ``installed_files``) that collide. Equal content does no harm (``nvidia/__init__.py``)."""
    owners: dict[str, dict[str, str]] = {}
    for name, paths in files.items():
        for path, digest in paths.items():
            owners.setdefault(path, {})[name] = digest
    told: dict[tuple[str, ...], list[str]] = {}
    for path, holders in owners.items():
        if len(set(holders.values())) > 1:
            told.setdefault(tuple(sorted(holders)), []).append(path)
    return tuple(Collision(packages=names, paths=tuple(sorted(paths))) for names, paths in sorted(told.items()))


def refusal(found: tuple[Collision, ...], versions: Mapping[str, str], *, backend: str) -> ResolutionError:
    """The error that names them."""
    told = "".join(
        f"\n  {' and '.join(f'{name} {versions[name]}' for name in one.packages)}: {_some(one.paths)}" for one in found
    )
    return ResolutionError(
        f"packages of the foundation of {backend} would overwrite each other's files; nothing was fetched{told}",
        hint="drop one of the two from what is required, or require other releases of what brings them; "
        "with --verify none they are installed all the same",
    )


def _some(paths: tuple[str, ...]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
