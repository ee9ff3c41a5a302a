"""``mlenv workspace list``: the members and what each depends on; ``mlenv sync --all``: all their environments."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlenv.errors import FindingError, UsageError
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.system import process
from mlenv.workspace import Member

Progress = Callable[[str], None]
_AT_ONCE = 2

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
    table += [(_named(row), row["folder"] or "-", _requires(row), row["lock"], _count(row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return Outcome(text="\n".join(lines), data={"members": rows})


def sync_all(project: Project, words: Sequence[str], *, progress: Progress) -> Outcome:
    """Sync every member, some at a time, each by mlenv in a process of its own with the options ``words``.

    The exit status is that of the first member, in the order of their names, that did not end with 0.
    """
    require(project)
    members = [member for member in project.workspace.members if not member.group]
    if project.lock_text is None:
        raise FindingError(f"{project.settings.lock} is missing", hint="run `mlenv lock`")
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        try:
            done = list(pool.map(lambda member: _sync_one(project, member, words, progress=progress), members))
        except BaseException as error:
            if not isinstance(error, Exception):
                process.stop()
            raise
    lines = [f"{member.name}: {_said(member, document)}" for member, (_, document) in zip(members, done, strict=True)]
    rows = [{"member": member.name, **document} for member, (_, document) in zip(members, done, strict=True)]
    code = next((code for code, _ in done if code), 0)
    return Outcome(text="\n".join(lines), data={"members": rows}, exit_code=code)


def _sync_one(
    project: Project, member: Member, words: Sequence[str], *, progress: Progress
) -> tuple[int, dict[str, Any]]:
    """(exit status, the JSON document) of one member's sync; what it says meanwhile is told with its name."""

    begun = b""

    def echo(data: bytes) -> None:
        nonlocal begun
        *whole, begun = (begun + data).split(b"\n")  # uv writes a line in pieces
        for line in (one.decode("utf-8", "replace").rstrip() for one in whole):
            if line and not line.startswith(("error:", "hint:")):
                progress(f"{member.name}: {line}")

    call: list[str | Path] = [
        sys.executable,
        "-m",
        "mlenv",
        "sync",
        "--project",
        project.root,
        "--member",
        member.folder,
        "--json",
    ]
    done = process.run([*call, *words], env=project.environ, echo=echo)
    try:
        document = json.loads(done.out)
    except ValueError:
        document = {"error": {"message": done.err.strip() or f"ended with {done.code}"}}
    return done.code, document


def _said(member: Member, document: Mapping[str, Any]) -> str:
    if error := document.get("error"):
        where = f"{error['where']}: " if error.get("where") else ""
        hint = f"\n  hint: {error['hint']}" if error.get("hint") else ""
        return f"error: {where}{error['message']}{hint}"
    if found := [Finding(**finding) for finding in document.get("findings", ()) if finding["severity"] != "note"]:
        hints = dict.fromkeys(_of_member(member, finding.hint) for finding in found if finding.hint)
        lines = [*(f"{finding.severity}: {finding}" for finding in found), *(f"hint: {hint}" for hint in hints)]
        return "\n  ".join(["differs", *lines])
    if "packages" not in document or "seconds" not in document:
        return f"{document.get('action', 'checked')} ({document.get('backend', '')})".replace(" ()", "")
    packages, took = document["packages"], sum(document["seconds"].values())
    counted = f"{packages['foundation']} foundation, {packages['application']} application"
    return f"{document['environment']} ({document['action']}), {document['backend']}, {counted}, {took:.1f} s"


def _of_member(member: Member, hint: str) -> str:
    """A hint whose commands do it for the member from anywhere in the workspace."""
    return hint.replace("`mlenv ", f"`mlenv --member {shlex.quote(member.name)} ")


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


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['name']} (isolated)" if row["isolated"] else str(row["name"])


def _requires(row: Mapping[str, Any]) -> str:
    return ", ".join(row["requires"]) or "-"


def _count(row: Mapping[str, Any]) -> str:
    return "not locked" if row["packages"] is None else str(row["packages"])
