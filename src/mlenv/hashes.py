"""Every hash of a lock compared with what the index lists: a wrong one survives any recompile (FACTS, uv 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlenv import platforms, solve
from mlenv.lockfile import Pin, applying
from mlenv.project import Project
from mlenv.report import Finding
from mlenv.system.uv import Uv

Progress = Callable[[str], None]


def compare(project: Project, uv: Uv, *, progress: Progress) -> tuple[Finding, ...]:
    """A finding for each pin with a hash that its index does not list, a note where the index lists more.

    Files that appear on the index later are no fault. Raises PackageIndexError, ResolutionError.
    """
    assert project.lock is not None
    assert project.lock.header is not None
    header = project.lock.header
    findings: list[Finding] = []
    told: set[Pin] = set()
    for platform in header.platforms:
        pins = applying(project.lock.pins, platforms.environment(platform, header.python))
        asked = [pin for pin in pins if pin.version is not None and pin not in told]
        progress(f"asking the index for the hashes of {len(asked)} packages")
        listed = solve.listed_hashes(project, uv, asked, python=header.python, platform=platform)
        findings += [finding for pin in asked if (finding := _compared(project, pin, listed)) is not None]
        told.update(asked)
    return tuple(findings)


def _compared(project: Project, pin: Pin, listed: Mapping[str, frozenset[str]]) -> Finding | None:
    path, known = project.settings.lock, listed.get(pin.name, frozenset())
    wrong, more = set(pin.hashes) - known, known - set(pin.hashes)
    if wrong:
        what = f"{len(wrong)} of its hashes" if len(pin.hashes) > 1 else "its hash"
        message = f"{pin.name} {pin.version}: the index does not list {what} ({min(wrong)[:23]}...)"
        hint = (
            "find out who changed the lock or the index before you trust either; then `mlenv lock --refresh-hashes` "
            "takes what the index lists"
        )
        return Finding(kind="lock-hash-unknown", message=message, path=path, line=pin.line, hint=hint)
    if more:
        message = f"{pin.name} {pin.version}: the index lists {len(more)} more file{'s' if len(more) > 1 else ''}"
        hint = "`mlenv lock --refresh-hashes` takes them in"
        return Finding(kind="lock-hash-more", message=message, path=path, line=pin.line, hint=hint, severity="note")
    return None
