"""``mlenv lock``: resolve the Application against every overlay and write the lock; ``--check`` only looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlenv import freshness
from mlenv.report import Finding, Outcome

if TYPE_CHECKING:
    from mlenv.lockfile import Pin
    from mlenv.locking import NewLock, Wish
    from mlenv.project import Project
    from mlenv.system.uv import Uv

Progress = Callable[[str], None]


def current(name: str, packages: int) -> Outcome:
    """The lock is current."""
    return Outcome(text=freshness.in_words(name, packages), data={"current": True})


def check(project: Project) -> Outcome:
    """Whether every lock is current: offline, without uv, nothing written."""
    from mlenv import drift

    parts = project.all_locks
    findings = tuple(finding for part in parts for finding in drift.check_lock(part))
    lines = [_current(project, part) for part in parts] if not findings else []
    data = {"current": not findings}
    return Outcome(text="\n".join(lines), data=data, findings=findings, exit_code=1 if findings else 0)


def check_by_resolving(project: Project, uv: Uv, wish: Wish, *, progress: Progress) -> Outcome:
    """``check``, and whether resolving anew gives the same lock, from the cache if that can; nothing is written."""
    from mlenv import locking
    from mlenv.errors import PackageIndexError

    looked = check(project)
    if looked.findings:
        return looked
    try:
        made = locking.make_all(project, replace(uv, offline=True), wish, progress=progress)
    except PackageIndexError:
        if uv.offline:
            raise
        made = locking.make_all(project, uv, wish, progress=progress)
    findings = tuple(_unlike(part, new) for part, new in made if new.text != part.lock_text)
    text = "" if findings else f"{looked.text}; resolving gives the same"
    return Outcome(text=text, data={"current": not findings}, findings=findings, exit_code=1 if findings else 0)


def verify_hashes(project: Project, uv: Uv, *, progress: Progress) -> Outcome:
    """Whether the index lists every hash of every lock; nothing is written. Raises PackageIndexError."""
    from mlenv import drift, hashes

    findings: list[Finding] = []
    for part in project.all_locks:
        findings += drift.check_body(part) or hashes.compare(part, uv, progress=progress)
    wrong = [finding for finding in findings if finding.severity == "error"]
    count = sum(len(part.lock.pins) for part in project.all_locks if part.lock is not None)
    text = "" if wrong else f"the index lists every hash of {count} packages"
    return Outcome(text=text, data={"verified": not wrong}, findings=tuple(findings), exit_code=1 if wrong else 0)


def lock(project: Project, uv: Uv, wish: Wish, *, dry_run: bool, wait: float, progress: Progress) -> Outcome:
    """Make every lock and write them, or with ``dry_run`` only tell what would change. Raises as ``locking.make``."""
    from mlenv import locking  # `--check` does without the resolver
    from mlenv.system.files import project_lock, write_atomically

    start = time.perf_counter()
    _ = project.requirements  # where there are none, nothing is written, not even mlenv's own folder
    if dry_run:
        made = locking.make_all(project, uv, wish, progress=progress)
    else:
        with project_lock(project.state, wait=wait, waiting=progress):
            project = project.now()  # another mlenv may have written the lock meanwhile, and an editor the settings
            made = locking.make_all(project, uv, wish, progress=progress)
            for part, new in made:
                if new.text != part.lock_text:
                    write_atomically(part.lock_path, new.text, staging=project.state)
    outcome = _outcome(made, dry_run=dry_run, seconds=time.perf_counter() - start)
    held = _not_moved(project, wish, made[0][1])
    return replace(outcome, findings=(*outcome.findings, *held)) if held else outcome


def require_used(member: Project, wish: Wish) -> None:
    """Raise UsageError where a member is named and does not use what is to be upgraded."""
    from mlenv.errors import UsageError
    from mlenv.locking import upgraded_name

    there = {pin.name for pin in member.lock.pins} if member.lock is not None else set()
    for name in map(upgraded_name, wish.upgrade.packages):
        if name not in there and member.member is not None:
            raise UsageError(
                f"{member.member.name} does not use {name}: {member.settings.lock} doesn't have it",
                hint=f"`mlenv add {name}` first, or leave --member out",
            )


def _not_moved(project: Project, wish: Wish, made: NewLock) -> tuple[Finding, ...]:
    """A note for each package that was asked to move and stays: the lines that bound it, where there are any."""
    from packaging.utils import canonicalize_name

    from mlenv.locking import upgraded_name

    moved = {change.name for change in made.changes}
    versions = {pin.name: pin.version for pin in made.pins}
    names = [upgraded_name(text) for text in wish.upgrade.packages]
    told = []
    for name in (name for name in names if name in versions and name not in moved):
        lines = [
            f"{file.path}:{entry.line} requires {entry.requirement}"
            for file, entry in project.requirements.direct
            if canonicalize_name(entry.requirement.name) == name and entry.requirement.specifier
        ]
        why = f": {'; '.join(lines)}" if lines else ", the newest that fits; `mlenv outdated` says what holds it"
        told.append(Finding(kind="lock-not-moved", message=f"{name} stays at {versions[name]}{why}", severity="note"))
    return tuple(told)


def _outcome(made: Sequence[tuple[Project, NewLock]], *, dry_run: bool, seconds: float) -> Outcome:
    main = made[0][1].pins if made[0][0].alone is None else ()
    blocks, members = list[str](), list[str]()
    for part, new in made:
        if part.member is not None and not part.settings.isolated:  # what changed was told of the whole
            members.append(_what_happened(part, new, dry_run=dry_run))
            continue
        lines = [str(change) for change in new.changes]
        lines.append(_what_happened(part, new, dry_run=dry_run, seconds=seconds))
        if part.alone is not None:
            lines += _differences(part, main, new.pins)
        blocks.append("\n".join([*lines, "", *_table(new)]))
    findings = tuple(finding for _, new in made for finding in new.findings)
    documents = [_data(part, new, dry_run=dry_run) for part, new in made]
    blocks += ["\n".join(members)] if members else []
    return Outcome(text="\n\n".join(blocks), data=_joined(documents), findings=findings)


def _what_happened(part: Project, new: NewLock, *, dry_run: bool, seconds: float | None = None) -> str:
    name, count = part.settings.lock, len(new.pins)
    took = "" if seconds is None else f" ({seconds:.1f} s)"
    if new.text == part.lock_text:
        return f"{name} is unchanged: {count} packages{took}"
    if dry_run:
        return f"{name} would be written: {count} packages; nothing was changed{took}"
    return f"wrote {name}: {count} packages{took}"


def _current(project: Project, part: Project) -> str:
    pins = part.lock.pins if part.lock is not None else ()
    told = freshness.in_words(part.settings.lock, len(pins))
    return "\n".join([told, *(_differences(part, project.lock.pins, pins) if part.alone and project.lock else ())])


def _differences(part: Project, main: Iterable[Pin], own: Iterable[Pin]) -> list[str]:
    """Where a backend's own lock has other releases than the main one."""
    theirs = {pin.name: pin.version for pin in main}
    differing = [p for p in own if p.name in theirs and theirs[p.name] != p.version]
    return [f"  {pin.name} {pin.version} for {part.alone}, {theirs[pin.name]} in {part.main_lock}" for pin in differing]


def _unlike(part: Project, new: NewLock) -> Finding:
    shown = "; ".join(str(change) for change in new.changes[:5]) or "its comments or header"
    more = f" and {len(new.changes) - 5} more" if len(new.changes) > 5 else ""
    message = f"resolving anew gives another lock: {shown}{more}"
    return Finding(kind="lock-resolves-differently", message=message, path=part.settings.lock, hint="run `mlenv lock`")


def _table(made: NewLock) -> list[str]:
    several = len({proof.platform for proof in made.proofs}) > 1
    rows = [("backend", "platform", "torch", "foundation from", "result", "seconds")]
    rows += [(p.backend, p.platform, p.torch or "-", p.source, "proven", f"{p.seconds:.2f}") for p in made.proofs]
    rows += [(backend, "-", "-", "-", "not proven (left out)", "-") for backend in made.unproven]
    shown = rows if several else [(row[0], *row[2:]) for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _data(part: Project, made: NewLock, *, dry_run: bool) -> dict[str, Any]:
    changed = made.text != part.lock_text
    return {
        "lock": part.settings.lock,
        "changed": changed,
        "written": changed and not dry_run,
        "packages": len(made.pins),
        "changes": [vars(change) for change in made.changes],
        "proven": [vars(proof) for proof in made.proofs],
        "unproven": list(made.unproven),
    }


def _joined(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The main lock's document; those of backends with a lock of their own are in ``locks``."""
    return {**documents[0], "locks": list(documents[1:])} if len(documents) > 1 else documents[0]
