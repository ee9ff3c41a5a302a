"""Change what a project requires: edit its requirements files and make its locks; all of it is written, or nothing.

The locks are made of the edited texts before a byte is written, so that a lock that can't be made, Ctrl-C and
``kill -9`` meanwhile leave the files as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from mlenv import drift, freshness, locking, requirement_edits, resolution
from mlenv.errors import ProjectError, UsageError, did_you_mean
from mlenv.local_projects import LocalProject
from mlenv.locking import NewLock, Wish
from mlenv.project import Project
from mlenv.requirement_edits import Asked, Change
from mlenv.requirements import RequirementsFile
from mlenv.system.files import write_atomically
from mlenv.system.uv import Uv
from mlenv.values import dataclass

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The requirements files' new texts by path, those that differ alone, and what was done where: (path, change)."""

    texts: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[tuple[str, Change], ...] = ()


def adding(project: Project, wanted: Iterable[Asked]) -> Edits:
    """The edits that make the project require these.

    A name is edited in the file where it stands; a new one is put into the first file of the settings. Raises
    UsageError where several lines may be meant, ProjectError for files that can't be read.
    """
    edits = Edits()
    for asked in wanted:
        seen = replace(project, edited=edits.texts)
        local = _local_project(
            seen, asked.name, hint="it is required already; edit its own pyproject.toml, or the line"
        )
        if local is not None:
            raise local
        path = _place(seen, asked)
        old = _text(project, edits, path)
        try:
            new, change = requirement_edits.added(old, asked, toml=requirement_edits.is_toml(path))
        except UsageError as error:
            raise UsageError(error.message, hint=error.hint, path=path) from None
        edits = _with(edits, path, new, [change])
    return edits


def removing(project: Project, names: Iterable[str]) -> Edits:
    """The edits that take every line of these (canonical) names out, in whichever files.

    Raises UsageError for a name that is no direct requirement, which says who brings it.
    """
    edits = Edits()
    for name in names:
        seen = replace(project, edited=edits.texts)
        for path in dict.fromkeys(file.path for file, _ in _standing(seen, name)):
            old = _text(project, edits, path)
            new, changes = requirement_edits.removed(old, name, toml=requirement_edits.is_toml(path))
            edits = _with(edits, path, new, changes)
        if left := _standing(replace(project, edited=edits.texts), name):
            raise _elsewhere(name, *left[0])
        if not any(change.before is not None and _name(change.before) == name for _, change in edits.changes):
            raise _not_direct(project, name)
    return edits


def make_locks(project: Project, uv: Uv, edits: Edits, *, progress: Progress) -> list[tuple[Project, NewLock]]:
    """Every lock of the project as the edited files require it, as ``mlenv lock`` makes it; nothing is written."""
    return locking.make_all(replace(project, edited=edits.texts), uv, Wish(), progress=progress)


def write(project: Project, edits: Edits, made: Sequence[tuple[Project, NewLock]]) -> None:
    """Write the files and the locks; the project's lock must be held. Where one can't be written, none is."""
    before: dict[str, str | None] = {path: _text(project, Edits(), path) for path in edits.texts}
    before |= {part.settings.lock: part.lock_text for part, _ in made}
    try:
        for path, text in edits.texts.items():
            write_atomically(project.root / path, text, staging=project.state)
        for part, new in made:
            if new.text != part.lock_text:
                write_atomically(part.lock_path, _stamped(part, new), staging=project.state)
    except BaseException:
        for path, old in before.items():
            _put_back(project.root / path, old, staging=project.state)
        raise


def _stamped(part: Project, new: NewLock) -> str:
    """The lock with the digest of the bytes it was made from, which are only now on the disk."""
    if part.workspace.members:
        return new.text  # there the quick yes has no place
    written = drift.inputs(part)
    now = freshness.seen(part.root, written, {})
    return freshness.stamped(freshness.unstamped(new.text), part.root, written, {}, before=now)


def _put_back(path: Path, old: str | None, *, staging: Path) -> None:
    if old is None:
        with suppress(OSError):
            path.unlink()
    elif path.read_bytes() != old.encode():
        write_atomically(path, old, staging=staging)


def _with(edits: Edits, path: str, text: str, changes: Sequence[Change]) -> Edits:
    changed = any(change.before != change.after for change in changes)
    texts = {**edits.texts, path: text} if changed else edits.texts
    return Edits(texts=texts, changes=(*edits.changes, *((path, change) for change in changes)))


def _text(project: Project, edits: Edits, path: str) -> str:
    """The text of a file as it is now, every byte of it, line ends and byte order mark included."""
    return edits.texts[path] if path in edits.texts else (project.root / path).read_bytes().decode("utf-8")


def _place(project: Project, asked: Asked) -> str:
    """The file whose text is to be edited. Raises UsageError where lines of several files may be meant."""
    paths = list(dict.fromkeys(file.path for file, _ in _standing(project, asked.name)))
    alike = [
        file.path
        for file, entry in project.requirements.direct
        if canonicalize_name(entry.requirement.name) == asked.name
        and entry.requirement.marker == asked.requirement.marker
    ]
    if len(paths) > 1 and not alike and asked.requirement.marker is None and not asked.bare:
        told = f"{asked.name} is there more than once, in {' and '.join(paths)}"
        raise UsageError(told, hint="say which with its marker, or edit the file")
    if not project.requirements.roots:
        raise ProjectError("no requirements file is named", path="pyproject.toml", hint="`mlenv init` writes one")
    return (alike or paths or [project.requirements.roots[0]])[0]


def _standing(project: Project, name: str) -> list[tuple[RequirementsFile, int]]:
    """Where a name is required: (file, line)."""
    direct = project.requirements.direct
    return [(file, entry.line) for file, entry in direct if canonicalize_name(entry.requirement.name) == name]


def _name(text: str) -> str:
    return requirement_edits.asked(text).name


def _elsewhere(name: str, file: RequirementsFile, line: int) -> UsageError:
    told = f"{name} is required by an extra or a dependency group there, not in [project] dependencies"
    return UsageError(told, path=file.path, line=line, hint="edit it there, then run `mlenv lock`")


def _not_direct(project: Project, name: str) -> UsageError:
    """Why a name can't be taken out, and who brings it, as far as the lock says."""
    if (local := _local_project(project, name, hint="delete the line, then run `mlenv lock`")) is not None:
        return local
    pins = {pin.name: pin for pin in project.lock.pins} if project.lock is not None else {}
    if name in pins:
        brought = resolution.chain(name, pins)
        return UsageError(f"{name} is no direct requirement: {brought}", hint=f"`mlenv why {name}` shows who brings it")
    if project.lock is not None and name in project.lock.excluded:
        told = f"{name} is no direct requirement: the foundation brings it"
        return UsageError(told, hint=f"`mlenv why {name}` shows who needs it")
    known = sorted({canonicalize_name(entry.requirement.name) for _, entry in project.requirements.direct})
    there = f"there are: {', '.join(known)}" if known else "there are none"
    return UsageError(f"{name} is no direct requirement", hint=did_you_mean(name, known, otherwise=there))


def _local_project(project: Project, name: str, *, hint: str) -> UsageError | None:
    """That a name is a local project's, which has a line of its own; None where it isn't."""
    for file in project.requirements.files:
        for entry in file.entries:
            if isinstance(entry, LocalProject) and entry.name == name:
                told = f"{name} is the local project {entry.written}"
                return UsageError(told, path=file.path, line=entry.line, hint=hint)
    return None
