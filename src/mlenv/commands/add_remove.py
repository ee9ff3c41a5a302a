"""``mlenv add`` and ``mlenv remove``: edit the requirements files, then lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from mlenv import editing, requirement_edits
from mlenv.editing import Edits
from mlenv.errors import MlenvError
from mlenv.location import CONSTRAINTS
from mlenv.locking import NewLock
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.requirement_edits import Change
from mlenv.system.files import project_lock
from mlenv.system.uv import Uv

Progress = Callable[[str], None]


def add(project: Project, uv: Uv, texts: Iterable[str], *, dry_run: bool, wait: float, progress: Progress) -> Outcome:
    """Require these, each in the file where its name stands or in the first one, and make the locks.

    Raises UsageError for what a requirements file refuses, and as ``locking.make``; nothing is written then.
    """
    wanted = [requirement_edits.asked(text) for text in texts]
    notes = [_of_foundation(asked.name) for asked in wanted if project.names.owns(asked.name)]

    def edit(project: Project) -> Edits:
        return editing.adding(project, wanted)

    return _change(project, uv, edit, notes=notes, dry_run=dry_run, wait=wait, progress=progress)


def remove(
    project: Project, uv: Uv, names: Iterable[str], *, dry_run: bool, wait: float, progress: Progress
) -> Outcome:
    """Take every line of these names out of the files they stand in, and make the locks.

    Raises UsageError for a name that is no direct requirement, and as ``locking.make``; nothing is written then.
    """
    canonical = [requirement_edits.bare_name(name) for name in names]

    def edit(project: Project) -> Edits:
        return editing.removing(project, canonical)

    return _change(project, uv, edit, notes=[], dry_run=dry_run, wait=wait, progress=progress)


def _change(
    project: Project,
    uv: Uv,
    edit: Callable[[Project], Edits],
    *,
    notes: Sequence[Finding],
    dry_run: bool,
    wait: float,
    progress: Progress,
) -> Outcome:
    start = time.perf_counter()
    whole = project.of_all
    with nullcontext() if dry_run else project_lock(whole.state, wait=wait, waiting=progress):
        edits = edit(replace(project))  # without what was read before: another mlenv may have written it meanwhile
        made = _made(whole, uv, edits, progress=progress) if edits.texts else []
        if made and not dry_run:
            editing.write(whole, edits, made)
    lines = [_in_words(path, change) for path, change in edits.changes]
    if made:
        seconds = time.perf_counter() - start
        lines += [line for part, new in made for line in _of_lock(part, new)]
        lines.append(_told(edits, made, dry_run=dry_run, seconds=seconds))
    findings = (*notes, *(finding for _, new in made for finding in new.findings))
    return Outcome(text="\n".join(lines), data=_data(edits, made, dry_run=dry_run), findings=findings)


def _made(project: Project, uv: Uv, edits: Edits, *, progress: Progress) -> list[tuple[Project, NewLock]]:
    try:
        return editing.make_locks(project, uv, edits, progress=progress)
    except MlenvError:
        progress(f"nothing was written; lines that are named are those of the edited {' and '.join(edits.texts)}")
        raise


def _of_foundation(name: str) -> Finding:
    message = f"{name} is foundation: the line only says what the application needs, its pin is in {CONSTRAINTS}/"
    return Finding(kind="foundation-required", message=message, severity="note", package=name)


def _in_words(path: str, change: Change) -> str:
    where = f"{path}:{change.line}:"
    if change.before == change.after:
        return f"{where} {change.before} is already there"
    if change.before is None:
        return f"{where} + {change.after}"
    if change.after is None:
        return f"{where} - {change.before}"
    return f"{where} {change.before} → {change.after}"


def _of_lock(part: Project, new: NewLock) -> list[str]:
    if part.member is not None and not part.settings.isolated:
        return []  # told of the whole workspace
    apart = part.alone or part.member
    return [f"  {change}{f' ({part.settings.lock})' if apart else ''}" for change in new.changes]


def _told(edits: Edits, made: Sequence[tuple[Project, NewLock]], *, dry_run: bool, seconds: float) -> str:
    files = [*edits.texts, *(part.settings.lock for part, new in made if new.text != part.lock_text)]
    listed = f"{', '.join(files[:-1])} and {files[-1]}" if len(files) > 1 else files[0]
    verb = f"{listed} would be written" if dry_run else f"wrote {listed}"
    proven = " and ".join(dict.fromkeys(proof.backend for _, new in made for proof in new.proofs))
    return f"{verb}: {len(made[0][1].pins)} packages, proven on {proven} ({seconds:.1f} s)"


def _data(edits: Edits, made: Sequence[tuple[Project, NewLock]], *, dry_run: bool) -> dict[str, Any]:
    return {
        "requirements": [{"path": path, **vars(change)} for path, change in edits.changes],
        "written": bool(made) and not dry_run,
        "locks": [
            {
                "lock": part.settings.lock,
                "changed": new.text != part.lock_text,
                "packages": len(new.pins),
                "changes": [vars(change) for change in new.changes],
                "proven": [vars(proof) for proof in new.proofs],
            }
            for part, new in made
        ],
    }
