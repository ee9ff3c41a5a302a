"""A local project: a folder inside this one that pip could install (CONTRACT, Trust).

Knows what makes a folder one, what its pyproject.toml states about dependencies and what it leaves to the build, the
bare pyproject.toml that uv is given in place of the real one, and when an installed copy is out of date.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlenv.errors import ProjectError, did_you_mean
from mlenv.requirement_lines import (
    FLAT_INDEX_HINT,
    INSIDE_HINT,
    FolderLine,
    Line,
    Named,
    Refusal,
    WheelUrl,
    canonical,
    dependency,
)
from mlenv.textfile import inside, require_text
from mlenv.values import dataclass

# Tables of pyproject.toml that may hold dependencies where [project] leaves them to the build.
_BUILD_TOOLS = ("setuptools", "setuptools_scm", "poetry", "hatch", "pdm", "flit", "scikit-build", "maturin")
_METADATA_FILES = ("pyproject.toml", "setup.cfg", "setup.py")

MIRRORED_PROJECTS = ".mlenv-in/local"
"""Inside the private folder that uv runs in; no file of a project is there."""


@dataclass(frozen=True, kw_only=True)
class LocalProject:
    """A project in a folder inside this one. It stays out of the lock, its dependencies are locked.

    ``path`` is absolute, ``relative`` POSIX and relative to the project. ``name`` is canonical, and None where only the
    build knows it. ``dependency_text`` is canonical text of what ``metadata_path`` says about dependencies; ``stated``
    is a pyproject.toml that says no more than that, None where the build decides.
    """

    path: Path
    relative: str
    editable: bool
    extras: tuple[str, ...]
    name: str | None
    metadata_path: str
    dependency_text: str
    stated: str | None = None
    line: int
    comment: str | None = None

    @property
    def written(self) -> str:
        """The line as it stands in a requirements file in the project's folder."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{'-e ' if self.editable else ''}{'.' if self.relative == '.' else f'./{self.relative}'}{extras}"

    @property
    def requires(self) -> tuple[str, ...]:
        """The canonical names that it states to require, with its extras; none where the build decides."""
        if self.stated is None:
            return ()
        project = _table(_toml(self.stated, self.metadata_path), "project")
        groups = _table(project, "optional-dependencies")
        listed = [*project.get("dependencies", ()), *(one for extra in self.extras for one in groups.get(extra, ()))]
        return tuple(canonicalize_name(Requirement(text).name) for text in listed)

    def line_for_uv(self) -> str:
        """The line as uv takes it from a file in any folder, ``-e`` in front where it is editable."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        target = f"{self.name}{extras} @ {self.path.as_uri()}" if self.name else f"{self.path}{extras}"
        return f"-e {target}" if self.editable else target

    @property
    def mirrored(self) -> str | None:
        """Where uv finds what is stated about it, relative to the folder it runs in; None: it must read the real one.

        The real pyproject.toml may hold ``[tool.uv]`` tables, which uv would obey.
        """
        return None if self.stated is None else (Path(MIRRORED_PROJECTS) / self.relative).as_posix()

    def line_for_resolving(self) -> str:
        """The line as uv takes it where only dependencies matter."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return self.line_for_uv() if self.mirrored is None else f"-e ./{self.mirrored}{extras}"

    @property
    def content_digest(self) -> str:
        """Changes where an installed copy is out of date: with the metadata, and unless editable with any file."""
        from hashlib import sha256

        parts = [(name, _text_or_none(self.path / name)) for name in _METADATA_FILES]
        return sha256(repr([parts, [] if self.editable else list(_stamps(self.path))]).encode()).hexdigest()

    def joined(self, other: LocalProject) -> LocalProject:
        """This project as two lines name it: extras of both, editable where one of them says so."""
        extras = tuple(sorted({*self.extras, *other.extras}))
        return replace(self, extras=extras, editable=self.editable or other.editable, name=self.name or other.name)


def find_local_project(
    root: Path,
    path: str,
    line: Line,
    named: FolderLine,
    *,
    folder: str = "",
    edited: Mapping[str, str] = MappingProxyType({}),
) -> LocalProject:
    """The local project that ``line`` of the file ``path`` names; its folder is relative to ``folder``, as for pip.

    ``edited`` has texts (by path) that are not on the disk yet.
    Raises ProjectError where the folder is outside, is no project, or what it states can't be read or trusted.
    """
    relative = inside(root, os.path.join(folder, named.path), origin=path, line=line.number)  # noqa: PTH118 - POSIX text
    absolute = Path(os.path.abspath(root / relative))  # noqa: PTH100 - links are kept as they are
    _require_project(absolute, root / folder, path, line, named)
    described = _described(root, relative, edited)
    if named.name and described.name and named.name != described.name:
        message = f"the project in {named.path} is {described.name}, not {named.name}"
        raise ProjectError(message, path=path, line=line.number, hint="correct the name")
    return LocalProject(
        path=absolute,
        relative=relative,
        editable=named.editable,
        extras=named.extras,
        name=described.name or named.name,
        metadata_path=described.path,
        dependency_text=described.text,
        stated=described.stated,
        line=line.number,
        comment=line.comment,
    )


def own_package(
    root: Path,
    folder: str,
    *,
    extras: tuple[str, ...] = (),
    line: int = 0,
    edited: Mapping[str, str] = MappingProxyType({}),
) -> LocalProject:
    """The package of a workspace in ``folder`` (POSIX), editable. Raises ProjectError as ``find_local_project``."""
    described = _described(root, folder, edited)
    return LocalProject(
        path=Path(os.path.abspath(root / folder)),  # noqa: PTH100 - links are kept as they are
        relative=folder,
        editable=True,
        extras=extras,
        name=described.name,
        metadata_path=described.path,
        dependency_text=described.text,
        stated=described.stated,
        line=line,
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What of a pyproject.toml is asked for beside its dependencies: extras (``*``: all), dependency groups."""

    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


DEPENDENCIES_ALONE = Chosen()


def stated_dependencies(path: str, text: str, chosen: Chosen) -> tuple[str | None, tuple[Named | WheelUrl, ...]]:
    """``[project]`` of a pyproject.toml with this text: its canonical name (None without one) and its dependencies.

    Those of the chosen extras and groups come after them. Raises ProjectError with file and line where they are left
    to the build, can't be understood or trusted, or where there is no such extra or group.
    """
    document = _toml(text, path)
    project = _table(document, "project")
    if _left_open(project, "dependencies"):
        hint = 'name the file they are in: [tool.mlenv] requirements = ["requirements.in"]'
        raise ProjectError("[project] leaves its dependencies to the build", path=path, hint=hint)
    name = _name(project, path)
    entries = [*_dependencies(project.get("dependencies", []), path, text)]
    entries += _of_extras(project, name, chosen.extras, path, text)
    entries += _of_groups(document, chosen.groups, path, text)
    return name, tuple(entries)


def _of_extras(
    project: Mapping[str, Any], name: str | None, extras: Iterable[str], path: str, text: str
) -> Iterator[Named | WheelUrl]:
    """The dependencies of extras, those that an extra takes in as ``NAME[other]`` included."""
    there = {canonicalize_name(key): value for key, value in _table(project, "optional-dependencies").items()}
    waiting, seen = [key for extra in extras for key in (there if extra == "*" else (canonicalize_name(extra),))], set()
    while waiting:
        extra = waiting.pop(0)
        if extra in seen:
            continue
        seen.add(extra)
        if extra not in there:
            hint = did_you_mean(extra, there, otherwise=f"there are {', '.join(there) or 'none'}")
            raise ProjectError(f"[project.optional-dependencies] has no extra {extra!r}", path=path, hint=hint)
        for entry in _dependencies(there[extra], path, text):
            if name is not None and canonicalize_name(entry.requirement.name) == name:
                waiting += sorted(canonicalize_name(other) for other in entry.requirement.extras)
            else:
                yield entry


def _of_groups(
    document: Mapping[str, Any], groups: Sequence[str], path: str, text: str
) -> tuple[Named | WheelUrl, ...]:
    """The dependencies of dependency groups (PEP 735), included groups with them."""
    if not groups:
        return ()
    from packaging.dependency_groups import resolve_dependency_groups

    there = _table(document, "dependency-groups")
    for group in groups:
        if canonicalize_name(group) not in map(canonicalize_name, there):
            hint = did_you_mean(group, there, otherwise=f"there are {', '.join(there) or 'none'}")
            raise ProjectError(f"[dependency-groups] has no group {group!r}", path=path, hint=hint)
    try:
        listed = resolve_dependency_groups(there, *groups)
    except Exception as error:  # it raises groups of ValueError, LookupError and TypeError
        causes = getattr(error, "exceptions", (error,))
        told = "; ".join(str(cause) for cause in causes)
        raise ProjectError(f"[dependency-groups] is wrong: {told}", path=path, hint="correct the table") from error
    return _dependencies(list(listed), path, text)


# ----------------------------------------------------------------------------------------------------------- the folder


def _require_project(absolute: Path, root: Path, path: str, line: Line, folder: FolderLine) -> None:
    """Raise ProjectError where the folder isn't one that can be installed."""
    try:
        if (absolute / "pyproject.toml").is_file() or (absolute / "setup.py").is_file():
            return
        problem = f"{folder.path} has neither pyproject.toml nor setup.py"
        hint = "name the folder that holds the project"
        if absolute.is_file():
            problem, hint = f"{folder.path} is a file, and only folders are local projects", FLAT_INDEX_HINT
        elif not absolute.is_dir():
            problem, hint = f"{folder.path} does not exist", "correct the path; it is relative to the project's folder"
            beside = (Path(path).parent / folder.path).as_posix()
            if (root / beside).is_dir():
                hint = f"{hint}: ./{beside}"
    except OSError as error:
        problem, hint = f"{folder.path} can't be looked up: {error.strerror}", INSIDE_HINT
    raise ProjectError(problem, path=path, line=line.number, hint=hint)


def _text_or_none(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None
    except OSError:
        return None


def copy_to(folder: Path, to: Path) -> None:
    """Copy every file that may be part of the project; a link leads where it led, and so ``.git`` is there, too.

    Raises OSError.
    """
    import shutil

    for base, folders, files in _own(folder):
        target = to / os.path.relpath(base, folder)
        target.mkdir(parents=True, exist_ok=True)
        for source in (Path(base, name) for name in (*folders, *files)):
            if source.is_symlink():
                (target / source.name).symlink_to(source.resolve())
            elif source.is_file():
                shutil.copy2(source, target)
    if (folder / ".git").is_dir():
        (to / ".git").symlink_to((folder / ".git").resolve())


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of every file that may be part of the project."""
    for base, _, files in _own(folder):
        for name in sorted(files):
            try:
                status = os.lstat(os.path.join(base, name))  # noqa: PTH118 - many files
            except OSError:
                continue
            yield os.path.relpath(os.path.join(base, name), folder), status.st_size, status.st_mtime_ns  # noqa: PTH118


def _own(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` of what may be part of the project; what builds leave behind is not."""
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith((".egg-info", "__pycache__"))
            and (Path(base) != folder or name not in ("build", "dist"))
        )
        yield base, folders, files


# What build backends ask for once they run.
_ASKED_FOR_LATER = (("setuptools", "wheel"), ("hatchling", "editables"))


def build_requirements(local: LocalProject) -> tuple[str, ...]:
    """What its build needs, as far as pyproject.toml and its build backend's name say. Raises ProjectError."""
    text = _text_or_none(local.path / "pyproject.toml") or ""
    stated = _table(_toml(text, f"{local.relative}/pyproject.toml"), "build-system").get("requires")
    listed = [str(line) for line in stated] if isinstance(stated, list) else ["setuptools>=40.8.0"]
    names = {re.split(r"[^a-z0-9-]", line.strip().lower().replace("_", "-"))[0] for line in listed}
    return tuple(listed + [more for backend, more in _ASKED_FOR_LATER if backend in names and more not in names])


# --------------------------------------------------------------------------------------- what its pyproject.toml states


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What a local project says of itself: its name, the file that says so, canonical text of its dependencies."""

    name: str | None
    path: str
    text: str
    stated: str | None = None


def _described(root: Path, relative: str, edited: Mapping[str, str]) -> _Described:
    folder = root / relative
    if not (folder / "pyproject.toml").is_file():
        path = (Path(relative) / "setup.py").as_posix()
        return _Described(name=None, path=path, text=repr([_text_or_none(folder / n) for n in _METADATA_FILES]))
    path = (Path(relative) / "pyproject.toml").as_posix()
    text = edited[path] if path in edited else require_text(root, path)
    document = _toml(text, path)
    project = _table(document, "project")
    if project and not any(
        _left_open(project, key) for key in ("dependencies", "optional-dependencies", "requires-python")
    ):
        stated = _stated(project, path, text)
        return _Described(name=_name(project, path), path=path, text=stated, stated=_bare_project(project))
    named = project if "name" in project else _table(_table(document, "tool"), "poetry")
    return _Described(name=_name(named, path), path=path, text=_left_to_build(folder, document))


def _left_open(project: Mapping[str, Any], key: str) -> bool:
    dynamic = project.get("dynamic")
    return isinstance(dynamic, list) and key in dynamic


def _stated(project: Mapping[str, Any], path: str, text: str) -> str:
    """Canonical text of dependencies that are written down; each is checked as a line of requirements.in is."""
    lines = [f"requires-python {project.get('requires-python', '')}"]
    lines += [canonical(entry.requirement) for entry in _dependencies(project.get("dependencies", []), path, text)]
    for extra, listed in sorted(_table(project, "optional-dependencies").items()):
        entries = _dependencies(listed, path, text)
        lines += [f"[{canonicalize_name(extra)}] {canonical(entry.requirement)}" for entry in entries]
    return "".join(f"{line}\n" for line in sorted(lines))


def _bare_project(project: Mapping[str, Any]) -> str | None:
    """A pyproject.toml with the dependencies and nothing else; a version is needed there, and any will do."""
    import tomlkit

    if "name" not in project:
        return None
    kept = ("name", "requires-python", "dependencies", "optional-dependencies")
    return tomlkit.dumps(
        {"project": {"version": project.get("version", "0"), **{key: project[key] for key in kept if key in project}}}
    )


def _left_to_build(folder: Path, document: Mapping[str, Any]) -> str:
    """Text of everything the build may take dependencies from."""
    import json

    tools = _table(document, "tool")
    tables = {name: tools[name] for name in _BUILD_TOOLS if name in tools}
    files = sorted({"setup.cfg", "setup.py", *_files_of_setuptools(tables)})
    known = [tables, document.get("project"), [(name, _text_or_none(folder / name)) for name in files]]
    return json.dumps(known, sort_keys=True, default=str)


def _files_of_setuptools(tables: Mapping[str, Any]) -> Iterator[str]:
    """The files that ``[tool.setuptools.dynamic]`` reads dependencies from."""
    dynamic = _table(_table(tables, "setuptools"), "dynamic")
    for place in (dynamic.get("dependencies"), *_table(dynamic, "optional-dependencies").values()):
        named = place.get("file", []) if isinstance(place, dict) else []
        for name in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
            if isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts:
                yield name


def _dependencies(listed: object, path: str, text: str) -> tuple[Named | WheelUrl, ...]:
    """The requirements in a list of pyproject.toml. Raises ProjectError with the line of the bad one."""
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise ProjectError("dependencies are no list of strings", path=path, hint='write dependencies = ["NAME>=1.0"]')
    found = []
    for item in listed:
        number = next((n for n, line in enumerate(text.split("\n"), 1) if item.strip() and item in line), None)
        try:
            found.append(dependency(item, line=number))
        except Refusal as refusal:
            raise refusal.at(path, number) from None
    return tuple(found)


def _toml(text: str, path: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        raise ProjectError(
            "is no valid TOML", path=path, line=int(line[1]) if line else None, hint="correct the file"
        ) from None


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _name(project: Mapping[str, Any], path: str) -> str | None:
    name = project.get("name")
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise ProjectError("[project] name is no valid name", path=path, hint="letters, digits, and . _ - between them")
    return canonicalize_name(name)
