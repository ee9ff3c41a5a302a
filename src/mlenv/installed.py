"""What foundation an environment that mlenv built holds: what is there, and from which files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlenv.system import generation, inventory
from mlenv.textfile import read_text
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Package:
    """One release; ``hashes`` are the SHA-256 of the files it may be, empty where nobody knows."""

    version: str
    hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The foundation in one environment. ``python`` is ``3.11``, or None where its folders don't say."""

    backend: str
    python: str | None
    packages: Mapping[str, Package]

    def as_json(self) -> dict[str, Any]:
        """It as JSON values, as ``mlenv detect --json`` tells it."""
        packages = sorted(self.packages.items())
        foundation = {name: {"version": p.version, "sha256": sorted(p.hashes)} for name, p in packages}
        return {"backend": self.backend, "python": self.python, "foundation": foundation}


def of_environment(environment: Path) -> Installed | None:
    """The foundation of the environment at a path; None where mlenv didn't build what is there."""
    built = generation.current(environment)
    if built is None:
        return None
    versions = inventory.read(built.path).versions
    name = f"pylock.{built.backend}.toml"
    tables = tomllib.loads(read_text(built.path / name, shown=name) or "").get("packages", [])
    planned = {str(table["name"]): table for table in tables}
    here = {*planned, *built.manifest.get("foundation", ())} & set(versions)
    python = inventory.site_packages(built.path).parent.name.removeprefix("python")
    return Installed(
        backend=built.backend,
        python=python if python[:1].isdigit() else None,
        packages={name: _package(versions[name], planned.get(name)) for name in sorted(here)},
    )


def _package(version: str, table: Mapping[str, Any] | None) -> Package:
    """Its hashes are known only while it is the release that was planned."""
    if table is None or str(table.get("version")) != version:
        return Package(version=version)
    files = [*table.get("wheels", ()), *filter(None, [table.get("sdist"), table.get("archive")])]
    hashes = {str(file.get("hashes", {}).get("sha256", "")) for file in files}
    return Package(version=version, hashes=frozenset(hashes - {""}))
