"""Members of a workspace: which folders they are, what each requires, and who depends on whom.

A member is a folder with a requirements.in, or with a pyproject.toml that has a ``[project]``. A development list
(``requirements-dev.in``) is a member without a folder: a group.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from mlenv.errors import ProjectError, UsageError, did_you_mean
from mlenv.settings import PROJECT_FILE, Settings, WorkspaceSettings, line_of, load_member
from mlenv.textfile import read_text
from mlenv.values import dataclass

_GLOB = "*?["


@dataclass(frozen=True, kw_only=True)
class Member:
    """One project of a workspace. ``folder`` is POSIX and relative to the workspace, empty for a group.

    ``settings`` are the workspace's as the member narrows them, with paths relative to the workspace. ``project`` is
    the canonical name in its pyproject.toml, ``installed`` says whether that is a package, which has a build system.
    """

    name: str
    folder: str
    settings: Settings
    project: str | None = None
    installed: bool = False

    @property
    def group(self) -> bool:
        """Whether it is a list of requirements without a folder of its own."""
        return not self.folder

    @property
    def isolated(self) -> bool:
        """Whether it is resolved by itself."""
        return self.settings.isolated


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The members by name."""

    members: tuple[Member, ...] = ()

    @cached_property
    def packages(self) -> dict[str, str]:
        """The name of each member that can be installed → its folder."""
        return {member.project: member.folder for member in self.members if member.installed and member.project}

    @property
    def together(self) -> tuple[Member, ...]:
        """The members that are resolved as one."""
        return tuple(member for member in self.members if not member.isolated)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the members without a folder."""
        return tuple(member.name for member in self.members if member.group)

    def member(self, name: str) -> Member:
        """The member of that name, folder or package. Raises UsageError with the nearest one."""
        wanted = name.rstrip("/")
        for member in self.members:
            if wanted in (member.name, member.folder) or canonicalize_name(wanted) == member.project:
                return member
        known = [member.name for member in self.members]
        raise UsageError(
            f"this workspace has no member {name!r}",
            hint=did_you_mean(name, known, otherwise=f"its members are {', '.join(known) or 'none'}"),
        )

    def holding(self, folder: str) -> Member | None:
        """The member that a folder of the workspace (POSIX) belongs to, the deepest one."""
        found = [m for m in self.members if not m.group and f"{folder}/".startswith(f"{m.folder}/")]
        return max(found, key=lambda member: len(member.folder), default=None)


def read(root: Path, settings: Settings) -> Workspace:
    """The workspace at ``root``; without one, no members. Raises ProjectError.

    Where mlenv's settings declare none, the members of ``[tool.uv.workspace]`` are adopted.
    """
    declared, keys = settings.workspace, ("workspace",)
    if declared is None:
        declared = _of_uv(root)
        if declared is None:
            return Workspace()
    found = [*_folders(root, declared, keys), *_lists(root, declared, keys)]
    members = [_member(root, path, settings) for path in found]
    return Workspace(members=tuple(_named_apart(members)))


def is_awaited(root: Path, settings: Settings, folder: str) -> bool:
    """Whether a pattern of the workspace at ``root`` takes a folder (POSIX) in, once there is something to require."""
    declared = settings.workspace or _of_uv(root)
    if declared is None or any(folder in _matches(root, pattern) for pattern in declared.exclude):
        return False
    return any(folder in _matches(root, pattern) for pattern in declared.members if not pattern.endswith(".in"))


def _document(folder: Path) -> Mapping[str, Any]:
    try:
        text = read_text(folder / PROJECT_FILE, shown=PROJECT_FILE) or ""
        return tomllib.loads(text) if "workspace" in text else {}
    except (ProjectError, ValueError, RecursionError):
        return {}


def _of_uv(root: Path) -> WorkspaceSettings | None:
    table = _document(root).get("tool", {}).get("uv", {}).get("workspace")
    if not isinstance(table, dict):
        return None
    members, exclude = (tuple(map(str, table.get(key, ()))) for key in ("members", "exclude"))
    return WorkspaceSettings(members=members, exclude=exclude)


def _folders(root: Path, declared: WorkspaceSettings, keys: tuple[str, ...]) -> Iterator[str]:
    left_out = {path for pattern in declared.exclude for path in _matches(root, pattern)}
    for pattern in declared.members:
        if pattern.endswith(".in"):
            continue
        plain = not any(sign in pattern for sign in _GLOB)
        for path in [pattern] if plain else _matches(root, pattern):
            if path in left_out:
                continue
            if _is_member(root / path):
                yield path
            elif plain:
                raise ProjectError(
                    f"the workspace's member {path} has neither requirements.in nor a {PROJECT_FILE} with [project]",
                    path=PROJECT_FILE,
                    line=line_of(root, (*keys, "members")),
                    hint="create one of them, or take the member out",
                )


def _lists(root: Path, declared: WorkspaceSettings, keys: tuple[str, ...]) -> Iterator[str]:
    for path in (pattern for pattern in declared.members if pattern.endswith(".in")):
        if not (root / path).is_file() or not Path(path).name.startswith("requirements-") or "/" in path:
            raise ProjectError(
                f"the workspace's member {path} is no file requirements-<group>.in beside {PROJECT_FILE}",
                path=PROJECT_FILE,
                line=line_of(root, (*keys, "members")),
                hint="create it, or take the member out",
            )
        yield path


def _matches(root: Path, pattern: str) -> list[str]:
    """The folders that a glob matches, hidden ones and environments left out, sorted; POSIX, relative."""
    found = (path for path in root.glob(pattern) if path.is_dir())
    relative = (path.relative_to(root) for path in found if not (path / "pyvenv.cfg").is_file())
    return sorted(path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts))


def _is_member(folder: Path) -> bool:
    return (folder / "requirements.in").is_file() or "project" in _parsed(folder)


def _parsed(folder: Path) -> Mapping[str, Any]:
    """The folder's pyproject.toml; empty where there is none, or where it can't be parsed: its reader says so."""
    try:
        return tomllib.loads(read_text(folder / PROJECT_FILE, shown=PROJECT_FILE) or "")
    except (ProjectError, ValueError, RecursionError):
        return {}


def _member(root: Path, path: str, settings: Settings) -> Member:
    if path.endswith(".in"):
        name = Path(path).stem.removeprefix("requirements-")
        own = replace(
            settings, requirements=(path,), lock=f"{Path(path).stem}.txt", extras=(), groups=(), constraints=()
        )
        return Member(name=name, folder="", settings=own)
    document = _parsed(root / path)
    project = document.get("project", {})
    named = project.get("name") if isinstance(project, dict) else None
    return Member(
        name=Path(path).name,
        folder=path,
        settings=load_member(root, path, settings),
        project=canonicalize_name(named) if isinstance(named, str) else None,
        installed="build-system" in document,
    )


def _named_apart(members: Iterable[Member]) -> Iterator[Member]:
    """Members by name; where two folders are called alike, by folder. Two packages of one name are refused."""
    listed = list({member.folder or member.name: member for member in members}.values())
    names = [member.name for member in listed]
    seen: dict[str, str] = {}
    for member in sorted(listed, key=lambda member: (member.group, member.folder, member.name)):
        if member.project and member.installed:
            if member.project in seen:
                raise ProjectError(
                    f"two members are called {member.project}: {seen[member.project]} and {member.folder}",
                    path=f"{member.folder}/{PROJECT_FILE}",
                    hint="rename one of them",
                )
            seen[member.project] = member.folder
        yield replace(member, name=member.folder) if names.count(member.name) > 1 and member.folder else member
