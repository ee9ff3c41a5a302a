"""``mlenv lock``: resolve the Application against every overlay and write the lock; ``--check`` only looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlenv import drift
from mlenv.project import Project
from mlenv.report import Outcome

if TYPE_CHECKING:
    from mlenv.locking import NewLock
    from mlenv.system.uv import Upgrade, Uv

Progress = Callable[[str], None]


def check(project: Project) -> Outcome:
    """Whether the lock is current: offline, without uv, nothing written."""
    findings = drift.check_lock(project)
    pins = len(project.lock.pins) if project.lock else 0
    text = "" if findings else f"{project.settings.lock} is current ({pins} packages)"
    return Outcome(text=text, data={"current": not findings}, findings=findings, exit_code=1 if findings else 0)


def lock(project: Project, uv: Uv, *, upgrade: Upgrade, dry_run: bool, wait: float, progress: Progress) -> Outcome:
    """Make the lock and write it, or with ``dry_run`` only tell what would change. Raises as ``locking.make``."""
    from mlenv import locking  # `--check` does without the resolver
    from mlenv.locking import Wish
    from mlenv.system.files import project_lock, write_atomically

    start = time.perf_counter()
    if dry_run:
        made = locking.make(project, uv, Wish(upgrade=upgrade), progress=progress)
    else:
        with project_lock(project.state, wait=wait, waiting=progress):
            made = locking.make(project, uv, Wish(upgrade=upgrade), progress=progress)
            if made.text != project.lock_text:
                write_atomically(project.lock_path, made.text)
    return _outcome(project, made, dry_run=dry_run, seconds=time.perf_counter() - start)


def _outcome(project: Project, made: NewLock, *, dry_run: bool, seconds: float) -> Outcome:
    same = made.text == project.lock_text
    name = project.settings.lock
    lines = [str(change) for change in made.changes]
    if same:
        lines.append(f"{name} is unchanged: {len(made.pins)} packages ({seconds:.1f} s)")
    elif dry_run:
        lines.append(f"{name} would be written: {len(made.pins)} packages; nothing was changed ({seconds:.1f} s)")
    else:
        lines.append(f"wrote {name}: {len(made.pins)} packages ({seconds:.1f} s)")
    lines += ["", *_table(made)]
    data = _data(made, changed=not same, dry_run=dry_run)
    return Outcome(text="\n".join(lines), data=data, findings=made.findings)


def _table(made: NewLock) -> list[str]:
    rows = [("backend", "torch", "foundation from", "result", "seconds")]
    rows += [(p.backend, p.torch or "-", p.source, "proven", f"{p.seconds:.2f}") for p in made.proofs]
    rows += [(backend, "-", "-", "not proven (left out)", "-") for backend in made.unproven]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _data(made: NewLock, *, changed: bool, dry_run: bool) -> dict[str, Any]:
    return {
        "changed": changed,
        "written": changed and not dry_run,
        "packages": len(made.pins),
        "changes": [vars(change) for change in made.changes],
        "proven": [vars(proof) for proof in made.proofs],
        "unproven": list(made.unproven),
    }
