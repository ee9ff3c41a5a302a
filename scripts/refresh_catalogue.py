"""Compare data/catalogue.toml with what a package index says, and show the difference. For maintainers.

    python scripts/refresh_catalogue.py [--index URL] [--backend-index cu130=URL]... [--write]

Read from the index (PEP 691 pages, PEP 658 metadata, else the METADATA inside the wheel by range requests): torch
releases that are missing, their dates, Pythons and torchvision/torchaudio, and which build the index's own file is on
each platform. Rows that no index can tell (drivers, architectures) are left alone. Exit status: 0 no difference, 1 a
difference (written with ``--write``), 2 the index can't be read.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import tomlkit
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version
from tomlkit.items import AoT, InlineTable, Table

CATALOGUE = Path(__file__).parents[1] / "src/mlenv/data/catalogue.toml"
FIELDS = ("torch", "date", "torchvision", "torchaudio", "python", "backends", "unconfirmed", "pypi", "source")
# platform → (the end of its wheels' tags, what markers see there)
PLATFORMS = {
    "linux-x86_64": ("linux", "x86_64", "Linux", "x86_64"),
    "linux-aarch64": ("linux", "aarch64", "Linux", "aarch64"),
    "windows-x86_64": ("win", "amd64", "Windows", "AMD64"),
    "macos-arm64": ("macosx", "arm64", "Darwin", "arm64"),
}
SYS_PLATFORMS = {"Linux": "linux", "Windows": "win32", "Darwin": "darwin"}
# The requirement that carries the CUDA version, newest naming first.
CUDA_VERSION = re.compile(r"cuda-toolkit|nvidia-cuda-runtime(-cu\d+)?")
TIMEOUT = 60
JSON = "application/vnd.pypi.simple.v1+json"


class Unreadable(Exception):
    """The index can't be read, in words."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel of an index."""

    version: Version
    tags: frozenset[Tag]
    url: str
    has_metadata: bool
    yanked: bool
    uploaded: date | None

    def platform(self) -> str | None:
        """The catalogue's word for the platform it is for, or None."""
        for name, (system, arch, _, _) in PLATFORMS.items():
            tags = (tag.platform for tag in self.tags)
            if any(system in platform and platform.endswith(arch) for platform in tags):
                return name
        return None

    def pythons(self) -> set[str]:
        """The Python versions it is for, free-threaded ones left out."""
        ordinary = (tag.interpreter for tag in self.tags if tag.abi in (tag.interpreter, "none"))  # none: macOS, to 2.8
        return {f"3.{found[1]}" for name in ordinary if (found := re.fullmatch(r"cp3(\d+)", name))}


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the index tells of one torch release."""

    torch: Version
    uploaded: date | None
    python: tuple[str, ...]
    torchvision: str | None
    torchaudio: str | None
    pypi: Mapping[str, str]
    yanked: bool


def main(words: Sequence[str] | None = None) -> int:
    """Run the script with these words; returns its exit status."""
    options = _parser().parse_args(words)
    text = options.catalogue.read_text(encoding="utf-8")
    document = tomlkit.parse(text)
    try:
        index = options.index or _configured_index()
        oldest = min(Version(row["torch"]) for row in _rows(document))
        notes = refresh(document, releases(index, since=oldest))
        for backend, url in options.backend_index:
            notes += refresh_backend(document, backend, versions_of(url, "torch"))
    except Unreadable as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    new = tomlkit.dumps(document)
    name = options.catalogue.name
    difference = difflib.unified_diff(
        text.splitlines(), new.splitlines(), name, f"{name} (the index)", lineterm="", n=4
    )
    lines = [*difference, *notes]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if options.write and new != text:
        options.catalogue.write_text(new, encoding="utf-8", newline="\n")
    return 1 if lines else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--index", metavar="URL", help="a simple index; default: UV_DEFAULT_INDEX, PIP_INDEX_URL, pip's"
    )
    parser.add_argument(
        "--backend-index", metavar="NAME=URL", action="append", default=[], type=_pair, help="an index of one backend"
    )
    parser.add_argument("--catalogue", metavar="FILE", type=Path, default=CATALOGUE)
    parser.add_argument("--write", action="store_true", help="write what differs into the catalogue")
    return parser


def _pair(word: str) -> tuple[str, str]:
    name, equals, url = word.partition("=")
    if not (name and equals and url):
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=URL")
    return name, url


def _configured_index() -> str:
    """The index that uv or pip are set to. Raises Unreadable where neither says."""
    for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return os.environ[name]
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not told:
        raise Unreadable("no index is configured; name one with --index URL")
    return told


# ---- reading an index


def releases(index: str, *, since: Version) -> list[Release]:
    """The final torch releases of an index from ``since`` on, newest first. Raises Unreadable."""
    wheels = [wheel for wheel in wheels_of(index, "torch") if wheel.version >= since]
    vision = torchvision_of(index)
    audio = versions_of(index, "torchaudio")
    by_version: dict[Version, list[Wheel]] = {}
    for wheel in wheels:
        by_version.setdefault(wheel.version, []).append(wheel)
    builds = _builds(by_version)
    return [
        Release(
            torch=version,
            uploaded=min((wheel.uploaded for wheel in found if wheel.uploaded), default=None),
            python=_pythons(found),
            torchvision=vision.get(version),
            torchaudio=_newest_until(version, audio),
            pypi=builds[version],
            yanked=all(wheel.yanked for wheel in found),
        )
        for version, found in sorted(by_version.items(), reverse=True)
    ]


def wheels_of(index: str, name: str) -> list[Wheel]:
    """The wheels of a package's final releases. Raises Unreadable."""
    url = f"{index.rstrip('/')}/{name}/"
    try:
        page = json.loads(_get(url, Accept=JSON))
    except ValueError as error:
        raise Unreadable(f"{url} answers with no JSON page (PEP 691)") from error
    found = (_wheel(entry, url) for entry in page["files"])
    return [wheel for wheel in found if wheel is not None and not wheel.version.is_prerelease]


def versions_of(index: str, name: str) -> set[Version]:
    """The final versions of a package that have a wheel, their local labels cut off."""
    return {Version(wheel.version.public) for wheel in wheels_of(index, name) if not wheel.yanked}


def torchvision_of(index: str) -> dict[Version, str]:
    """torch → the newest torchvision that is built for it: it pins its torch."""
    one_each = {wheel.version: wheel for wheel in wheels_of(index, "torchvision") if not wheel.yanked}
    newest = sorted(one_each.values(), key=lambda wheel: wheel.version)
    found: dict[Version, str] = {}
    for wheel, requires in zip(newest, _in_parallel(requires_of, newest), strict=True):
        for requirement in requires:
            pinned = _pin(requirement) if requirement.name == "torch" else None
            if pinned is not None:
                found[pinned] = str(wheel.version)
    return found


def _wheel(entry: Mapping[str, Any], page: str) -> Wheel | None:
    try:
        _, version, _, tags = parse_wheel_filename(entry["filename"])
    except InvalidWheelFilename:
        return None
    uploaded = entry.get("upload-time")
    return Wheel(
        version=version,
        tags=tags,
        url=urljoin(page, entry["url"]),
        has_metadata=bool(entry.get("core-metadata") or entry.get("dist-info-metadata")),
        yanked=bool(entry.get("yanked")),
        uploaded=date.fromisoformat(uploaded[:10]) if uploaded else None,
    )


def _newest_until(version: Version, others: Iterable[Version]) -> str | None:
    """torchaudio is numbered like torch, and frozen: a newer torch has the last one."""
    newest = max((other for other in others if other <= version), default=None)
    return None if newest is None else str(newest)


def _pythons(wheels: Iterable[Wheel]) -> tuple[str, ...]:
    return tuple(sorted({python for wheel in wheels for python in wheel.pythons()}, key=Version))


def _builds(by_version: Mapping[Version, Sequence[Wheel]]) -> dict[Version, dict[str, str]]:
    """version → platform → the backend that the index's own file is there, from one wheel of each."""
    chosen = {(v, w.platform()): w for v, wheels in by_version.items() for w in wheels if w.platform() and w.pythons()}
    required = _in_parallel(requires_of, chosen.values())
    found: dict[Version, dict[str, str]] = {version: {} for version in by_version}
    for (version, platform), requires in zip(chosen, required, strict=True):
        if platform is not None:
            found[version][platform] = build_of(requires, platform)
    return {version: {name: builds[name] for name in PLATFORMS if name in builds} for version, builds in found.items()}


def build_of(requires: Iterable[Requirement], platform: str) -> str:
    """The backend that such requirements make on a platform: ``cuda-toolkit==13.2.*`` → ``cu132``, none → ``cpu``."""
    for requirement in requires:
        if CUDA_VERSION.fullmatch(canonicalize_name(requirement.name)) and _applies(requirement, platform):
            version = _pin(requirement)
            if version is not None:
                return f"cu{version.major}{version.minor}"
    return "cpu"


def _applies(requirement: Requirement, platform: str) -> bool:
    system, machine = PLATFORMS[platform][2:]
    seen = {"platform_system": system, "platform_machine": machine, "sys_platform": SYS_PLATFORMS[system]}
    environment = {**default_environment(), **seen, "os_name": "nt" if system == "Windows" else "posix", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate({key: str(v) for key, v in environment.items()})


def _pin(requirement: Requirement) -> Version | None:
    """The version of ``==1.2`` or ``==1.2.*``."""
    exact = [item.version.removesuffix(".*") for item in requirement.specifier if item.operator == "=="]
    return Version(exact[0]) if exact else None


def requires_of(wheel: Wheel) -> list[Requirement]:
    """What a wheel requires. Raises Unreadable."""
    text = _get(f"{wheel.url}.metadata") if wheel.has_metadata else _metadata_inside(wheel.url)
    headers = HeaderParser().parsestr(text.decode("utf-8"))
    return [Requirement(line) for line in headers.get_all("Requires-Dist", [])]


def _metadata_inside(url: str) -> bytes:
    """The METADATA of a wheel, of which only the parts that are needed are fetched."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_Remote(url), 2**16)) as wheel:
            name = next(name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            return wheel.read(name)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise Unreadable(f"{url} is no wheel") from error


class _Remote(io.RawIOBase):
    """A file behind a URL, read in ranges."""

    def __init__(self, url: str):
        self.url = url
        self.position = 0
        with _open(url, method="HEAD") as answer:
            self.size = int(answer.headers["Content-Length"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        data = _get(self.url, Range=f"bytes={self.position}-{end - 1}")
        if len(data) != end - self.position:
            raise Unreadable(f"{self.url}: the server knows no range requests")
        buffer[: len(data)] = data
        self.position = end
        return len(data)


def _get(url: str, **headers: str) -> bytes:
    with _open(url, headers) as answer:
        data = answer.read()
    assert isinstance(data, bytes)
    return data


def _open(url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Any:
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{url}: {error}") from error


def _in_parallel(function: Callable[[Wheel], list[Requirement]], wheels: Iterable[Wheel]) -> list[list[Requirement]]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(function, wheels))


# ---- changing the catalogue


def refresh(document: tomlkit.TOMLDocument, found: Iterable[Release]) -> list[str]:
    """Bring the rows of the releases up to date; returns what has to be decided by hand, a line each."""
    rows = _rows(document)
    notes = []
    told = {release.torch: release for release in found}
    for position, row in enumerate(list(rows)):
        release = told.pop(Version(row["torch"]), None)
        if release is None or release.yanked:
            notes.append(f"torch {row['torch']}: {'is yanked' if release else 'is not on the index'}; remove its row?")
            continue
        changed = {key: value for key, value in _values(release).items() if row.get(key) != value}
        if changed:
            rows[position] = _with(row, changed)
    for release in (release for release in told.values() if not release.yanked):
        place = sum(Version(row["torch"]) > release.torch for row in rows)
        rows.insert(place, _new_row(release))
    return notes


def refresh_backend(document: tomlkit.TOMLDocument, backend: str, versions: set[Version]) -> list[str]:
    """Note a backend in the rows of the releases its index has; returns those that it should have and hasn't."""
    rows, notes = _rows(document), []
    for position, row in enumerate(list(rows)):
        there, known = Version(row["torch"]) in versions, backend in row["backends"]
        if there and not known:
            unconfirmed = [name for name in row.get("unconfirmed", []) if name != backend]
            backends = sorted([*row["backends"], backend])
            rows[position] = _with(row, {"backends": backends, "unconfirmed": unconfirmed})
        elif known and not there:
            notes.append(f"torch {row['torch']}: is not on the index of {backend}")
    return notes


def _rows(document: tomlkit.TOMLDocument) -> AoT:
    rows = document["release"]
    assert isinstance(rows, AoT)
    return rows


def _values(release: Release) -> dict[str, Any]:
    """What the index tells, by the catalogue's names; what it doesn't tell is left out."""
    told = {
        "date": release.uploaded,
        "torchvision": release.torchvision,
        "torchaudio": release.torchaudio,
        "python": list(release.python),
        "pypi": dict(release.pypi),
    }
    return {key: value for key, value in told.items() if value}


def _new_row(release: Release) -> Table:
    values = {"torch": str(release.torch), "backends": sorted({*release.pypi.values()}), **_values(release)}
    return _table({**values, "source": f"metadata of the index, {date.today().isoformat()}; backends: only these seen"})


def _with(row: Table, changes: Mapping[str, Any]) -> Table:
    """The row with some values changed; its comments and its other lines stay as they are."""
    table = tomlkit.table()
    late = [key for key in FIELDS if key in changes and key not in row]
    for key, item in row.value.body:
        name = key.key if key is not None else None
        while late and name in FIELDS and FIELDS.index(late[0]) < FIELDS.index(name):
            _add(table, late[0], changes[late.pop(0)])
        if key is None:
            table.value.append(None, item)
        elif name in changes:
            _add(table, key.key, changes[key.key])
        else:
            table.add(key, item)
    return table


def _table(values: Mapping[str, Any]) -> Table:
    table = tomlkit.table()
    for key in FIELDS:
        if key in values:
            _add(table, key, values[key])
    table.add(tomlkit.nl())
    return table


def _add(table: Table, key: str, value: Any) -> None:
    """A key and its value on one line; an empty list is none."""
    if value != []:
        table.add(key, _inline(value) if isinstance(value, dict) else tomlkit.item(value))


def _inline(values: Mapping[str, str]) -> InlineTable:
    """``{ linux-x86_64 = "cu132" }``: tomlkit's own has no room between the braces."""
    written = ", ".join(f'{key} = "{value}"' for key, value in values.items())
    parsed = tomlkit.parse(f"it = {{ {written} }}\n")["it"]
    assert isinstance(parsed, InlineTable)
    return parsed


if __name__ == "__main__":
    sys.exit(main())
