"""Records: the foundation of one backend as files with hashes, ``constraints/pylock.<backend>.toml`` (PEP 751). Pure.

One file per package and platform. The URLs say where a file was found; a machine with a mirror looks there, and what
counts is the hash.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from packaging.markers import Marker
from packaging.pylock import Pylock, PylockValidationError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import platforms as platforms_module
from mlenv.catalogue import Channel
from mlenv.errors import FindingError, IntegrityError, ProjectError
from mlenv.overlay import NIGHTLY, Overlay, without_label
from mlenv.textfile import conflict_line
from mlenv.values import dataclass

_HEAD = """\
# The foundation of backend {backend}{channel}, one file and hash for each package and platform. Written by
# `mlenv foundation record`; `mlenv sync` then installs exactly these files. Commit it.
"""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One release: its files (PEP 751 tables of wheels) and the ``marker`` that says where it is for, None: everywhere.

    ``index`` is the URL of the index it was found on, None where nobody said.
    """

    name: str
    version: str
    files: tuple[Mapping[str, Any], ...]
    marker: str | None = None
    index: str | None = None

    @property
    def hashes(self) -> frozenset[str]:
        """The SHA-256 of its files."""
        return frozenset(str(file["hashes"]["sha256"]) for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The recorded foundation of one backend, made for one Python. ``sources``: platform → name of the index.

    ``recorded`` is the day it was made; ``path`` is relative to the project.
    """

    backend: str
    channel: Channel
    python: str
    recorded: date
    sources: Mapping[str, str]
    packages: tuple[Recorded, ...]
    path: str

    def on(self, platform: str) -> dict[str, Recorded]:
        """The packages of one platform by name."""
        environment: Mapping[str, Any] = platforms_module.environment(platform, self.python)
        return {p.name: p for p in self.packages if p.marker is None or Marker(p.marker).evaluate(environment)}

    @property
    def again(self) -> str:
        """The command that makes it anew, for hints."""
        return _command(self.backend, self.channel)

    def require_of(self, backend: str, channel: Channel) -> Record:
        """The record itself. Raises ProjectError where it is another backend's, or of another channel."""
        if (self.backend, self.channel) == (backend, channel):
            return self
        what, wanted = (
            f"{name} of the {of} channel" for name, of in ((self.backend, self.channel), (backend, channel))
        )
        message = f"is the record of {what}, and its name is that of {wanted}"
        hint = f"put it back in its place, or write this one anew: {_command(backend, channel)}"
        raise ProjectError(message, path=self.path, hint=hint)

    def require_fit(self, overlay: Overlay, *, platform: str, python: str) -> None:
        """Raise FindingError where the overlay pins something else, ProjectError for another platform or Python."""
        if python.split(".")[:2] != self.python.split(".")[:2]:
            message = f"the record is made for Python {self.python}, the lock for Python {python}"
            raise ProjectError(message, path=self.path, hint=f"record it anew: {self.again}")
        if platform not in self.sources:
            message = f"the record is made for {', '.join(self.sources)}, not for {platform}"
            raise ProjectError(message, path=self.path, hint=f"add it to [tool.mlenv] platforms, then {self.again}")
        recorded = self.on(platform)
        for root in overlay.roots():
            name = canonicalize_name(root.name)
            applies = root.marker is None or root.marker.evaluate(dict(platforms_module.environment(platform, python)))
            if applies and not _satisfied(root, recorded.get(name)):
                has = f"has {recorded[name].version}" if name in recorded else f"lacks {name}"
                raise self.misfit(f"{overlay.path} pins {root}, the record {has}")

    def require_same(self, names: Iterable[str], *, platform: str) -> None:
        """Raise FindingError where the foundation that is needed has other packages than the record."""
        recorded, needed = set(self.on(platform)), set(names)
        if needed - recorded:
            raise self.misfit(f"the record lacks {', '.join(sorted(needed - recorded))}, which is needed now")
        if recorded - needed:
            raise self.misfit(f"the record holds {', '.join(sorted(recorded - needed))}, which nothing needs any more")

    def misfit(self, message: str) -> FindingError:
        """The error where lock, overlay and record don't fit each other."""
        return FindingError(message, path=self.path, hint=f"if the change is wanted, record it anew: {self.again}")

    def held(self, name: str, table: Mapping[str, Any], *, platform: str) -> dict[str, Any]:
        """The PEP 751 table of a package with only the recorded file. Raises IntegrityError where it isn't offered."""
        recorded = self.on(platform)[name]
        wheels = [wheel for wheel in table.get("wheels", ()) if _sha256(wheel) in recorded.hashes]
        if wheels:
            return {**{k: v for k, v in table.items() if k not in ("sdist", "archive")}, "wheels": wheels}
        raise IntegrityError(
            f"{name} {recorded.version}: no file that the index offers has the hash that {self.path} records",
            hint="either the record was changed by hand or the release's file was replaced on the index: find out "
            f"which before you trust either; {self.again} takes what the index lists now",
        )


def made_of(
    by_platform: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    backend: str,
    channel: Channel,
    python: str,
    sources: Mapping[str, str],
    path: str,
    today: date,
) -> Record:
    """A record out of each platform's PEP 751 tables. Raises ProjectError for a package that has no wheel."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for platform, tables in by_platform.items():
        for table in tables:
            found.setdefault((str(table["name"]), str(table["version"])), {})[platform] = table
    packages = []
    for (name, version), on in sorted(found.items()):
        marker = platforms_module.marker(on, among=by_platform)
        files = {
            _sha256(file): _without_credentials(file) for table in on.values() for file in _wheels(table, name, version)
        }
        index = next((_bare(str(table["index"])) for table in on.values() if table.get("index")), None)
        wheels = tuple(files[sha256] for sha256 in sorted(files))
        packages.append(Recorded(name=name, version=version, files=wheels, marker=marker, index=index))
    return Record(
        backend=backend,
        channel=channel,
        python=python,
        recorded=today,
        sources=dict(sources),
        packages=tuple(packages),
        path=path,
    )


def unchanged(old: Record | None, new: Record) -> bool:
    """Whether both hold the same files for the same targets, whenever they were made and wherever files were found."""
    return old is not None and _meaning(old) == _meaning(new)


def digest_text(record: Record) -> str:
    """Canonical text of what a record means: neither its date nor any URL is in it."""
    return repr(_meaning(record))


def render(record: Record) -> str:
    """The text of the file."""
    import tomlkit

    channel = " of the nightly channel" if record.channel == "nightly" else ""
    document = {
        "lock-version": "1.0",
        "requires-python": f"=={'.'.join(record.python.split('.')[:2])}.*",
        "created-by": "mlenv",
        "packages": [_package_table(package) for package in record.packages],
        "tool": {
            "mlenv": {
                "backend": record.backend,
                "channel": record.channel,
                "python": record.python,
                "recorded": record.recorded,
                "sources": dict(record.sources),
            }
        },
    }
    return _HEAD.format(backend=record.backend, channel=channel) + "\n" + tomlkit.dumps(document)


def parse(text: str, *, path: str) -> Record:
    """The record in a file. Raises ProjectError where it is none."""
    hint = f"{_of_file(path)} writes it anew"
    if (line := conflict_line(text)) is not None:
        raise ProjectError("a conflict marker of git was left", path=path, line=line, hint=hint)
    try:
        data = tomllib.loads(text)
        Pylock.from_dict(data)
        own = data["tool"]["mlenv"]
        return Record(
            backend=str(own["backend"]),
            channel="nightly" if own["channel"] == "nightly" else "stable",
            python=str(own["python"]),
            recorded=own["recorded"],
            sources={str(platform): str(name) for platform, name in own["sources"].items()},
            packages=tuple(_recorded(table) for table in data["packages"]),
            path=path,
        )
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"is not valid TOML: {error}", path=path, hint=hint) from error
    except PylockValidationError as error:
        raise ProjectError(f"is no PEP 751 lock: {error}", path=path, hint=hint) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"is no record: {error} is missing or of another kind", path=path, hint=hint) from error


def _command(backend: str, channel: Channel) -> str:
    """The command that writes a record, for hints."""
    return f"`mlenv foundation record {'--nightly ' if channel == 'nightly' else ''}--backend {backend}`"


def _of_file(path: str) -> str:
    """The command that writes the record of this name."""
    found = re.search(rf"(?:^|/)pylock\.({NIGHTLY})?([^/]+)\.toml$", path)
    if found is None:
        return "`mlenv foundation record`"
    return _command(found[2], "nightly" if found[1] else "stable")


def _recorded(table: Mapping[str, Any]) -> Recorded:
    if not all(map(_sha256, table["wheels"])):
        raise KeyError(f"the sha256 of {table['name']}")
    return Recorded(
        name=canonicalize_name(table["name"]),
        version=str(table["version"]),
        files=tuple(table["wheels"]),
        marker=table.get("marker"),
        index=table.get("index"),
    )


def _package_table(package: Recorded) -> dict[str, Any]:
    table: dict[str, Any] = {"name": package.name, "version": package.version}
    table |= {key: value for key, value in (("marker", package.marker), ("index", package.index)) if value}
    return {**table, "wheels": [dict(file) for file in package.files]}


def _wheels(table: Mapping[str, Any], name: str, version: str) -> list[Mapping[str, Any]]:
    wheels = [file for file in table.get("wheels", ()) if _sha256(file)]
    if not wheels:
        raise ProjectError(
            f"{name} {version} has no wheel, so a record can't hold it to one file",
            hint="take a release that has wheels, or do without a record for this backend",
        )
    return wheels


def _meaning(record: Record) -> object:
    packages = [(p.name, p.version, p.marker, sorted(p.hashes)) for p in record.packages]
    return (record.backend, record.channel, record.python, sorted(record.sources.items()), packages)


def _satisfied(root: Requirement, recorded: Recorded | None) -> bool:
    """Whether the record has what a root asks for; a label that one of the two leaves off is no difference."""
    if recorded is None:
        return False
    public = Version(recorded.version).public
    return without_label(root).specifier.contains(public, prereleases=True)


def _without_credentials(file: Mapping[str, Any]) -> dict[str, Any]:
    return {**file, "url": _bare(str(file["url"]))} if "url" in file else dict(file)


def _bare(url: str) -> str:
    """The URL without credentials: no user, no password, no query string. A record is committed."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _sha256(file: Mapping[str, Any]) -> str:
    return str(file.get("hashes", {}).get("sha256", ""))
