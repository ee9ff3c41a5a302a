"""``mlenv outdated``: which pins are not at the newest release, and what holds each of them back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import drift, heldback, locking, planning, solve
from mlenv.errors import FindingError, ResolutionError
from mlenv.lockfile import Pin
from mlenv.locking import Wish
from mlenv.project import Project
from mlenv.proof import Prover
from mlenv.report import Finding, Outcome
from mlenv.requirement_lines import Named
from mlenv.system.uv import Upgrade, Uv

Progress = Callable[[str], None]
_NEEDS = r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:[<>=!~]\S*)? depends? on (\S+)"
_EVERYTHING = Upgrade(everything=True)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One pin that is not at the newest. ``fits`` is what ``mlenv lock -U`` would take, None where that isn't known."""

    lock: str
    name: str
    locked: str
    fits: str | None
    newest: str
    held_by: tuple[str, ...]


def outdated(project: Project, uv: Uv, *, direct: bool, progress: Progress) -> Outcome:
    """The pins of every lock that are not at the newest release of their index; of ``direct`` requirements alone.

    Raises FindingError without a lock, PackageIndexError.
    """
    rows: list[_Row] = []
    findings: list[Finding] = []
    for part in project.locks:
        if part.lock is None:
            raise FindingError("there is no lock", path=part.settings.lock, hint=drift.RELOCK)
        rows += _rows(part, uv, direct=direct, progress=progress, findings=findings)
    lines = [line for part in project.locks for line in _table([row for row in rows if row.lock == part.settings.lock])]
    lines += [_summary(rows), "the foundation: `mlenv foundation upgrade --dry-run`"]
    return Outcome(text="\n".join(lines), data={"outdated": [vars(row) for row in rows]}, findings=tuple(findings))


def _rows(part: Project, uv: Uv, *, direct: bool, progress: Progress, findings: list[Finding]) -> list[_Row]:
    platform, python = part.settings.platforms[0], planning.python_of(part)
    asked = {canonicalize_name(entry.requirement.name) for _, entry in part.requirements.direct}
    pins = [pin for pin in planning.pins_on(part, platform) if pin.name in asked or not direct]
    locked = {pin.name: pin.version for pin in pins if pin.version is not None}
    progress(f"asking for the newest of {len(locked)} packages")
    newest, untold = solve.newest(part, uv, locked, python=python, platform=platform)
    for name, why in untold.items():
        message = f"the newest {name} can't be told: {why}"
        findings.append(Finding(kind="newest-unknown", message=message, severity="warning", package=name))
    behind = {name: version for name, version in locked.items() if _older(version, newest.get(name))}
    if not behind:
        return []
    try:
        fits = _upgraded(part, uv, progress=progress)
    except ResolutionError as error:
        told = f"what `mlenv lock -U` would take is not known: {error.message}"
        findings.append(Finding(kind="no-upgrade", message=told, hint=error.hint, severity="warning"))
        fits = {}
    others = {**locked, **fits}
    prover = _prover(part, uv, platform=platform, python=python)
    found = []
    for name, version in behind.items():
        held = _older(fits.get(name, version), newest[name])
        held_by = tuple(_holding(prover, name, newest[name], others, progress=progress)) if held else ()
        row = _Row(
            lock=part.settings.lock,
            name=name,
            locked=version,
            fits=fits.get(name),
            newest=newest[name],
            held_by=held_by,
        )
        found.append(row)
    return found


def _prover(part: Project, uv: Uv, *, platform: str, python: str) -> Prover:
    question = locking.question_of(part, python=python, platform=platform, seed="")
    return Prover(
        project=part, uv=uv, platform=platform, question=question, upgrade=_EVERYTHING, progress=lambda _: None
    )


def _older(version: str, newest: str | None) -> bool:
    return newest is not None and Version(version) < Version(newest)


def _upgraded(part: Project, uv: Uv, *, progress: Progress) -> dict[str, str]:
    """name → the release that ``mlenv lock -U`` would pin, whatever an overlay holds back."""
    progress("resolving as `mlenv lock -U` would")
    lenient = replace(part, settings=replace(part.settings, held_back="off"))
    made = locking.make(lenient, uv, Wish(upgrade=_EVERYTHING), progress=lambda _: None)
    return {pin.name: pin.version for pin in made.pins if pin.version is not None}


def _holding(prover: Prover, name: str, newest: str, others: Mapping[str, str], *, progress: Progress) -> Iterator[str]:
    """What keeps the newest release out: the user's own lines and those of overlays, else what uv says.

    uv is asked with every other package at what fits: else it would take an older one of those to make room.
    """
    said = list(dict.fromkeys(_lines(prover.project, prover.platform, name, newest)))
    if said:
        yield from said
        return
    progress(f"looking for what holds {name} back")
    held = tuple(Pin(name=other, version=version) for other, version in others.items() if other != name)
    asked = replace(prover, question=replace(prover.question, pins=held))
    by_roots = []
    for overlay in prover.project.locked_overlays.values():
        objection = asked.objection(overlay, f"{name}=={newest}")
        if objection is None:
            continue
        told = heldback.by_a_root(overlay, name, objection)
        if told is None:
            yield _by_another(name, newest, objection.removeprefix(f"{overlay.backend}: "), others)
            return
        by_roots.append(told)
    yield from heldback.joined(by_roots)


def _by_another(name: str, newest: str, objection: str, versions: Mapping[str, str]) -> str:
    """``scipy 1.11.0 needs numpy<2``, or what uv says where that isn't in it."""
    for who, what in re.findall(_NEEDS, objection):
        if re.match(rf"{re.escape(name)}(?![A-Za-z0-9._-])", what) and who in versions:
            return f"{who} {versions[who]} needs {what.rstrip(',.')}"
        if who == name:
            return f"{name} {newest} needs {what.rstrip(',.')}"
    return " ".join(objection.split())


def _lines(part: Project, platform: str, name: str, newest: str) -> Iterator[str]:
    """The lines of requirements, constraints and overlays that exclude a release: ``requirements.in:3 (numpy<2)``."""
    environment = planning.environment_of(part, platform)
    read = [
        (file.path, entry.line, entry.requirement)
        for file in part.requirements.files
        for entry in file.entries
        if isinstance(entry, Named)
    ]
    read += [(o.path, entry.line, entry.requirement) for o in part.locked_overlays.values() for entry in o.constraints]
    for path, line, requirement in read:
        applies = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
        allows = requirement.specifier.contains(newest, prereleases=True)
        if canonicalize_name(requirement.name) == name and applies and not allows:
            yield f"{path}:{line} ({requirement})"


def _table(rows: Sequence[_Row]) -> list[str]:
    if not rows:
        return []
    cells = [("package", "locked", "fits", "newest", "held back by")]
    cells += [(row.name, row.locked, row.fits or "?", row.newest, "; ".join(row.held_by)) for row in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    lines = ["  ".join([*map(str.ljust, cell[:4], widths), cell[4]]).rstrip() for cell in cells]
    return [*lines, ""]


def _summary(rows: Sequence[_Row]) -> str:
    if not rows:
        return "every package is at the newest"
    behind = f"{len(rows)} {'package is' if len(rows) == 1 else 'packages are'} not at the newest"
    if any(row.fits is None for row in rows):
        return behind
    moving = sum(row.fits != row.locked for row in rows)
    return f"{behind}; `mlenv lock -U` would move {moving or 'none'} of them"
