"""``mlenv outdated``: which pins are not at the newest release, and what holds each of them back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import drift, heldback, lockfile, locking, planning, solve
from mlenv.errors import FindingError, ResolutionError
from mlenv.lockfile import Pin
from mlenv.locking import Wish
from mlenv.project import Project
from mlenv.proof import Prover
from mlenv.report import Finding, Outcome
from mlenv.requirement_lines import Named
from mlenv.system.uv import Upgrade, Uv
from mlenv.values import dataclass

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


@dataclass(frozen=True, kw_only=True)
class _Behind:
    """A pin for which its index has a newer release, on the first platform of the lock that it is for."""

    platform: str
    name: str
    locked: str
    newest: str


def outdated(project: Project, uv: Uv, *, direct: bool, progress: Progress) -> Outcome:
    """The pins of every lock that are not at the newest release of their index; of ``direct`` requirements alone.

    Raises FindingError without a lock, PackageIndexError.
    """
    rows: list[_Row] = []
    findings: list[Finding] = list(project.apart)
    lines: list[str] = []
    for part in project.locks:
        if part.lock is None:
            raise FindingError("there is no lock", path=part.settings.lock, hint=drift.RELOCK)
        own = _rows(part, uv, direct=direct, progress=progress, findings=findings)
        if own:
            lines += [*([f"{part.settings.lock}:"] if len(project.locks) > 1 else []), *_table(own), ""]
        rows += own
    lines += [_summary(rows), "the foundation: `mlenv foundation upgrade --dry-run`"]
    return Outcome(text="\n".join(lines), data={"outdated": [vars(row) for row in rows]}, findings=tuple(findings))


def _rows(part: Project, uv: Uv, *, direct: bool, progress: Progress, findings: list[Finding]) -> list[_Row]:
    behind = list(_behind(part, uv, direct=direct, progress=progress, findings=findings))
    if not behind:
        return []
    try:
        upgraded = _upgraded(part, uv, progress=progress)
    except ResolutionError as error:
        told = f"what `mlenv lock -U` would take is not known: {error.message}"
        findings.append(Finding(kind="no-upgrade", message=told, hint=error.hint, severity="warning"))
        upgraded = ()
    return [_row(part, uv, one, upgraded, progress=progress) for one in behind]


def _behind(part: Project, uv: Uv, *, direct: bool, progress: Progress, findings: list[Finding]) -> Iterator[_Behind]:
    asked = {canonicalize_name(entry.requirement.name) for _, entry in part.requirements.direct}
    seen: set[str] = set()
    for platform in part.settings.platforms:
        pins = _versions(planning.pins_on(part, platform))
        locked = {name: version for name, version in pins.items() if (name in asked or not direct) and name not in seen}
        seen |= locked.keys()
        if not locked:
            continue
        progress("asking for the newest releases")
        newest, untold = solve.newest(part, uv, locked, python=planning.python_of(part), platform=platform)
        for name, why in untold.items():
            message = f"the newest {name} can't be told: {why}"
            findings.append(Finding(kind="newest-unknown", message=message, severity="warning", package=name))
        for name, version in locked.items():
            if name in newest and Version(version) < Version(newest[name]):
                yield _Behind(platform=platform, name=name, locked=version, newest=newest[name])


def _versions(pins: Iterable[Pin]) -> dict[str, str]:
    return {pin.name: pin.version for pin in pins if pin.version is not None}


def _row(part: Project, uv: Uv, behind: _Behind, upgraded: Sequence[Pin], *, progress: Progress) -> _Row:
    """The pin with what a full upgrade would take, and what keeps it from the newest."""
    fitting = _versions(lockfile.applying(upgraded, planning.environment_of(part, behind.platform)))
    fits = fitting.get(behind.name)
    held = Version(fits or behind.locked) < Version(behind.newest)
    others = fitting or _versions(planning.pins_on(part, behind.platform))
    held_by = _holding(part, uv, behind, others, progress=progress) if held else ()
    return _Row(
        lock=part.settings.lock,
        name=behind.name,
        locked=behind.locked,
        fits=fits,
        newest=behind.newest,
        held_by=tuple(held_by),
    )


def _upgraded(part: Project, uv: Uv, *, progress: Progress) -> tuple[Pin, ...]:
    """The pins that ``mlenv lock -U`` would write, whatever an overlay holds back."""
    progress("resolving as `mlenv lock -U` would")
    lenient = replace(part, settings=replace(part.settings, held_back="off"))
    return locking.make(lenient, uv, Wish(upgrade=_EVERYTHING), progress=lambda _: None).pins


def _holding(part: Project, uv: Uv, behind: _Behind, others: Mapping[str, str], *, progress: Progress) -> Iterator[str]:
    """What keeps the newest release out: the user's own lines and those of overlays, else what uv says.

    uv is asked with every other package at what fits: else it would take an older one of those to make room.
    """
    name, newest = behind.name, behind.newest
    if said := list(dict.fromkeys(_lines(part, behind))):
        yield from said
        return
    progress(f"looking for what holds {name} back")
    question = locking.question_of(part, python=planning.python_of(part), platform=behind.platform, seed="")
    held = tuple(Pin(name=other, version=version) for other, version in others.items() if other != name)
    asked = Prover(
        project=part,
        uv=uv,
        platform=behind.platform,
        question=replace(question, pins=held),
        upgrade=_EVERYTHING,
        progress=lambda _: None,
    )
    by_roots = []
    for overlay in part.locked_overlays.values():
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


def _lines(part: Project, behind: _Behind) -> Iterator[str]:
    """The lines of requirements, constraints and overlays that exclude a release: ``requirements.in:3 (numpy<2)``."""
    environment = planning.environment_of(part, behind.platform)
    read = [
        (file.path, entry.line, entry.requirement)
        for file in part.requirements.files
        for entry in file.entries
        if isinstance(entry, Named)
    ]
    read += [(o.path, entry.line, entry.requirement) for o in part.locked_overlays.values() for entry in o.constraints]
    for path, line, requirement in read:
        applies = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
        allows = requirement.specifier.contains(behind.newest, prereleases=True)
        if canonicalize_name(requirement.name) == behind.name and applies and not allows:
            yield f"{path}:{line} ({requirement})"


def _table(rows: Sequence[_Row]) -> list[str]:
    cells = [("package", "locked", "fits", "newest", "held back by")]
    cells += [(row.name, row.locked, row.fits or "?", row.newest, "; ".join(row.held_by)) for row in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    return ["  ".join([*map(str.ljust, cell[:4], widths), cell[4]]).rstrip() for cell in cells]


def _summary(rows: Sequence[_Row]) -> str:
    if not rows:
        return "every package is at the newest"
    behind = f"{len(rows)} {'package is' if len(rows) == 1 else 'packages are'} not at the newest"
    if any(row.fits is None for row in rows):
        return behind
    moving = sum(row.fits != row.locked for row in rows)
    return f"{behind}; `mlenv lock -U` would move {moving or 'none'} of them"
