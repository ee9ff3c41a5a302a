"""The project's ``uv.toml`` and this machine's: which index serves which name (CONTRACT, Trust; FACTS, uv 4).

uv is handed a configuration that is written here (``to_uv_toml``), never a file it finds: whatever could shadow a
package or change a result is refused, or dropped and named. From the user's and the system's own ``uv.toml`` comes only
what is needed to reach the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from mlenv import credentials
from mlenv.errors import ProjectError, UsageError, did_you_mean
from mlenv.report import Finding
from mlenv.textfile import conflict_line, read_text
from mlenv.values import dataclass

DEFAULT = "default"
"""The name that settings use for uv's default index."""

UV_FILE = "uv.toml"

_TLS = ("native-tls", "system-certs", "allow-insecure-host")
_PROXIES = ("http-proxy", "https-proxy", "no-proxy")
# What reaches the network and the cache; also taken from the user's and the system's own uv.toml.
_NETWORK = frozenset({*_TLS, *_PROXIES, "keyring-provider", "cache-dir", "link-mode"})
_CONCURRENT = ("concurrent-downloads", "concurrent-installs", "concurrent-builds")
_NEWEST = ("exclude-newer", "exclude-newer-package")
_FORWARDED = _NETWORK | {*_CONCURRENT, *_NEWEST, "compile-bytecode", "python-install-mirror"}
# Every top-level key of uv.toml, as uv 0.13.9 lists them where it meets one that it doesn't know.
_OF_UV = frozenset(
    """
    required-version system-certs native-tls offline no-cache cache-dir preview preview-features python-preference
    python-downloads concurrent-downloads concurrent-builds concurrent-installs index index-url extra-index-url no-index
    find-links index-strategy keyring-provider http-proxy https-proxy no-proxy allow-insecure-host resolution prerelease
    prerelease-package fork-strategy dependency-metadata config-settings config-settings-package no-build-isolation
    require-build-hashes no-build-isolation-package extra-build-dependencies extra-build-variables exclude-newer
    exclude-newer-package link-mode compile-bytecode no-sources no-sources-package upgrade upgrade-package reinstall
    reinstall-package no-build no-build-package no-binary no-binary-package torch-backend python-install-mirror
    pypy-install-mirror graalpy-install-mirror pyodide-install-mirror python-downloads-json-url publish-url
    trusted-publishing check-url add-bounds audit pip cache-keys override-dependencies exclude-dependencies
    constraint-dependencies build-constraint-dependencies environments required-environments minimum-libc-version
    conflicts workspace sources managed package default-groups dependency-groups dev-dependencies build-backend
    """.split()  # noqa: SIM905 - a page of quotes says less
)
# Without effect here although they change what uv resolves or builds: somebody who wrote one expects it to count.
_RESOLVING = frozenset(
    """
    resolution prerelease prerelease-package fork-strategy dependency-metadata config-settings config-settings-package
    no-build-isolation no-build-isolation-package require-build-hashes extra-build-dependencies extra-build-variables
    no-sources no-sources-package upgrade upgrade-package no-build no-build-package no-binary no-binary-package
    torch-backend pip override-dependencies exclude-dependencies constraint-dependencies build-constraint-dependencies
    environments required-environments minimum-libc-version conflicts sources
    """.split()  # noqa: SIM905
)
_INSTEAD: Mapping[str, str] = {
    "constraint-dependencies": "write them to constraints/<backend>.txt, or to a file with `-c` in requirements.in",
    "torch-backend": "mlenv chooses it: [tool.mlenv] backend",
}
_READ_HERE = frozenset({"index", "index-url", "index-strategy", "extra-index-url", "find-links", "no-index"})
_BIND = 'with explicit = true, and say what comes from it: [tool.mlenv.index] "company-*" = "company" in pyproject.toml'
_REFUSED: Mapping[str, str] = {
    "extra-index-url": f'write it as [[index]] name = "company", url = ... {_BIND}',
    "find-links": f'write it as [[index]] name = "wheels", url = ..., format = "flat" {_BIND}',
    "no-index": "delete the line; --offline does without an index",
}
_IS_URL = "write https://..., file:///... or the path of a folder"

_NAME = r"[A-Za-z0-9._-]+"
_UNPRINTABLE = r"[\x00-\x1f\x7f\ud800-\udfff]"
_BARE_KEY = r"[A-Za-z0-9_-]+"


@dataclass(frozen=True, kw_only=True)
class Index:
    """One index: ``explicit`` ones serve only the names that are bound to them. ``extra`` has uv's other keys for it.

    ``url`` is absolute; where it comes from a variable it may carry credentials, so it is kept out of ``repr``.
    """

    name: str | None
    url: str = field(repr=False)
    explicit: bool = False
    default: bool = False
    format: Literal["simple", "flat"] = "simple"
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """The default index (None: uv's own), the explicit ones by name, uv's settings to pass on, and what was dropped.

    ``notes`` tell of what was dropped and would change a resolution.
    """

    default: Index | None = None
    named: Mapping[str, Index] = field(default_factory=dict)
    forwarded: Mapping[str, object] = field(default_factory=dict, repr=False)
    dropped: tuple[str, ...] = ()
    notes: tuple[Finding, ...] = ()

    def url_of(self, name: str) -> str | None:
        """The URL of a named index, or of ``default`` (None: uv's own). Raises ProjectError for an unknown name."""
        if self.is_default(name):
            return self.default.url if self.default else None
        self.require(name)
        return self.named[name].url

    def is_default(self, name: str) -> bool:
        """Whether the name means the default index: ``default``, or what uv.toml calls it."""
        return name == DEFAULT or (self.default is not None and name == self.default.name)

    def require(self, name: str, *, said_by: str | None = None, path: str = UV_FILE) -> None:
        """Raise ProjectError where uv.toml has no explicit index of this name; ``said_by`` is who wants it."""
        if name in self.named:
            return
        told = (
            f"{said_by} names the index {name!r}, which uv.toml does not have" if said_by else f"has no index {name!r}"
        )
        hint = f'add it to uv.toml: [[index]] name = "{name}", url = ..., explicit = true'
        raise ProjectError(told, path=path, hint=did_you_mean(name, self.named, otherwise=hint))

    def source_names(self, backend: str, *, channel: Literal["stable", "nightly"] = "stable") -> tuple[str, ...]:
        """The named indexes that serve a backend by their name: ``pytorch-cu130``, ``pytorch-nightly-cu130``."""
        name = f"pytorch-{backend}" if channel == "stable" else f"pytorch-nightly-{backend}"
        return (name,) if name in self.named else ()


def load_indexes(
    root: Path,
    *,
    environ: Mapping[str, str],
    index_urls: Mapping[str, str],
    user_file: Path | None = None,
    system_file: Path | None = None,
) -> Indexes:
    """The indexes of the project at ``root`` on this machine.

    ``index_urls`` are mirrors by normalised name; ``DEFAULT`` replaces the default index. The files are the user's and
    the system's own uv.toml, by default where uv looks for them. The default index is of ``UV_DEFAULT_INDEX``, then of
    ``UV_INDEX_URL``, the project, the user, the system. Raises ProjectError with file and line, UsageError for a
    variable.
    """
    own = parse(read_text(root / UV_FILE, shown=UV_FILE) or "", path=UV_FILE, folder=root)
    default, forwarded = own.default, dict(own.forwarded)
    for path in (user_file or _user_file(environ), system_file or _system_file(environ)):
        if path is not None and os.access(path, os.R_OK):
            theirs = _of_machine(read_text(path, shown=str(path)) or "", path=path, root=root)
            default = default or theirs.default
            forwarded = {**theirs.forwarded, **forwarded}
    default = _from_variables(environ, root) or default
    if default is not None and default.name in own.named:
        default = replace(default, name=None)
    return _mirrored(replace(own, default=default, forwarded=forwarded), index_urls, root)


def parse(text: str, *, path: str, folder: Path) -> Indexes:
    """What a project's uv.toml says; paths in it are taken from ``folder``.

    Raises ProjectError with ``path`` and line for what could shadow a package, for credentials, for a mistyped key, for
    what is no TOML.
    """
    file = _File(path=path, text=text, folder=folder)
    document = file.parse()
    _require_spelled(file, document)
    for key, hint in _REFUSED.items():
        if document.get(key):
            raise file.error(f"{key} is refused: each package comes from one index only", key=key, hint=hint)
    strategy = document.get("index-strategy", "first-index")
    if strategy != "first-index":
        message = f"index-strategy is refused: {strategy!r} lets one index shadow another"
        raise file.error(message, key="index-strategy", hint="delete the line")
    found = _indexes(file, document)
    for key in ("http-proxy", "https-proxy"):
        _require_no_credentials(file, document.get(key), key=key, at=None)
    dropped = tuple(sorted(set(document) - _FORWARDED - _READ_HERE))
    return Indexes(
        default=next((index for index in found if index.default), None),
        named={index.name: index for index in found if index.explicit and index.name is not None},
        forwarded=_forwarded(document, _FORWARDED, folder),
        dropped=dropped,
        notes=tuple(file.note(key) for key in dropped if key in _RESOLVING or key not in _OF_UV),
    )


def bind(patterns: tuple[tuple[str, str], ...], name: str, indexes: Indexes) -> str | None:
    """The named index that a package comes from by ``[tool.mlenv.index]``, or None where none is said.

    The exact name wins over a glob, the longer glob over the shorter; the default index, named as such, is None too.
    Raises ProjectError where a pattern names an index that uv.toml doesn't have.
    """
    for pattern, index in patterns:
        if not indexes.is_default(index):
            indexes.require(index, said_by=f"[tool.mlenv.index] {pattern!r}", path="pyproject.toml")
    canonical = canonicalize_name(name)
    found = [(canonicalize_name(pattern), index) for pattern, index in patterns]
    matching = [entry for entry in found if entry[0] == canonical or fnmatchcase(canonical, entry[0])]
    if not matching:
        return None
    _, index = max(matching, key=lambda entry: (entry[0] == canonical, len(entry[0]), entry[0]))
    return None if indexes.is_default(index) else index


def to_uv_toml(indexes: Indexes, *, names: Collection[str] | None = None) -> str:
    """The configuration that uv is handed with ``--config-file``: settings, the default index, the explicit ``names``.

    ``names`` None means all of them. Only top-level keys and ``[[index]]`` tables are written, so a table can follow.
    The same values give the same text. Raises ProjectError for a name that uv.toml doesn't have.
    """
    lines = [f"{_key(key)} = {_value(value)}" for key, value in sorted(indexes.forwarded.items())]
    wanted = set(indexes.named if names is None else names) - {DEFAULT}
    for name in sorted(wanted):
        indexes.require(name)
    used = [indexes.default] if indexes.default else []
    for index in (*used, *(indexes.named[name] for name in sorted(wanted))):
        lines += ["", "[[index]]", *(f"{_key(key)} = {_value(value)}" for key, value in as_table(index).items())]
    return "\n".join(lines).lstrip("\n") + "\n" if lines else ""


# ------------------------------------------------------------------------------------------------- the project's file


@dataclass(frozen=True, kw_only=True)
class _File:
    """A uv.toml: its name in messages, its text, and the folder that paths in it are taken from."""

    path: str
    text: str = field(repr=False)
    folder: Path

    def parse(self) -> dict[str, Any]:
        """The document. Raises ProjectError with the line where it is no TOML."""
        import tomllib

        try:
            return tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:
            if (marker := conflict_line(self.text)) is not None:
                told, hint = "a conflict marker of git was left here", "resolve the merge, then run `mlenv lock`"
                raise ProjectError(told, path=self.path, line=marker, hint=hint) from error
            at = re.search(r" \(at line (\d+), column \d+\)", str(error))
            reason = str(error).replace(at[0], "") if at else str(error)
            line = int(at[1]) if at else None
            hint = "correct the file"
            raise ProjectError(f"is not valid TOML: {reason}", path=self.path, line=line, hint=hint) from error

    def error(self, message: str, *, hint: str, key: str | None = None, at: int | None = None) -> ProjectError:
        """A mistake at a key: a top-level one, or one of the ``[[index]]`` number ``at``."""
        line = self._line(key, at) or (self._header(key) if key is not None and at is None else None)
        return ProjectError(message, path=self.path, line=line, hint=hint)

    def note(self, key: str) -> Finding:
        """A note on a top-level key that uv is not handed."""
        message = f"{key} has no effect: mlenv does not hand it to uv"
        hint = _INSTEAD.get(key)
        return Finding(
            kind="uv-setting-ignored",
            message=f"{message}; {hint}" if hint else message,
            path=self.path,
            line=self._line(key, None) or self._header(key),
            severity="note",
        )

    def _header(self, key: str) -> int | None:
        """The line of the first table of this name."""
        header = re.compile(rf"\s*\[\[?\s*[\"']?{re.escape(key)}[\"']?\s*[].]")
        lines = enumerate(self.text.split("\n"), start=1)
        return next((number for number, line in lines if header.match(line)), None)

    def _line(self, key: str | None, at: int | None) -> int | None:
        """The line of the key, else that of its ``[[index]]``; None where it is written in a way this can't see."""
        seen, start = -1, None
        for number, line in enumerate(self.text.split("\n"), start=1):
            if re.match(r"\s*\[\[\s*index\s*\]\]", line):
                seen += 1
                start = number if seen == at else start
            elif at is None and re.match(r"\s*\[", line):
                break
            if key is not None and seen == (-1 if at is None else at) and re.match(rf"\s*[\"']?{key}[\"']?\s*=", line):
                return number
        return self._line("index", None) if start is None and at is not None else start


def _require_spelled(file: _File, document: Mapping[str, Any]) -> None:
    """Raise ProjectError for a key that is nearly one of uv's; others may be those of a newer uv."""
    for key in document.keys() - _OF_UV:
        hint = did_you_mean(key.replace("_", "-"), sorted(_OF_UV), otherwise="")
        if hint:
            raise file.error(f"has the unknown key {key!r}", key=key, hint=hint)


def _indexes(file: _File, document: Mapping[str, Any]) -> list[Index]:
    """The default index of ``index-url``, and every ``[[index]]``."""
    tables = document.get("index", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise file.error(
            "index must be a list of tables", key="index", hint='write [[index]] name = "...", url = "..."'
        )
    found = [_one_index(file, table, at) for at, table in enumerate(tables)]
    url = document.get("index-url")
    _require_distinct(file, found, default_given=url is not None)
    if url is None:
        return found
    return [Index(name=None, url=_url(file, url, key="index-url", at=None), default=True), *found]


def _one_index(file: _File, table: Mapping[str, Any], at: int) -> Index:
    name = _index_name(file, table.get("name"), at)
    told = f"the index {name!r}" if name else "an index without name"
    explicit, is_default = (_flag(file, table, key, at) for key in ("explicit", "default"))
    if not explicit and not is_default:
        hint = 'add explicit = true, and say what comes from it: [tool.mlenv.index] "company-*" = "company"'
        raise file.error(f"{told} could shadow packages of the default index", at=at, hint=hint)
    if explicit and is_default:
        raise file.error(f"{told} is both explicit and default", key="default", at=at, hint="keep one of the two")
    if explicit and name is None:
        raise file.error("an explicit index needs a name", at=at, hint='add name = "..."')
    if explicit and name == DEFAULT:
        raise file.error('"default" is the name of the default index', key="name", at=at, hint="choose another name")
    form = table.get("format", "simple")
    if form not in ("simple", "flat"):
        raise file.error(f'{told}: format must be "simple" or "flat"', key="format", at=at, hint="correct the line")
    extra = {k: v for k, v in table.items() if k not in ("name", "url", "explicit", "default", "format")}
    for key, value in extra.items():
        _require_no_credentials(file, value, key=key, at=at)
    url = _url(file, table.get("url"), key="url", at=at)
    return Index(name=name, url=url, explicit=explicit, default=is_default, format=form, extra=extra)


def _index_name(file: _File, name: object, at: int) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        hint = "write letters, digits, hyphens, underscores and dots"
        raise file.error(f"{name!r} is no name of an index", key="name", at=at, hint=hint)
    return name


def _flag(file: _File, table: Mapping[str, Any], key: str, at: int) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise file.error(f"{key} must be true or false", key=key, at=at, hint=f"write {key} = true")
    return value


def _require_distinct(file: _File, found: Iterable[Index], *, default_given: bool) -> None:
    """One default index, and names that stay apart in the variables that carry credentials and mirrors."""
    seen: dict[str, str] = {}
    for at, index in enumerate(found):
        if index.default and default_given:
            raise file.error("there are two default indexes", at=at, hint="keep one of them")
        default_given = default_given or index.default
        if index.name is None:
            continue
        short = normalised(index.name)
        if short in seen:
            message = f"{index.name!r} and {seen[short]!r} are one name in UV_INDEX_{short}_USERNAME"
            if index.name == seen[short]:
                message = f"there are two indexes named {index.name!r}"
            raise file.error(message, key="name", at=at, hint="rename one of them, or delete it")
        seen[short] = index.name


def _url(file: _File, value: object, *, key: str, at: int | None) -> str:
    if not isinstance(value, str) or (absolute := _absolute(value, file.folder)) is None:
        raise file.error(f"{key} must be the URL of an index", key=key, at=at, hint=_IS_URL)
    _require_no_credentials(file, value, key=key, at=at)
    return absolute


def _require_no_credentials(file: _File, value: object, *, key: str, at: int | None) -> None:
    if isinstance(value, str) and credentials.in_url(value):
        told = f"{key} carries credentials, and this file is committed"
        raise file.error(told, key=key, at=at, hint=credentials.REMEDY)


def _absolute(url: str, folder: Path) -> str | None:
    """The URL; of a path its ``file:`` URL, as uv reads the configuration from another folder. None for neither."""
    if not url or re.search(_UNPRINTABLE, url) or (" " in url and "://" in url):
        return None
    if "://" not in url:
        return Path(os.path.normpath(folder.absolute() / url)).as_uri()
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme == "file" or (parts.scheme in ("http", "https") and parts.hostname) else None


def _forwarded(document: Mapping[str, Any], allowed: Collection[str], folder: Path) -> dict[str, object]:
    """uv's settings that are passed on; a relative cache folder would be another one wherever uv is started."""
    found = {key: value for key, value in document.items() if key in allowed}
    cache = found.get("cache-dir")
    if isinstance(cache, str) and not cache.startswith("~"):
        found["cache-dir"] = os.path.normpath(folder.absolute() / cache)
    return found


# -------------------------------------------------------------------------------------------------------- this machine


def _user_file(environ: Mapping[str, str]) -> Path | None:
    """The user's uv.toml, where uv looks for it."""
    if os.name == "nt":
        return Path(environ["APPDATA"], "uv", UV_FILE) if environ.get("APPDATA") else None
    if environ.get("XDG_CONFIG_HOME"):
        return Path(environ["XDG_CONFIG_HOME"], "uv", UV_FILE)
    return Path(environ["HOME"], ".config", "uv", UV_FILE) if environ.get("HOME") else None


def _system_file(environ: Mapping[str, str]) -> Path | None:
    """The system's uv.toml, where uv looks for it: the first one of XDG_CONFIG_DIRS, else the one in /etc/uv."""
    if os.name == "nt":
        return Path(environ["PROGRAMDATA"], "uv", UV_FILE) if environ.get("PROGRAMDATA") else None
    folders = [Path(folder) for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if folder]
    candidates = [folder / "uv" / UV_FILE for folder in folders]
    return next((path for path in candidates if os.access(path, os.R_OK)), Path("/etc/uv", UV_FILE))


def _of_machine(text: str, *, path: Path, root: Path) -> Indexes:
    """The default index and the settings that reach the network; everything else in the file is nobody's business."""
    document = _File(path=str(path), text=text, folder=path.parent).parse()
    tables = document.get("index", [])
    candidates = [
        t for t in (tables if isinstance(tables, list) else []) if isinstance(t, dict) and t.get("default") is True
    ]
    if isinstance(document.get("index-url"), str):
        candidates.append({"url": document["index-url"]})
    default = next((index for table in candidates if (index := _default_of(table, path.parent)) is not None), None)
    return Indexes(default=default, forwarded=_forwarded(document, _NETWORK, root))


def _default_of(table: Mapping[str, Any], folder: Path) -> Index | None:
    name, form, url = table.get("name"), table.get("format", "simple"), table.get("url")
    absolute = _absolute(url, folder) if isinstance(url, str) else None
    if absolute is None or form not in ("simple", "flat"):
        return None
    known = name if isinstance(name, str) and re.fullmatch(_NAME, name) else None
    extra = {"authenticate": table["authenticate"]} if "authenticate" in table else {}
    return Index(name=known, url=absolute, default=True, format=form, extra=extra)


def mirror_variable(index: str) -> str:
    """The variable that names a mirror of a named index on this machine, for hints."""
    return f"MLENV_INDEX_URL_{index.upper().replace('-', '_')}"


def _from_variables(environ: Mapping[str, str], root: Path) -> Index | None:
    """The default index of UV_DEFAULT_INDEX (a URL, or ``name=url``) or UV_INDEX_URL."""
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        value = environ.get(variable, "").strip()
        if value:
            name, equals, rest = value.partition("=")
            named = bool(equals) and re.fullmatch(_NAME, name) is not None
            url = _variable_url(rest if named else value, root, said_by=variable)
            return Index(name=name if named else None, url=url, default=True)
    return None


def _mirrored(indexes: Indexes, urls: Mapping[str, str], root: Path) -> Indexes:
    """With the URLs that this machine sets; those for indexes that the project doesn't have are for other projects."""
    absolute = {name: _variable_url(url, root, said_by=f"MLENV_INDEX_URL_{name}") for name, url in urls.items()}

    def replaced(index: Index) -> Index:
        return replace(index, url=absolute.get(normalised(index.name or DEFAULT), index.url))

    default = replaced(indexes.default) if indexes.default else None
    if (url := absolute.get(normalised(DEFAULT))) is not None:
        default = replace(default, url=url) if default else Index(name=None, url=url, default=True)
    return replace(indexes, default=default, named={name: replaced(index) for name, index in indexes.named.items()})


def logins(indexes: Indexes, environ: Mapping[str, str]) -> dict[str, str]:
    """``user:password``, percent-encoded, by origin (``https://host:port``): of the URLs, and of uv's variables."""
    from urllib.parse import quote

    found = {}
    for index in (indexes.default, *indexes.named.values()):
        if index is None:
            continue
        parts = urlsplit(index.url)
        login, _, host = parts.netloc.rpartition("@")
        prefix = f"UV_INDEX_{normalised(index.name or DEFAULT)}_"
        user, password = (environ.get(prefix + word, "") for word in ("USERNAME", "PASSWORD"))
        if login or user or password:
            found[f"{parts.scheme}://{host}"] = login or f"{quote(user, safe='')}:{quote(password, safe='')}"
    return found


def _variable_url(value: str, root: Path, *, said_by: str) -> str:
    absolute = _absolute(value, root)
    if absolute is None:  # the value may hold a password
        raise UsageError(f"{said_by} is not the URL of an index", hint=_IS_URL)
    return absolute


def normalised(name: str) -> str:
    """The name of an index as it stands in variables: ``pytorch-cu130`` → ``PYTORCH_CU130``."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


# ------------------------------------------------------------------------------------------------------ text in and out


def as_table(index: Index) -> dict[str, object]:
    """The index as an ``[[index]]`` table of uv: name, url, ``default`` or ``explicit``, format, uv's other keys."""
    known: dict[str, object] = {"name": index.name} if index.name is not None else {}
    known |= {"url": index.url, "default" if index.default else "explicit": True}
    if index.format != "simple":
        known["format"] = index.format
    return known | dict(sorted(index.extra.items()))


def _key(text: str) -> str:
    return text if re.fullmatch(_BARE_KEY, text) else _value(text)


def _value(value: object) -> str:
    """A TOML value on one line, whatever tomllib made of it."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value) if isinstance(value, int | float) else value.isoformat()  # type: ignore[attr-defined]
