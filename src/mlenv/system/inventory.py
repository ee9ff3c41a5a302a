"""What is installed in an environment: its packages, their RECORDs and the files that are really there."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path

from mlenv.values import dataclass

# Without it the environment's Python is the base interpreter (FACTS, reliability 4).
_CONFIG = "pyvenv.cfg"
_INTERPRETER = re.compile(r"python(w|[\d.]+)?(\.exe)?")
_NOT_PROGRAMS = "bin/"
TRIAL = ".starts"
"""The command that ``flip`` tries a new environment with, which is gone again before anybody uses it."""
_UNPACKING_SECONDS = 60.0
_WRITTEN_LAST = ("mlenv.json", "mlenv-adding.json")  # generation.MARKER, layer.ADDING
_ZIP_EPOCH = 315532800  # 1980, which no clamping to SOURCE_DATE_EPOCH moves
_HEADER = re.compile(r"^(Name|Version|Requires-Dist|Provides-Extra): (.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One row of a RECORD: the path relative to the environment, the hash (``sha256=...``) and the size it names."""

    path: str
    hash: str
    size: int | None


@dataclass(frozen=True, kw_only=True)
class Package:
    """One installed package. ``fault`` says why its RECORD can't be right, None where it can."""

    name: str
    version: str
    dist_info: str
    rows: tuple[Recorded, ...]
    fault: str | None
    requires: tuple[str, ...]
    local: bool


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything the gate looks at. ``files`` maps a path relative to the environment to its size in bytes.

    ``written`` maps it to when it was last written, in seconds since the epoch.
    """

    root: Path
    site: str
    packages: tuple[Package, ...]
    files: Mapping[str, int]
    written: Mapping[str, float] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        """name → version."""
        return {package.name: package.version for package in self.packages}


def site_packages(environment: Path) -> Path:
    """The environment's purelib folder. Raises FileNotFoundError where there is none."""
    if (windows := environment / "Lib" / "site-packages").is_dir() and os.name == "nt":
        return windows
    for path in sorted((environment / "lib").glob("python3*/site-packages")):
        return path
    raise FileNotFoundError(environment / "lib")


def read(environment: Path) -> Inventory:
    """Read the whole environment: every RECORD, and the size of every file."""
    root = environment.resolve()
    site = site_packages(root)
    prefix = site.relative_to(root).as_posix()
    packages = tuple(_package(path, prefix) for path in _dist_infos(site))
    found = list(_walk(root))
    return Inventory(
        root=root,
        site=prefix,
        packages=packages,
        files={name: size for name, size, _ in found},
        written={name: written for name, _, written in found},
    )


def snapshot(environment: Path) -> dict[str, list[object]]:
    """What is cheap to compare: per package its RECORD's size and time, and the names in site-packages.

    name → [version, bytes, mtime in ns]; the key ``""`` holds the sorted names, ``bin/`` those of the commands that
    can't be executed, and the path of each file that makes it an environment what that file is. Milliseconds for 80
    packages.
    """
    root = environment.resolve()
    site = site_packages(root)
    found: dict[str, list[object]] = {}
    entries = sorted(entry.name for entry in os.scandir(site) if entry.name != "__pycache__")
    for name in entries:
        if not name.endswith(".dist-info"):
            continue
        title, _, version = name.removesuffix(".dist-info").partition("-")
        try:
            status = (site / name / "RECORD").stat()
            found[_canonical(title)] = [version, status.st_size, status.st_mtime_ns]
        except OSError:
            found[_canonical(title)] = [version, -1, 0]
    commands = _commands(root)
    found[""] = [*entries, *(name for name, path in commands.items() if path.is_file())]
    found[_NOT_PROGRAMS] = [name for name, path in commands.items() if path.is_file() and not os.access(path, os.X_OK)]
    found[_CONFIG] = _stamp(root / _CONFIG)
    for name, path in commands.items():
        if _INTERPRETER.fullmatch(path.name):
            found[name] = [str(path.readlink())] if path.is_symlink() else _stamp(path)
        elif path.name.startswith("activate"):
            found[name] = _content(path)
    return found


def _commands(root: Path) -> dict[str, Path]:
    """What is where the environment's commands are: ``bin/name`` → its path, sorted."""
    folder = root / ("Scripts" if (root / "Scripts").is_dir() else "bin")
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name != TRIAL)
    except OSError:
        return {}
    return {f"{folder.name}/{name}": folder / name for name in names}


def _stamp(path: Path) -> list[object]:
    """Bytes and mtime of a regular file; nothing where it is none."""
    try:
        status = path.lstat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else []


def _content(path: Path) -> list[object]:
    """A small file's checksum: its times don't outlive an image."""
    import zlib

    try:
        return [zlib.crc32(path.read_bytes())]
    except OSError:
        return []


def fix_times(environment: Path) -> None:
    """Give what ``snapshot`` compares a time that outlives an image: layers keep whole seconds, and may be clamped."""
    root = environment.resolve()
    for path in (root / _CONFIG, *site_packages(root).glob("*.dist-info/RECORD")):
        if path.is_file() and path.stat().st_mtime != _ZIP_EPOCH:
            os.utime(path, (_ZIP_EPOCH, _ZIP_EPOCH))


def drifted(before: Mapping[str, list[object]], now: Mapping[str, list[object]]) -> tuple[str, ...]:
    """What changed between two snapshots, one sentence each."""
    own = [name for name in sorted(before) if "/" in name.strip("/") or name == _CONFIG]
    changed = [name for name in own if before[name] != now.get(name)]
    told = [f"{name} was {'changed' if now.get(name) else 'deleted'}" for name in changed]
    for name in sorted({*before, *now} - {"", _CONFIG, _NOT_PROGRAMS}):
        then, here = before.get(name), now.get(name)
        if then == here or "/" in name:
            continue
        if then is None:
            told.append(f"{name} {here[0] if here else ''} was installed")
        elif here is None:
            told.append(f"{name} {then[0]} was removed")
        elif then[0] != here[0]:
            told.append(f"{name} {then[0]} was replaced by {here[0]}")
        else:
            told.append(f"{name} {then[0]} was installed again or damaged")
    gone = {*map(str, before.get("", []))} - {*map(str, now.get("", []))} - {*changed}
    told += [f"{_place(name)} was deleted" for name in sorted(gone) if not name.endswith(".dist-info")]
    new = {*map(str, now.get("", []))} - {*map(str, before.get("", []))}
    if _NOT_PROGRAMS in before:
        inert = {*map(str, now.get(_NOT_PROGRAMS, []))} - {*map(str, before[_NOT_PROGRAMS])} - new
        told += [f"{name} can't be executed any more" for name in sorted(inert)]
    if not told:
        told += [f"{_place(name)} appeared" for name in sorted(new)]
    return tuple(told)


def _place(name: str) -> str:
    return name if "/" in name else f"site-packages/{name}"


def edited(inventory: Inventory, *, since: float) -> tuple[str, ...]:
    """The recorded files that were written after ``since`` (seconds since the epoch) and differ from their SHA-256.

    A linked file keeps the time of uv's cache, so only what somebody wrote since then has to be read.
    """
    return tuple(
        path
        for path, hashes in _hashed(inventory)
        if inventory.written.get(path, 0.0) > since and _differs(path, hashes, inventory)
    )


def edited_in_cache(inventory: Inventory) -> tuple[str, ...]:
    """The recorded files that were written well after the rest of their package and differ from their SHA-256.

    uv unpacks a package at one time and links it from its cache, so a later time is that of an edit there.
    """
    late = set()
    for package in inventory.packages:
        unpacked = inventory.written.get(f"{package.dist_info}/METADATA", 0.0)
        written = ((row.path, inventory.written.get(row.path, 0.0)) for row in package.rows if row.hash)
        late |= {path for path, time in written if time > unpacked + _UNPACKING_SECONDS}
    suspect = [(path, hashes) for path, hashes in _hashed(inventory) if path in late] if late else []
    return tuple(path for path, hashes in suspect if _differs(path, hashes, inventory))


def damaged(inventory: Inventory) -> tuple[str, ...]:
    """The recorded files that differ from their SHA-256; every one of them is read."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        files = list(_hashed(inventory))
        changed = pool.map(lambda file: _differs(file[0], file[1], inventory), files)
        return tuple(path for (path, _), differs in zip(files, changed, strict=True) if differs)


def _hashed(inventory: Inventory) -> Iterator[tuple[str, frozenset[str]]]:
    """Each file that is there, with the hashes that its owners' RECORDs name."""
    for path, held in owners(inventory.packages).items():
        hashes = frozenset(row.hash for _, row in held if row.hash.startswith("sha256="))
        if hashes and path in inventory.files:
            yield path, hashes


def _differs(path: str, hashes: frozenset[str], inventory: Inventory) -> bool:
    try:
        return _record_hash(inventory.root / path) not in hashes
    except OSError:
        return False


def linked(inventory: Inventory, path: str) -> bool:
    """Whether the file has other names: uv's cache and other environments then hold the same bytes."""
    try:
        return (inventory.root / path).stat().st_nlink > 1
    except OSError:
        return False


def _record_hash(path: Path) -> str:
    """``sha256=`` and the digest in URL-safe base64 without padding, as RECORD has it."""
    import base64
    import hashlib

    with path.open("rb") as file:
        raw = hashlib.file_digest(file, "sha256").digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _dist_infos(site: Path) -> list[Path]:
    return sorted(
        Path(entry.path) for entry in os.scandir(site) if entry.name.endswith(".dist-info") and entry.is_dir()
    )


def _package(path: Path, prefix: str) -> Package:
    name, _, version = path.name.removesuffix(".dist-info").partition("-")
    requires: list[str] = []
    for key, value in _headers(path / "METADATA"):
        if key == "Requires-Dist":
            requires.append(value)
        elif key == "Version":
            version = value
        elif key == "Name":
            name = value
    rows, fault = _record(path / "RECORD", prefix)
    return Package(
        name=_canonical(name),
        version=version,
        dist_info=f"{prefix}/{path.name}",
        rows=rows,
        fault=fault,
        requires=tuple(requires),
        local=(path / "direct_url.json").exists() and '"dir_info"' in _text(path / "direct_url.json"),
    )


def _headers(path: Path) -> Iterator[tuple[str, str]]:
    head = _text(path).replace("\r\n", "\n").partition("\n\n")[0]
    return ((match[1], match[2].strip()) for match in _HEADER.finditer(head))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _record(path: Path, prefix: str) -> tuple[tuple[Recorded, ...], str | None]:
    """A finished RECORD has three fields a row, names INSTALLER and ends with a newline (FACTS, reliability 3)."""
    text = _text(path)
    if not text:
        return (), "its RECORD is missing or empty"
    import csv

    rows = list(csv.reader(text.splitlines()))
    if not text.endswith("\n") or any(len(row) != 3 for row in rows if row):
        return (), "its RECORD is torn"
    recorded = tuple(
        Recorded(path=_normal(row[0], prefix), hash=row[1], size=int(row[2]) if row[2].isdigit() else None)
        for row in rows
        if row
    )
    if not any(row[0].endswith(".dist-info/INSTALLER") for row in rows if row):
        return recorded, "its installation was not finished"
    return recorded, None


def _normal(path: str, prefix: str) -> str:
    """The path relative to the environment; an absolute or escaping one is kept as it is."""
    path = path.replace("\\", "/")  # as some tools write it on Windows
    if ".." not in path and not path.startswith("/") and ":" not in path:
        return f"{prefix}/{path}"
    if path.startswith("/") or path[1:3] == ":/":
        return path
    return posixpath.normpath(f"{prefix}/{path}")


def _walk(root: Path) -> Iterator[tuple[str, int, float]]:
    """(path, size, when it was written) of each file; a dangling link has the size -1."""
    stack = [""]
    while stack:
        folder = stack.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    stack.append(name)
                else:
                    yield name, *_stamps(entry)


def names_digest(environment: Path) -> str:
    """A digest of the name of every file and folder, but for what Python itself writes beside its modules."""
    return _looked_through(environment.resolve(), since=float("inf"))[0]


def untouched(environment: Path, *, names: str, since: float) -> bool:
    """Whether nothing was added, removed or written after ``since`` (seconds since the epoch), by names and times."""
    return _looked_through(environment.resolve(), since=since) == (names, False)


def _looked_through(root: Path, *, since: float) -> tuple[str, bool]:
    """The digest of all names, and whether a file was written after ``since``: one look at each, in one tight loop."""
    import zlib

    digest, written, folders = 0, False, [""]
    while folders:
        folder = folders.pop()
        names = []
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                name = entry.name
                if name == "__pycache__" or (name in _WRITTEN_LAST and not folder):
                    continue
                names.append(name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}/{name}")
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime > since or (status.st_nlink == 1 and status.st_ctime > since):
                    written = True
        digest ^= zlib.crc32("/".join((folder, *sorted(names))).encode("utf-8", "surrogateescape"))
    return f"crc32:{digest:08x}", written


def _stamps(entry: os.DirEntry[str]) -> tuple[int, float]:
    try:
        status = entry.stat()
    except OSError:  # a dangling link
        return -1, 0.0
    # The inode of a linked file changes with each new link, too: only its own time of writing counts.
    return status.st_size, max(status.st_mtime, status.st_ctime if status.st_nlink == 1 else 0.0)


def import_names(package: Package, site: str) -> tuple[str, ...]:
    """What a package is imported as: its own name where it has that folder, else every top-level package it brings."""
    parts = [row.path.removeprefix(f"{site}/").split("/") for row in package.rows if row.path.startswith(f"{site}/")]
    folders = {part[0] for part in parts if len(part) == 2 and part[1] == "__init__.py" and part[0].isidentifier()}
    own = package.name.replace("-", "_")
    return (own,) if own in folders else tuple(sorted(folders))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def owners(packages: Iterable[Package]) -> dict[str, list[tuple[Package, Recorded]]]:
    """path → the packages whose RECORD names it, with their rows."""
    found: dict[str, list[tuple[Package, Recorded]]] = {}
    for package in packages:
        for row in package.rows:
            found.setdefault(row.path, []).append((package, row))
    return found
