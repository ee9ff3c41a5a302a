"""``mlenv foundation record``: the foundation of each backend as files with hashes, to be committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from typing import Any

from mlenv import drift, planning, record
from mlenv.errors import FindingError, MlenvError
from mlenv.project import Project
from mlenv.record import Record
from mlenv.report import Finding, Outcome
from mlenv.system.files import project_lock, write_atomically
from mlenv.system.uv import Uv


def write_records(
    project: Project,
    uv: Uv,
    *,
    backends: Sequence[str],
    dry_run: bool,
    wait: float,
    today: date,
    progress: Callable[[str], None],
) -> Outcome:
    """Resolve each backend's foundation on every platform of the lock and write its record.

    Without ``backends`` all that have an overlay are recorded; one that can't be is then a finding, and the others are
    written all the same. Raises FindingError for a stale lock, and what resolving raises for a backend that was named.
    """
    made: list[tuple[Record | None, Record]] = []
    findings: list[Finding] = []
    codes: list[int] = []
    with nullcontext() if dry_run else project_lock(project.state, wait=wait, waiting=progress):
        project = project.now()
        for backend in backends or tuple(project.overlays):
            progress(f"recording {backend}")
            try:
                made.append(_recorded(project, uv, backend, today=today))
            except MlenvError as error:
                if backends:
                    raise
                findings.append(_not_recorded(backend, error))
                codes.append(int(error.code))
        for old, new in made:
            if not dry_run and old is not new:
                write_atomically(project.root / new.path, record.render(new), staging=project.state)
    lines = [_line(old, new, dry_run=dry_run) for old, new in made]
    data = {"records": [_data(old, new) for old, new in made], "written": not dry_run}
    return Outcome(text="\n".join(lines), data=data, findings=tuple(findings), exit_code=max(codes, default=0))


def _recorded(project: Project, uv: Uv, backend: str, *, today: date) -> tuple[Record | None, Record]:
    """(the record that is there, the new one); twice the same where nothing changed."""
    part = project.of_lock(backend)
    stale = drift.check_lock(part)
    if stale:
        told = "\n".join(f"  {finding}" for finding in stale[:6])
        raise FindingError(f"{part.settings.lock} is not current:\n{told}", hint=stale[0].hint or drift.RELOCK)
    new = planning.make_record(part, uv, backend, today=today)
    try:
        old = part.record(backend)
    except MlenvError:  # whatever stands there, this is how it is made anew
        old = None
    return (old, old) if old is not None and record.unchanged(old, new) else (old, new)


def _not_recorded(backend: str, error: MlenvError) -> Finding:
    first = error.message.splitlines()[0]
    return Finding(kind="not-recorded", message=f"{backend} was not recorded: {first}", hint=error.hint)


def _line(old: Record | None, new: Record, *, dry_run: bool) -> str:
    count = f"{len(new.packages)} packages, {_size(new)}, for {', '.join(new.sources)}"
    if old is new:
        return f"{new.path} is unchanged: {count}"
    return f"{'would write' if dry_run else 'wrote'} {new.path}: {count}"


def _size(made: Record) -> str:
    total = sum(int(file.get("size", 0)) for package in made.packages for file in package.files)
    return f"{total / 1e9:.1f} GB" if total > 1e9 else f"{total / 1e6:.0f} MB"


def _data(old: Record | None, new: Record) -> dict[str, Any]:
    return {
        "backend": new.backend,
        "path": new.path,
        "changed": old is not new,
        "packages": {package.name: package.version for package in new.packages},
        "sources": dict(new.sources),
    }
