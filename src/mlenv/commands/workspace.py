"""``mlenv workspace list``: the members, what each depends on, and whether its lock and environment are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlenv.errors import UsageError
from mlenv.project import Project
from mlenv.report import Outcome
from mlenv.workspace import Member

_NONE = "this project has no members"
_HINT = 'declare them in pyproject.toml: [tool.mlenv.workspace] members = ["apps/*"]'


def require(project: Project) -> None:
    """Raise UsageError where the project is no workspace."""
    if not project.workspace.members:
        raise UsageError(_NONE, hint=_HINT)


def list_members(project: Project) -> Outcome:
    """Every member in the order of their dependencies: who is needed by others comes before them."""
    require(project)
    needs = {member.name: _needs(project, member) for member in project.workspace.members}
    ordered = sorted_by_need(project.workspace.members, needs)
    rows = [_row(project, member, needs[member.name]) for member in ordered]
    table = [("member", "folder", "requires", "lock", "packages")]
    table += [(row["name"], row["folder"] or "-", _requires(row), row["lock"], _count(row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return Outcome(text="\n".join(lines), data={"members": rows})


def sorted_by_need(members: Iterable[Member], needs: Mapping[str, Iterable[str]]) -> list[Member]:
    """The members, each after those it needs; where they need each other, as they are listed."""
    left, ordered = list(members), list[Member]()
    while left:
        done = {member.name for member in ordered}
        ready = next((m for m in left if not {*needs[m.name]} - done - {m.name}), left[0])
        ordered.append(ready)
        left.remove(ready)
    return ordered


def _needs(project: Project, member: Member) -> list[str]:
    """The other members whose package this one installs."""
    folders = {other.folder: other.name for other in project.workspace.members if other.folder}
    local = project.of_member(member).requirements.local_projects
    return [folders[one.relative] for one in local if one.relative in folders and one.relative != member.folder]


def _row(project: Project, member: Member, needs: Iterable[str]) -> dict[str, Any]:
    view = project.of_member(member)
    lock = view.lock
    return {
        "name": member.name,
        "folder": member.folder,
        "package": member.project if member.installed else None,
        "requirements": list(member.settings.requirements),
        "lock": member.settings.lock,
        "packages": len(lock.pins) if lock is not None else None,
        "environment": None if member.group else member.settings.environment,
        "isolated": member.isolated,
        "requires": sorted(needs),
    }


def _requires(row: Mapping[str, Any]) -> str:
    apart = ["(isolated)"] if row["isolated"] else []
    return ", ".join([*row["requires"], *apart]) or "-"


def _count(row: Mapping[str, Any]) -> str:
    return "not locked" if row["packages"] is None else str(row["packages"])
