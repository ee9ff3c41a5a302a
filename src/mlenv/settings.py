"""Settings: ``[tool.mlenv]``, ``MLENV_*`` variables and ``mlenv.toml`` files, read once into frozen values.

What shapes the lock comes from the project's files and the command line alone (CONTRACT, Files): elsewhere such a
setting is passed over, with a note. What may differ between machines (environment, layout, backend, keep, index URLs)
may come from anywhere. A mistake is told with file, line and the nearest known word.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlenv import __version__, platforms
from mlenv.errors import FaultError, MlenvError, ProjectError, UsageError, did_you_mean
from mlenv.location import BACKEND
from mlenv.report import Finding
from mlenv.textfile import conflict_line, read_text
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.catalogue_rows import Rows

PLATFORMS = tuple(platforms.KNOWN)
"""Every platform a lock can be made for; ``all`` in the settings."""

PROJECT_FILE = "pyproject.toml"
COMMAND_LINE = "command line"
"""What ``origins`` has for a setting that the command line decided."""

TABLE = ("tool", "mlenv")

Layout = Literal["link", "directory"]

_URL_VARIABLE = "MLENV_INDEX_URL_"
_PLACEHOLDERS = ("backend", "host", "user")
_OWN_VARIABLES = ("MLENV_BUILD_ALLOWED",)  # set by mlenv for the builds that it starts
_PROVEN = "proven"  # what the list ``backends`` is called where there is a table ``backends``: TOML can't have both

_PROJECT_ORIGIN = "pyproject.toml [tool.mlenv]"
_PROJECT_ONLY = "this setting comes from the project's files and the command line alone"

# Patterns are texts: each is compiled when it is first used, as compiling all would cost every start.
_PYTHON = r"3\.\d{1,3}(\.\d{1,3})?"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_ROOT = rf"{_NAME}\s*(\[[A-Za-z0-9._,\s-]*\])?"
_PATTERN = r"[A-Za-z0-9._*?\[\]!-]+"
_BRACES = r"\{([^{}]*)\}"

_BACKENDS_LIST = r"(?m)^\s*backends\s*="
_BACKENDS_TABLE = r"(?m)^\s*\[tool\.mlenv\.backends\."
_HEADER = r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?$"
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_ENTRY = rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*="


@dataclass(frozen=True, kw_only=True)
class FoundationSettings:
    """``[tool.mlenv.foundation]``: more roots, more names (or patterns), names that a pattern takes wrongly."""

    roots: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """``[tool.mlenv.backends.<backend>]``: the order of its sources, and a lock of its own."""

    sources: tuple[str, ...] | None = None
    lock: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkspaceSettings:
    """``[tool.mlenv.workspace]``: folders (globs) that are members, and those of them that are not."""

    members: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default.

    Paths are POSIX; ``requirements`` and ``lock`` are relative to the project and inside it. Names of packages are
    canonical, but for ``foundation``, whose roots may carry extras. ``backends`` is None for the files in constraints/.
    ``catalogue`` has rows that change mlenv's catalogue or add to it, in the file's order. ``isolated`` is a member's,
    which is then resolved by itself.
    ``index_urls`` has URLs of this machine by normalised index name. ``origins`` says what decided each key.
    """

    python: str | None = None
    platforms: tuple[str, ...] = ("linux-x86_64",)
    requirements: tuple[str, ...] = ("requirements.in",)
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    unsafe_packages: tuple[str, ...] = ()
    lock: str = "requirements.txt"
    environment: str = ".venv"
    layout: Layout = "link"
    backend: str | None = None
    backends: tuple[str, ...] | None = None
    unproven: tuple[str, ...] = ()
    held_back: Literal["error", "warn", "off"] = "error"
    held_back_days: int = 365
    held_back_allow: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    build_against_foundation: tuple[str, ...] = ()
    foundation: FoundationSettings = FoundationSettings()
    per_backend: Mapping[str, BackendSettings] = field(default_factory=dict)
    index: tuple[tuple[str, str], ...] = ()
    catalogue: Rows = field(default_factory=dict)
    workspace: WorkspaceSettings | None = None
    isolated: bool = False
    keep: int = 3
    required_version: str | None = None
    index_urls: Mapping[str, str] = field(default_factory=dict, repr=False)  # may carry credentials
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)


Keys = tuple[str | int, ...]
"""Where a value stands in a file; a number is the place in an array of tables, from 0."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where values come from. ``path`` is None for the command line and for variables, which have no file."""

    origin: str
    path: str | None = None
    text: str = field(default="", repr=False)
    table: tuple[str, ...] = ()

    def error(self, message: str, keys: Keys, *, hint: str) -> MlenvError:
        """A mistake in the value at ``keys``, with its file and line."""
        if self.path is None:
            return UsageError(f"{self.origin}: {message}", hint=hint)
        return ProjectError(message, path=self.path, line=_line_of(self.text, self.table + keys), hint=hint)

    def header(self, keys: tuple[str, ...]) -> str:
        """The table as it is written in the file."""
        return f"[{'.'.join(self.table + keys)}]" if self.table + keys else "the file"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One value of one source: what it is called there, and how a mistake in it is told."""

    source: _Source
    keys: tuple[str, ...]
    root: Path

    @property
    def name(self) -> str:
        return ".".join(self.keys)

    def below(self, key: str) -> _Place:
        return _Place(source=self.source, keys=(*self.keys, key), root=self.root)

    def write(self, *values: str | int) -> str:
        """The hint to write one of the values: as a line of the file, or to the variable that was read."""
        variable = self.source.origin
        if variable.startswith("MLENV_"):
            return f"`export {variable}={values[0]}`, or `unset {variable}`"
        shown = (f'"{value}"' if isinstance(value, str) else str(value) for value in values)
        return f"write {self.name} = {' or '.join(shown)}"

    def wrong(self, message: str, *, hint: str) -> MlenvError:
        return self.source.error(f"{self.name} {message}", self.keys, hint=hint)

    def expected(self, kind: str, value: object, *, hint: str) -> MlenvError:
        return self.wrong(f"must be {kind}, not {_kind(value)}", hint=hint)


@dataclass(frozen=True, kw_only=True)
class _Given:
    """One key that a source sets."""

    source: _Source
    key: str
    value: object


_Reader = Callable[[_Place, object], Any]


def load(
    root: Path,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    user_file: Path | None = None,
    system_file: Path | None = None,
) -> tuple[Settings, tuple[Finding, ...]]:
    """The settings of the project at ``root``, and notes on what was passed over.

    ``overrides`` are those of the command line, by key as in ``[tool.mlenv]``; None means not given. The files are the
    user's and the system's ``mlenv.toml``, by default those of the platform's configuration folders.
    Raises ProjectError for a mistake in a file, UsageError for one in a variable or on the command line.
    """
    project = _read_source(root / PROJECT_FILE, shown=PROJECT_FILE, table=TABLE, origin=_PROJECT_ORIGIN)
    notes = list(_variable_notes(environ))
    given: list[_Given] = []
    for path, origin in _machine_files(user_file, system_file):
        usable, passed_over = _machine_given(_read_source(path, shown=str(path), table=(), origin=origin))
        given += usable
        notes += passed_over
    given += _project_given(project)
    given += _variables_given(environ)
    given += _overrides_given(overrides or {})
    settings = _settings(given, root)
    _require_lock_of_its_own(settings, project[0])
    return settings, tuple(notes)


def line_of(root: Path, keys: Keys) -> int | None:
    """The line of the project's file that sets ``keys`` of ``[tool.mlenv]``, or else that of the table around it."""
    return _line_of(read_text(root / PROJECT_FILE, shown=PROJECT_FILE) or "", TABLE + keys)


def lock_meaning(settings: Settings) -> str:
    """Canonical text of the settings that shape the lock, for a digest: one ``key = value`` line each, sorted.

    Python, platforms and the overlays have header lines of their own, and URLs never enter a digest.
    Defaults are left out, so that a key which a later mlenv adds makes no lock stale.
    """
    import json

    standard = dict(_shaping(Settings()))
    chosen = {key: value for key, value in _shaping(settings) if value != standard.get(key)}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in sorted(chosen.items()))


def load_member(root: Path, folder: str, inherited: Settings) -> Settings:
    """The settings of the member in ``folder`` (POSIX) of the workspace at ``root``: the workspace's, narrowed.

    Its files are named relative to its folder there, and relative to the workspace in what comes out.
    Raises ProjectError for a mistake in its pyproject.toml, and for what only the workspace can say.
    """
    path = f"{folder}/{PROJECT_FILE}"
    source, table = _read_source(root / path, shown=path, table=TABLE, origin=f"{path} [tool.mlenv]")
    for key in table:
        if key in _READERS and key not in _PER_MEMBER:
            hint = f"write it to [tool.mlenv] in the workspace's {PROJECT_FILE}"
            raise source.error(f"{key} is the whole workspace's, and no member's", (key,), hint=hint)
    _require_known(source, (), table, _PER_MEMBER)
    own: dict[str, Any] = {
        key.replace("-", "_"): _READERS[key](_Place(source=source, keys=(key,), root=root / folder), value)
        for key, value in table.items()
    }
    _require_narrower(source, own, inherited)
    origins = {**inherited.origins, **dict.fromkeys(table, source.origin)}
    files = own.get("requirements") or _usual_files(root / folder)
    below = {
        "requirements": tuple(f"{folder}/{name}" for name in files),
        "constraints": (*inherited.constraints, *(f"{folder}/{name}" for name in own.get("constraints", ()))),
        "lock": f"{folder}/{own.get('lock', 'requirements.txt')}",
        "environment": _environment_below(folder, own.get("environment"), inherited),
        "per_backend": {
            name: replace(chosen, lock=chosen.lock and f"{folder}/{posixpath.basename(chosen.lock)}")
            for name, chosen in inherited.per_backend.items()
        },
    }
    apart = {"extras": (), "groups": (), "workspace": None}
    return replace(inherited, **{**apart, **own, **below, "origins": origins})


def _usual_files(folder: Path) -> tuple[str, ...]:
    return ("requirements.in",) if (folder / "requirements.in").is_file() else (PROJECT_FILE,)


def _environment_below(folder: str, own: str | None, inherited: Settings) -> str:
    """The member's environment: the machine's word counts before the project's, and no two members share a path."""
    named = inherited.environment
    if own is not None and inherited.origins.get("environment", "default") in ("default", _PROJECT_ORIGIN):
        named = own
        if Path(named).is_absolute():
            return named
    if Path(named).is_absolute():
        return f"{named}-{folder.replace('/', '-')}"
    return f"{folder}/{named}"


def _require_narrower(source: _Source, own: Mapping[str, Any], inherited: Settings) -> None:
    """A member is proven on no backend and no Python that the workspace isn't. Raises ProjectError."""
    python, whole = own.get("python"), inherited.python
    if python and whole and not own.get("isolated") and not f"{python}.".startswith(f"{whole}."):
        hint = "one resolution is for one Python: write isolated = true to resolve this member by itself"
        raise source.error(f"python is {python}, and the workspace is locked for {whole}", ("python",), hint=hint)
    more = [name for name in own.get("backends") or () if name not in (inherited.backends or own["backends"])]
    if more:
        hint = f"the workspace is locked for {', '.join(inherited.backends or ())}"
        raise source.error(f"backends has {', '.join(more)}, which the workspace has not", ("backends",), hint=hint)


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name  # costs a quarter of a start, and few projects name packages here

    return canonicalize_name(name)


def _shaping(settings: Settings) -> Iterator[tuple[str, object]]:
    """The settings that shape the lock as JSON values; where order says nothing, sorted."""
    own = settings.foundation
    yield "requirements", sorted(settings.requirements)
    yield "extras", sorted(settings.extras)
    yield "groups", sorted(settings.groups)
    yield "constraints", sorted(settings.constraints)
    yield "unsafe-packages", sorted(settings.unsafe_packages)
    yield "lock", settings.lock
    yield "unproven", sorted(settings.unproven)
    yield "held-back", settings.held_back
    yield "held-back-days", settings.held_back_days
    yield "held-back-allow", sorted(settings.held_back_allow)
    yield "build", sorted(settings.build)
    yield "build-against-foundation", sorted(settings.build_against_foundation)
    yield "index", sorted(map(list, settings.index))
    if settings.catalogue:
        from mlenv.catalogue_rows import meaning

        yield "catalogue", meaning(settings.catalogue)
    for name, values in (("roots", own.roots), ("include", own.include), ("exclude", own.exclude)):
        yield f"foundation.{name}", sorted({_canonical(value) for value in values})
    for backend, chosen in settings.per_backend.items():
        for name, value in (("sources", chosen.sources), ("lock", chosen.lock)):
            if value is not None:
                yield f"backends.{backend}.{name}", value


# -------------------------------------------------------------------------------------------------------- sources


def _machine_files(user_file: Path | None, system_file: Path | None) -> Iterator[tuple[Path, str]]:
    """The lower one in precedence first. A home that can't be read (a container under another user) has no settings."""
    if user_file is None or system_file is None:
        user, system = config_folders()
        user_file = user_file or user / "mlenv.toml"
        system_file = system_file or system / "mlenv.toml"
    for path, origin in ((system_file, "system mlenv.toml"), (user_file, "user mlenv.toml")):
        if os.access(path, os.R_OK):
            yield path, origin


def config_folders() -> tuple[Path, Path]:
    """The user's and the system's configuration folder, where platformdirs has them.

    On Linux XDG's rule is short, and that import takes longer than everything else that reads the settings.
    """
    if sys.platform == "linux" and Path(os.environ.get("HOME", "")).is_absolute():
        own, *_ = [*_absolute("XDG_CONFIG_HOME"), f"{os.environ['HOME']}/.config"]
        shared, *_ = [*_absolute("XDG_CONFIG_DIRS"), "/etc/xdg"]
        return Path(own, "mlenv"), Path(shared, "mlenv")
    import platformdirs

    return platformdirs.user_config_path("mlenv", appauthor=False), platformdirs.site_config_path(
        "mlenv", appauthor=False
    )


def _absolute(variable: str) -> list[str]:
    """The paths in a variable of XDG's, where relative ones count for nothing."""
    return [path for path in os.environ.get(variable, "").split(os.pathsep) if Path(path).is_absolute()]


def _read_source(
    path: Path, *, shown: str, table: tuple[str, ...], origin: str
) -> tuple[_Source, Mapping[str, object]]:
    """The source and its table; an empty one where the file or the table is missing."""
    text = read_text(path, shown=shown)
    source = _Source(origin=origin, path=shown, text=text or "", table=table)
    found: object = _toml(text, shown) if text else {}
    for depth, key in enumerate(table):
        found = found.get(key, {}) if isinstance(found, dict) else found
        if not isinstance(found, dict):
            shown_table = ".".join(table[: depth + 1])
            raise ProjectError(
                f"{shown_table} must be a table, not {_kind(found)}",
                path=shown,
                line=_line_of(source.text, table[: depth + 1]),
                hint=f"write [{shown_table}] on a line of its own",
            )
    assert isinstance(found, dict)
    return source, found


def _toml(text: str, shown: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        if (marker := conflict_line(text)) is not None:
            told, hint = "a conflict marker of git was left here", "resolve the merge, then run `mlenv lock`"
            raise ProjectError(told, path=shown, line=marker, hint=hint) from error
        at = re.search(r" \(at line (\d+), column \d+\)", str(error))
        line = int(at[1]) if at else None
        reason = str(error).replace(at[0], "") if at else str(error)
        hint = "correct the file"
        if reason.startswith("Cannot") and re.search(_BACKENDS_LIST, text) and re.search(_BACKENDS_TABLE, text):
            hint = f"backends can't be a list and a table: write the list as [tool.mlenv.backends] {_PROVEN} = [...]"
        raise ProjectError(f"is not valid TOML: {reason}", path=shown, line=line, hint=hint) from error


def _project_given(project: tuple[_Source, Mapping[str, object]]) -> Iterator[_Given]:
    source, table = project
    wanted = table.get("required-version")
    if isinstance(wanted, str):  # before unknown keys, which a newer mlenv may know
        _require_version(_Place(source=source, keys=("required-version",), root=Path()), wanted)
    if "index-url" in table:
        hint = "URLs of a project stand in uv.toml; a machine's in MLENV_INDEX_URL_<NAME> or in the user's mlenv.toml"
        raise source.error("index-url is no setting of a project", ("index-url",), hint=hint)
    _require_known(source, (), table, _READERS)
    for key, value in table.items():
        yield _Given(source=source, key=key, value=value)


def _machine_given(found: tuple[_Source, Mapping[str, object]]) -> tuple[tuple[_Given, ...], tuple[Finding, ...]]:
    """What a ``mlenv.toml`` sets, and notes on the keys that only a project can set."""
    source, table = found
    _require_known(source, (), table, (*_READERS, "index-url"))
    usable = tuple(_Given(source=source, key=k, value=v) for k, v in table.items() if k in _PER_MACHINE)
    passed_over = tuple(
        Finding(
            kind="setting-ignored",
            message=f"{key} is ignored in the {source.origin}: {_PROJECT_ONLY}",
            hint="write it to [tool.mlenv] in pyproject.toml",
            path=source.path,
            line=_line_of(source.text, (key,)),
            severity="note",
        )
        for key in table
        if key not in _PER_MACHINE
    )
    return usable, passed_over


def _variables_given(environ: Mapping[str, str]) -> Iterator[_Given]:
    for name, value in sorted(environ.items()):
        source = _Source(origin=name)
        if not value:
            continue
        if _names_url(name):
            yield _Given(source=source, key="index-url", value={name.removeprefix(_URL_VARIABLE): value})
        elif name in _MACHINE_VARIABLES:
            yield _Given(source=source, key=_MACHINE_VARIABLES[name], value=value)


def _names_url(variable: str) -> bool:
    return variable.startswith(_URL_VARIABLE) and variable != _URL_VARIABLE


def _variable_notes(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Notes on MLENV_* variables that have no effect."""
    for name in sorted(environ):
        if not name.startswith("MLENV_") or name in (*_OWN_VARIABLES, *_MACHINE_VARIABLES) or _names_url(name):
            continue
        if name in _PROJECT_VARIABLES or name.startswith(_TABLE_VARIABLES):
            message = f"{name} is ignored: {_PROJECT_ONLY}"
            hint = "write it to [tool.mlenv] in pyproject.toml"
            yield Finding(kind="variable-ignored", message=message, hint=hint, severity="note")
        else:
            known = (*_MACHINE_VARIABLES, f"{_URL_VARIABLE}<NAME>")
            message = f"{name} is ignored: mlenv has no such variable"
            hint = did_you_mean(name, known, otherwise=f"there are {', '.join(known)}")
            yield Finding(kind="variable-unknown", message=message, hint=hint, severity="note")


def _overrides_given(overrides: Mapping[str, object]) -> Iterator[_Given]:
    for key, value in overrides.items():
        written = key.replace("_", "-")
        if written not in _READERS:
            raise FaultError(f"the command line overrides the unknown setting {key!r}")
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            yield _Given(source=_Source(origin=COMMAND_LINE), key=written, value=plain)


def _settings(given: Iterable[_Given], root: Path) -> Settings:
    """Later values win; index URLs are merged by name."""
    fields: dict[str, Any] = {}
    urls: dict[str, str] = {}
    origins = dict.fromkeys(_READERS, "default")
    for item in given:
        place = _Place(source=item.source, keys=(item.key,), root=root)
        if item.key == "index-url":
            found = _index_urls(place, item.value)
            urls |= found
            origins |= {f"index-url.{name}": item.source.origin for name in found}
        elif item.key == "backends" and isinstance(item.value, dict):
            fields |= _backends_table(place, item.value)
            origins["backends"] = item.source.origin
        else:
            fields[item.key.replace("-", "_")] = _READERS[item.key](place, item.value)
            origins[item.key] = item.source.origin
    return Settings(**fields, index_urls=urls, origins=origins)


# --------------------------------------------------------------------------------------------------------- values


def _text(place: _Place, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise place.expected("a string", value, hint=f'write {place.keys[-1]} = "..."')
    return value


def _python(place: _Place, value: object) -> str:
    if isinstance(value, float):
        raise place.expected("a string", value, hint='write it in quotes: python = "3.11"')
    text = _text(place, value)
    if not re.fullmatch(_PYTHON, text):
        raise place.wrong(f"names no Python version: {text!r}", hint='write a version such as "3.11" or "3.11.4"')
    return text


def _texts(place: _Place, value: object) -> tuple[str, ...]:
    key = place.keys[-1]
    if not isinstance(value, list):
        hint = f'write {key} = ["{value}"]' if isinstance(value, str) else f'write {key} = ["..."]'
        raise place.expected("a list of strings", value, hint=hint)
    for item in value:
        if not isinstance(item, str) or not item:
            raise place.wrong(f"must be a list of strings; it has {_kind(item)}", hint=f'write {key} = ["..."]')
    return tuple(dict.fromkeys(value))


def _some(reader: _Reader) -> _Reader:
    """A list that can't be empty."""

    def read(place: _Place, value: object) -> Any:
        found = reader(place, value)
        if not found:
            raise place.wrong("is empty", hint="leave the key out for its default")
        return found

    return read


def _each(pattern: str, what: str, hint: str) -> _Reader:
    """A list of texts that each match ``pattern``."""

    def read(place: _Place, value: object) -> tuple[str, ...]:
        found = _texts(place, value)
        for item in found:
            if not re.fullmatch(pattern, item):
                raise place.wrong(f"has {item!r}, which is no {what}", hint=hint)
        return found

    return read


def _canonical_each(pattern: str, what: str, hint: str) -> _Reader:
    """The same, names spelled as they are compared."""

    def read(place: _Place, value: object) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(_canonical, _each(pattern, what, hint)(place, value))))

    return read


def _names(place: _Place, value: object) -> tuple[str, ...]:
    found = _each(_NAME, "package name", "write names alone, without versions")(place, value)
    return tuple(dict.fromkeys(_canonical(item) for item in found))


def _platforms(place: _Place, value: object) -> tuple[str, ...]:
    known = (*PLATFORMS, "all")
    found = _texts(place, value)
    for item in found:
        if item not in known:
            hint = did_you_mean(item, known, otherwise=f"there are {', '.join(known)}")
            raise place.wrong(f"has {item!r}, which is no platform mlenv knows", hint=hint)
    return tuple(known for known in PLATFORMS if known in found or "all" in found)


def _choice(*known: str) -> _Reader:
    def read(place: _Place, value: object) -> str:
        words = " or ".join(f'"{word}"' for word in known)
        if isinstance(value, str) and value in known:
            return value
        hint = did_you_mean(value if isinstance(value, str) else "", known, otherwise=place.write(*known))
        raise place.wrong(f"must be {words}, not {value!r}", hint=hint)

    return read


def _flag(place: _Place, value: object) -> bool:
    if not isinstance(value, bool):
        raise place.expected("true or false", value, hint=f"write {place.name} = true")
    return value


def _count(least: int) -> _Reader:
    def read(place: _Place, value: object) -> int:
        if place.source.path is None and isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise place.expected("a whole number", value, hint=place.write(max(least, 3)))
        if value < least:
            raise place.wrong(f"must be {least} or more, not {value}", hint=place.write(least))
        return value

    return read


def _file(place: _Place, value: object) -> str:
    return _inside(place, _text(place, value))


def _files(place: _Place, value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_inside(place, item) for item in _texts(place, value)))


def _inside(place: _Place, text: str) -> str:
    """The path as POSIX text without ``.`` and ``..``; it must be relative and stay inside the project."""
    if "\\" in text or re.match(r"[A-Za-z]:", text):
        raise place.wrong(f"has {text!r}", hint="write a relative path with forward slashes")
    plain = posixpath.normpath(text)
    if plain.startswith(("/", "../")) or plain in ("..", "."):
        raise place.wrong(
            f"names {text!r}, which is not inside the project", hint="write a path below the project's folder"
        )
    return plain


def _environment(place: _Place, value: object) -> str:
    """May be anywhere but where an environment would take the place of the project or of mlenv's own folder."""
    text = _text(place, value)
    for name in re.findall(_BRACES, text):
        if name not in _PLACEHOLDERS:
            known = ", ".join(f"{{{word}}}" for word in _PLACEHOLDERS)
            hint = did_you_mean(name, _PLACEHOLDERS, otherwise=f"there are {known}")
            raise place.wrong(f"has the unknown placeholder {{{name}}}", hint=hint)
    expanded = str(Path(text).expanduser()) if text.startswith("~") else text
    root = os.path.abspath(place.root)  # noqa: PTH100  (without following links, as the environment is made)
    target = os.path.normpath(os.path.join(root, re.sub(_BRACES, "", expanded)))  # noqa: PTH118
    if Path(root).is_relative_to(target):
        raise place.wrong(
            f"is {text!r}, which holds the project itself", hint='write a folder of its own, such as ".venv"'
        )
    for taken in (".mlenv", ".git"):
        if Path(target).is_relative_to(Path(root) / taken):
            raise place.wrong(f"is {text!r}, inside {taken}/", hint='write a folder of its own, such as ".venv"')
    return expanded


def _backend(place: _Place, value: object) -> str:
    text = _text(place, value)
    if not re.fullmatch(BACKEND, text):
        hint = did_you_mean(text.lower(), ("cpu", "cu126", "cu128", "cu130", "cu132"), otherwise="such as cpu or cu130")
        raise place.wrong(f"is {text!r}, which is no backend", hint=hint)
    return text


_backends = _each(BACKEND, "backend", "backends are lower-case words such as cpu or cu130")


def _table(place: _Place, value: object, known: Iterable[str] | None) -> dict[str, object]:
    """A table; with ``known``, one that has no other keys."""
    if not isinstance(value, dict):
        raise place.expected("a table", value, hint=f"write {place.source.header(place.keys)} on a line of its own")
    if known is not None:
        _require_known(place.source, place.keys, value, known)
    return value


def _foundation(place: _Place, value: object) -> FoundationSettings:
    table = _table(place, value, ("roots", "include", "exclude"))
    roots = _each(_ROOT, "package name", 'write names, with extras where needed: roots = ["jax[cuda13]"]')
    patterns = _each(_PATTERN, "package name or pattern", 'write names or globs: "my-cuda-*"')
    return FoundationSettings(
        **{key: (roots if key == "roots" else patterns)(place.below(key), item) for key, item in table.items()}
    )


def _workspace(place: _Place, value: object) -> WorkspaceSettings:
    table = _table(place, value, ("members", "exclude"))
    return WorkspaceSettings(**{key: _files(place.below(key), item) for key, item in table.items()})


def _backends_table(place: _Place, value: dict[str, object]) -> dict[str, Any]:
    """``[tool.mlenv.backends.<backend>]`` tables, and beside them ``proven``: what ``backends`` is as a list."""
    fields: dict[str, Any] = {}
    per_backend: dict[str, BackendSettings] = {}
    for name, item in value.items():
        below = place.below(name)
        if name == _PROVEN:
            fields["backends"] = _some(_backends)(below, item)
        elif not isinstance(item, dict):
            hint = f"write {_PROVEN} = [...] for the list, [tool.mlenv.backends.<backend>] for what is one backend's"
            raise below.wrong("is neither a backend's table nor the list of proven backends", hint=hint)
        else:
            per_backend[_backend(below, name)] = _one_backend(below, item)
    return {**fields, "per_backend": per_backend}


def _one_backend(place: _Place, value: object) -> BackendSettings:
    readers: Mapping[str, _Reader] = {"sources": _some(_texts), "lock": _file}
    table = _table(place, value, readers)
    return BackendSettings(**{key: readers[key](place.below(key), item) for key, item in table.items()})


def _index(place: _Place, value: object) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for pattern, item in _table(place, value, None).items():
        below = place.below(pattern)
        if not re.fullmatch(_PATTERN, pattern):
            raise below.wrong(
                "is neither a package name nor a glob", hint='write, for example, "company-*" = "company"'
            )
        canonical = _canonical(pattern)
        if canonical in found:
            raise below.wrong("names the same packages as another line", hint="keep one of the two lines")
        found[canonical] = _text(below, item)
    return tuple(found.items())


def _catalogue(place: _Place, value: object) -> Rows:
    from mlenv import catalogue_rows  # few projects have rows of their own

    def wrong(where: catalogue_rows.Where, message: str, hint: str) -> MlenvError:
        return place.source.error(
            f"{catalogue_rows.written(('catalogue', *where))} {message}", ("catalogue", *where), hint=hint
        )

    return catalogue_rows.read(value, wrong=wrong)


def _index_urls(place: _Place, value: object) -> dict[str, str]:
    table = _table(place, value, None)
    return {re.sub(r"[^A-Z0-9]", "_", name.upper()): _text(place.below(name), url) for name, url in table.items()}


def _require_version(place: _Place, wanted: str) -> None:
    """Raises ProjectError where this mlenv isn't one that the project wants."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(wanted).contains(__version__, prereleases=True)
    except InvalidSpecifier:
        raise place.wrong(f"is {wanted!r}, which is no version specifier", hint='write one such as ">=0.1"') from None
    if not fits:
        raise place.wrong(
            f"is {wanted!r}, and this is mlenv {__version__}", hint=f"install a version of mlenv that is {wanted}"
        )


def _required_version(place: _Place, value: object) -> str:
    wanted = _text(place, value)
    _require_version(place, wanted)
    return wanted


_READERS: Mapping[str, _Reader] = {
    "python": _python,
    "platforms": _some(_platforms),
    "requirements": _some(_files),
    "extras": _canonical_each(rf"\*|{_NAME}", "extra", 'write names of extras, or "*" for all'),
    "groups": _canonical_each(_NAME, "dependency group", "write names of [dependency-groups]"),
    "constraints": _files,
    "unsafe-packages": _names,
    "lock": _file,
    "environment": _environment,
    "layout": _choice("link", "directory"),
    "backend": _backend,
    "backends": _some(_backends),
    "unproven": _backends,
    "held-back": _choice("error", "warn", "off"),
    "held-back-days": _count(0),
    "held-back-allow": _names,
    "build": _names,
    "build-against-foundation": _names,
    "foundation": _foundation,
    "index": _index,
    "catalogue": _catalogue,
    "workspace": _workspace,
    "isolated": _flag,
    "keep": _count(1),
    "required-version": _required_version,
}
_PER_MEMBER = (
    *("python", "requirements", "extras", "groups", "constraints", "lock", "environment", "layout", "backend"),
    *("backends", "isolated", "keep"),
)
_PER_MACHINE = ("environment", "layout", "backend", "keep", "index-url")
_VARIABLES: Mapping[str, str] = {f"MLENV_{key.upper().replace('-', '_')}": key for key in _READERS}
_MACHINE_VARIABLES: Mapping[str, str] = {name: key for name, key in _VARIABLES.items() if key in _PER_MACHINE}
_TABLE_VARIABLES = ("MLENV_CATALOGUE_", "MLENV_FOUNDATION_", "MLENV_BACKENDS_", "MLENV_WORKSPACE_")
_PROJECT_VARIABLES = tuple(name for name in _VARIABLES if name not in _MACHINE_VARIABLES)


# ------------------------------------------------------------------------------------------- checks and where they are


def _require_known(source: _Source, keys: tuple[str, ...], table: Mapping[str, object], known: Iterable[str]) -> None:
    names = tuple(known)
    for key in table:
        if key not in names:
            hint = did_you_mean(key.replace("_", "-"), names, otherwise=f"the keys are {', '.join(names)}")
            raise source.error(f"{source.header(keys)} has the unknown key {key!r}", (*keys, key), hint=hint)


def _require_lock_of_its_own(settings: Settings, source: _Source) -> None:
    """No lock may overwrite a requirements file, another lock or a file of the project's settings."""
    taken = dict.fromkeys(settings.requirements, "a requirements file") | {
        PROJECT_FILE: "where the settings stand",
        "uv.toml": "where the indexes stand",
    }
    locks = {("lock",): settings.lock} | {
        ("backends", backend, "lock"): chosen.lock for backend, chosen in settings.per_backend.items() if chosen.lock
    }
    for keys, path in locks.items():
        if path in taken:
            message = f"{'.'.join(keys)} is {path}, which is {taken[path]}"
            raise source.error(message, keys, hint="give the lock a file of its own, such as requirements.txt")
        taken[path] = "another lock"


def _line_of(text: str, keys: Keys) -> int | None:
    """The line that sets ``keys``, or else the table that holds it (an inline table is one line); None if unseen.

    Arrays of tables are counted: ``("backend", 1)`` is the second ``[[backend]]``. Keys without such a number find
    the first.
    """
    table: Keys = ()
    counts: dict[Keys, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        found: Keys = ()
        if header := re.match(_HEADER, line):
            found = table = _numbered(_dotted(header[1]), counts, opens=line.lstrip().startswith("[["))
        elif entry := re.match(_ENTRY, line):
            found = table + _dotted(entry[1])
        if _is_at(found, keys):
            return number
    return _line_of(text, keys[:-1]) if len(keys) > 1 else None


def _numbered(header: tuple[str, ...], counts: dict[Keys, int], *, opens: bool) -> Keys:
    """A header with the place in each array of tables on its way; ``counts`` is how many each array has so far."""
    path: Keys = ()
    for depth, key in enumerate(header, start=1):
        path = (*path, key)
        if opens and depth == len(header):
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = (*path, counts[path] - 1)
    return path


def _is_at(found: Keys, keys: Keys) -> bool:
    """Whether what was found is at or below ``keys``, numbers compared only where ``keys`` has them."""
    place = 0
    for key in keys:
        if place < len(found) and isinstance(found[place], int) and not isinstance(key, int):
            place += 1
        if place >= len(found) or found[place] != key:
            return False
        place += 1
    return True


def _dotted(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, text))


def _kind(value: object) -> str:
    """What a TOML value is, in words."""
    if value == "":
        return "an empty string"
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return words.get(type(value), "a date")
