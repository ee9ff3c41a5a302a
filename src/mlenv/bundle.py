"""Bundles: lock, records and wheels in one folder, for use without a network; ``bundle.json`` says what is there. Pure.

The plans are PEP 751 files whose wheels have paths in the bundle. No URL and no index is in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlenv import plan as plan_module
from mlenv.catalogue import Channel
from mlenv.errors import FindingError, IntegrityError, ProjectError
from mlenv.lockfile import Pin
from mlenv.plan import APPLICATION, Plan, Planned
from mlenv.values import dataclass

SCHEMA = 1
MANIFEST = "bundle.json"
WHEELS = "wheels"
BUILD = "build"
TOOL = "tool"
PLANS = "plans"
PROJECT = "project"
README = "README.txt"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the bundle: its POSIX path there, hash and size. ``source`` is the SHA-256 of what it was built from.

    ``source`` is empty for what was fetched or written.
    """

    path: str
    sha256: str
    size: int
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the bundle holds for one backend and platform: its plan, which of it is foundation, where that came from.

    ``inputs`` are digests of what of the project decides what an environment holds.
    """

    backend: str
    platform: str
    plan: str
    source: str
    foundation: tuple[str, ...]
    inputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """``bundle.json``: made for one Python (``3.11``) and channel, by which release of mlenv."""

    made_by: str
    python: str
    channel: Channel
    parts: tuple[Part, ...]
    files: tuple[File, ...]

    @property
    def by_path(self) -> dict[str, File]:
        """The files by path."""
        return {file.path: file for file in self.files}

    def part(self, backend: str, *, platform: str, python: str, channel: Channel, shown: str) -> Part:
        """The part for a target. Raises ProjectError, which says what is there; ``shown`` is what the bundle is called.

        ``python`` is that of the lock.
        """
        if python.split(".")[:2] != self.python.split(".")[:2]:
            message = f"the bundle is made for Python {self.python}, the lock for Python {python}"
            raise ProjectError(message, path=shown, hint=_AGAIN)
        if channel != self.channel:
            message = f"the bundle is of the {self.channel} channel"
            hint = "leave --nightly off" if channel == "nightly" else "add --nightly"
            raise ProjectError(message, path=shown, hint=f"{hint}; or make another bundle")
        for part in self.parts:
            if (part.backend, part.platform) == (backend, platform):
                return part
        there = ", ".join(f"{part.backend} on {part.platform}" for part in self.parts)
        words = f"`mlenv bundle --backend {backend} --platform {platform} -o PATH`"
        message = f"the bundle holds nothing for {backend} on {platform}; it is for {there}"
        raise ProjectError(
            message, path=shown, hint=f"choose one of these, or make another where there is a network: {words}"
        )


_AGAIN = "make it anew where there is a network: `mlenv bundle -o PATH`"


def render(bundle: Bundle) -> str:
    """The text of ``bundle.json``."""
    return json.dumps({"schema": SCHEMA, **asdict(bundle)}, indent=1, ensure_ascii=False) + "\n"


def parse(text: str, *, shown: str) -> Bundle:
    """The manifest in a text. Raises ProjectError for a newer schema, IntegrityError where it is none."""
    path = f"{shown}/{MANIFEST}"
    try:
        document = json.loads(text)
        if int(document.pop("schema")) > SCHEMA:
            made_by = str(document.get("made_by"))
            raise ProjectError(
                f"is made by a newer mlenv ({made_by})", path=path, hint="install the mlenv that is in it"
            )
        parts = tuple(_part(entry) for entry in document.pop("parts"))
        files = tuple(File(**entry) for entry in document.pop("files"))
        for file in files:
            _require_inside(file.path)
        return Bundle(**document, parts=parts, files=files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"is no list of a bundle's files: {error}", path=path, hint=f"copy it again, or {_AGAIN}"
        ) from error


def _part(entry: Mapping[str, Any]) -> Part:
    return Part(**{**entry, "foundation": tuple(entry["foundation"]), "inputs": dict(entry["inputs"])})


def _require_inside(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute() or "\\" in path:
        raise ValueError(f"{path!r} is no path in it")


def require_same(part: Part, inputs: Mapping[str, str], *, names: Mapping[str, str], shown: str) -> None:
    """Raise FindingError where the project's ``inputs`` are others than those the bundle was made from.

    ``names``: input → what it is called.
    """
    differ = sorted(name for name in {*part.inputs, *inputs} if part.inputs.get(name) != inputs.get(name))
    if differ:
        told = ", ".join(names.get(name, name) for name in differ)
        raise FindingError(
            f"the bundle was made from another state of this project: {told} differ{'s' if len(differ) == 1 else ''}",
            path=shown,
            hint=f"take the project's files of that state, or {_AGAIN}",
        )


def place(folder: str, filename: str, sha256: str, *, taken: Mapping[str, str]) -> str:
    """Where a file goes (``taken``: path → SHA-256): below its hash where another one of that name is there already."""
    plain = f"{folder}/{filename}"
    return plain if taken.get(plain, sha256) == sha256 else f"{folder}/{sha256[:16]}/{filename}"


def carried(package: Planned, wheels: Iterable[File]) -> Planned:
    """The package with the bundle's own files in the place of an index's; paths are relative to the plans."""
    table = {
        key: package.table[key]
        for key in ("name", "version", "requires-python", "dependencies")
        if key in package.table
    }
    files = [{"path": f"../{file.path}", "size": file.size, "hashes": {"sha256": file.sha256}} for file in wheels]
    single = {"archive": files[0]} if "archive" in package.table else {"wheels": files}
    return replace(package, table={**table, **single})


def plan_of(text: str, part: Part, folder: Path) -> Plan:
    """The plan of a part with the absolute URLs of the files in ``folder``. Raises as ``tomllib`` and KeyError."""
    read = plan_module.from_toml(text, backend=part.backend, source=part.source, foundation=part.foundation)
    base = (folder / part.plan).parent

    def there(file: Mapping[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in file.items() if key != "path"}
        return {**rest, "url": _absolute(base, str(file["path"])).as_uri()}

    packages = []
    for package in read.packages:
        table = dict(package.table)
        if "archive" in table:
            table["archive"] = there(table["archive"])
        else:
            table["wheels"] = [there(wheel) for wheel in table["wheels"]]
        packages.append(replace(package, table=table))
    return replace(read, packages=tuple(packages))


def _absolute(base: Path, relative: str) -> Path:
    import os

    return Path(os.path.normpath(base / relative))


def require_locked(chosen: Plan, pins: Iterable[Pin], *, built: Collection[str], shown: str) -> None:
    """Raise IntegrityError where the Application of a bundle's plan is not what the lock lists by hash.

    ``built`` are packages that were built from source, whose wheels no lock can know.
    """
    known = {pin.name: {value.partition(":")[2] for value in pin.hashes} for pin in pins}
    for package in chosen.layer(APPLICATION):
        files = package.table.get("wheels") or [package.table["archive"]]
        strange = [file for file in files if file["hashes"]["sha256"] not in known.get(package.name, set())]
        if strange and package.name not in built:
            raise IntegrityError(
                f"{package.name} {package.version} in the bundle is no file that the lock lists",
                path=shown,
                hint=f"find out who changed it before you trust it; {_AGAIN}",
            )
