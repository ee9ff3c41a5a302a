"""``mlenv foundation upgrade``: move the overlays to the newest releases that exist, stable or nightly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import field
from datetime import date
from typing import Any

from packaging.version import Version

from mlenv import drift, heldback, locking, nightly, releases
from mlenv import overlay as overlay_module
from mlenv.errors import FindingError, MlenvError, ProjectError, ResolutionError
from mlenv.overlay import Overlay, without_label
from mlenv.project import Project, read_text
from mlenv.proof import Prover
from mlenv.releases import Family
from mlenv.report import Finding, Outcome
from mlenv.system.files import project_lock, write_atomically
from mlenv.system.uv import Upgrade, Uv
from mlenv.values import dataclass

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """One overlay: its pins before and after, and what is worth saying.

    ``versions`` are what its lines are moved to, and ``overlay`` has the lines that may move.
    """

    overlay: Overlay
    before: Mapping[str, str]
    after: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The overlay's file."""
        return self.overlay.path

    @property
    def changes(self) -> list[str]:
        """One line for each pin that moves."""
        names = dict.fromkeys([*self.before, *self.after])
        pairs = [(name, self.before.get(name), self.after.get(name)) for name in names]
        return [_change(name, old, new) for name, old, new in pairs if old != new]


def upgrade(
    project: Project,
    uv: Uv,
    *,
    backends: Sequence[str],
    fit: bool,
    dry_run: bool,
    wait: float,
    progress: Progress,
) -> Outcome:
    """Move each overlay to the newest family that exists on its source; comments stay.

    With ``fit`` to the newest at which no direct requirement is held back. A backend whose source can't be asked is
    left as it is, which is an error where it was named. Raises ResolutionError, PackageIndexError, ProjectError.
    """
    moves: list[_Moved] = []
    findings: list[Finding] = []
    codes: list[int] = []
    with nullcontext() if dry_run else project_lock(project.state, wait=wait, waiting=progress):
        project = project.now()
        for backend in backends or tuple(project.overlays):
            whole = project.overlay(backend)
            overlay = whole.on(releases.targets(project))
            if overlay.torch_version is None:
                moves.append(_without_torch(overlay))
                continue
            try:
                family = _family(project, uv, overlay, fit=fit, progress=progress)
            except MlenvError as error:
                if backends:
                    raise
                findings.append(_left(overlay, error))
                codes.append(int(error.code))
                continue
            moves.append(_move(project, overlay, family, fit=fit, whole=whole))
        for move in moves:
            if move.changes and not dry_run:
                text = read_text(project.root / move.path, shown=move.path) or ""
                moved = overlay_module.rewritten(text, move.versions, overlay=move.overlay)
                write_atomically(project.root / move.path, moved, staging=project.state)
    return _outcome(project, moves, findings, dry_run=dry_run, code=max(codes, default=0))


def upgrade_nightly(
    project: Project, uv: Uv, *, backends: Sequence[str], dry_run: bool, wait: float, today: date, progress: Progress
) -> Outcome:
    """Move the nightly overlay and record of each backend to the newest nightlies that go together with the lock.

    Raises FindingError for a stale lock, and as ``nightly.find``.
    """
    moves = []
    with nullcontext() if dry_run else project_lock(project.state, wait=wait, waiting=progress):
        project = project.now()
        for backend in backends:
            part = project.of_lock(backend)
            _require_current(part)
            there = part.nightly_overlay(backend)
            old = there.on(releases.targets(part)) if there is not None else None
            found = nightly.find(part, uv, backend, today=today, progress=progress)
            lacking = tuple(_lacking(name, found.family) for name in found.family.lacking)
            mixed = (found.overlay.mixed_days,) if found.overlay.mixed_days else ()
            moves.append(
                _Moved(
                    overlay=found.overlay,
                    before=_pins(old) if old is not None else {},
                    after=_pins(found.overlay),
                    notes=(*lacking, *mixed, f"{found.record_path} records its files; the lock stays as it is"),
                )
            )
            if not dry_run:
                nightly.write(part, found)
    return _outcome(project, moves, [], dry_run=dry_run, code=0, following="`mlenv sync --nightly`")


def _without_torch(overlay: Overlay) -> _Moved:
    note = "it pins no torch; other roots are moved by hand"
    return _Moved(overlay=overlay, before={}, after={}, notes=(note,))


def _family(project: Project, uv: Uv, overlay: Overlay, *, fit: bool, progress: Progress) -> Family:
    progress(f"looking for the newest torch of {overlay.backend}")
    newest = releases.newest(project, uv, overlay)
    if not fit:
        return newest
    refused: list[str] = []
    for family in _older(project, uv, overlay, newest):
        held = _held_back(project, uv, overlay, family, progress=progress)
        if not held:
            return family
        refused.append(f"  torch {family.torch}: {', '.join(held)}")
    told = "\n".join(refused)
    raise ResolutionError(
        f"{overlay.backend}: no release of torch leaves all that requirements.in asks for at its newest:\n{told}",
        hint="bound in requirements.in what may be older, or take one by hand: `mlenv foundation list` has them"
        if not newest.lacking
        else f'leave the backend out of the lock: [tool.mlenv] unproven = ["{overlay.backend}"]',
    )


def _older(project: Project, uv: Uv, overlay: Overlay, newest: Family) -> Iterator[Family]:
    """The newest family, then those of the catalogue's older releases that exist on its source."""
    yield newest
    named = newest.source.named
    for versions in _known(project, overlay) if named else releases.equal_releases(project, overlay):
        if Version(versions["torch"]) >= newest.torch:
            continue
        try:
            yield releases.confirmed(project, uv, overlay, versions, newest.source)
        except MlenvError:
            continue


def _known(project: Project, overlay: Overlay) -> Iterator[dict[str, str]]:
    """The families of the catalogue that were built for the backend, newest first."""
    names = releases.family_of(overlay)
    for release in project.catalogue.releases:
        if overlay.backend in release.backends:
            known = {"torch": release.torch, "torchvision": release.torchvision, "torchaudio": release.torchaudio}
            yield {name: version for name, version in known.items() if name in names}


def _held_back(project: Project, uv: Uv, overlay: Overlay, family: Family, *, progress: Progress) -> list[str]:
    """The direct requirements that this family keeps from their newest release, each in words."""
    progress(f"trying torch {family.torch} for {overlay.backend}")
    tried = overlay_module.moved(overlay, family.versions, without=family.lacking)
    part = project.trying(tried)
    platform = project.settings.platforms[0]
    question = locking.question_of(part, python=project.target_python[0], platform=platform, seed="")
    everything = Upgrade(everything=True)
    prover = Prover(
        project=part, uv=uv, platform=platform, question=question, upgrade=everything, progress=lambda _: None
    )
    try:
        found = prover.resolve(tried, bounds=())
    except ResolutionError as error:
        return [" ".join(error.message.split())]
    except ProjectError:  # a root is needed that this overlay pins no more
        if not family.lacking:
            raise
        return [f"{_lacking(name, family)}, and the application needs it" for name in family.lacking]
    free = heldback.without_foundation(part, uv, question, names=(), foundation={p.name for p in found.foundation})
    pairs = [(name, found.pins.get(name), free.pins.get(name)) for name in sorted(question.direct)]
    return [
        f"{name} {pin.version} instead of {newest.version}"
        for name, pin, newest in pairs
        if pin is not None and newest is not None and _is_older(pin.version, newest.version)
    ]


def _is_older(version: str | None, newest: str | None) -> bool:
    return version is not None and newest is not None and Version(version) < Version(newest)


def _move(project: Project, overlay: Overlay, family: Family, *, fit: bool, whole: Overlay) -> _Moved:
    """The move to a family; never to an older one that only the lack of a source makes the newest.

    ``overlay`` has the lines for the project's targets, ``whole`` all of them.
    """
    before = _pins(overlay)
    if not fit and Version(overlay.torch_version or "0") > family.torch:
        note = f"{family.source.index} has torch {family.torch}, which is older: the overlay stays as it is"
        return _Moved(overlay=overlay, before=before, after=before, notes=(note,))
    after = _pins(overlay_module.moved(overlay, family.versions))
    notes = [_lacking(name, family) for name in family.lacking]
    elsewhere = [str(root) for root in whole.roots() if root not in overlay.roots()]
    notes += [f"{root} is for no platform of the project and stays" for root in elsewhere]
    if before != after and (project.root / project.record_path(overlay.backend)).exists():
        again = f"`mlenv foundation record --backend {overlay.backend}`"
        notes.append(f"{project.record_path(overlay.backend)} does not fit any more; after `mlenv lock`: {again}")
    return _Moved(overlay=overlay, before=before, after=after, versions=family.versions, notes=tuple(notes))


def _pins(overlay: Overlay) -> dict[str, str]:
    """name → public version of every root; with the marker where a name has several lines."""
    roots = [without_label(root) for root in overlay.roots()]
    lines = Counter(root.name for root in roots)
    names = [f"{root.name}; {root.marker}" if lines[root.name] > 1 else root.name for root in roots]
    return {name: next(iter(root.specifier)).version for name, root in zip(names, roots, strict=True)}


def _lacking(name: str, family: Family) -> str:
    return f"{family.source.index} has no {name} for torch {family.torch}"


def _left(overlay: Overlay, error: MlenvError) -> Finding:
    return Finding(
        kind="not-upgraded",
        message=f"{overlay.path} stays as it is: {error.message}",
        hint=error.hint,
        severity="warning",
    )


def _outcome(
    project: Project,
    moves: Sequence[_Moved],
    findings: Iterable[Finding],
    *,
    dry_run: bool,
    code: int,
    following: str = "`mlenv lock`",
) -> Outcome:
    lines: list[str] = []
    for move in moves:
        lines += [f"{move.path} {_state(move, dry_run=dry_run)}", *(f"  {change}" for change in move.changes)]
        lines += [f"  note: {note}" for note in move.notes]
    if any(move.changes for move in moves) and not dry_run:
        lines += ["", f"next: {following}"]
    data = {"overlays": [_data(move) for move in moves], "written": not dry_run, "python": project.target_python[0]}
    return Outcome(text="\n".join(lines), data=data, findings=tuple(findings), exit_code=code)


def _state(move: _Moved, *, dry_run: bool) -> str:
    if move.changes:
        return "would be moved" if dry_run else "moved"
    return "is at the newest" if move.before else "stays as it is"


def _data(move: _Moved) -> dict[str, Any]:
    return {
        "path": move.path,
        "backend": move.overlay.backend,
        "before": move.before,
        "after": move.after,
        "notes": list(move.notes),
        "changed": bool(move.changes),
    }


def _change(name: str, old: str | None, new: str | None) -> str:
    name, found, marker = name.partition("; ")
    where = f" ({marker})" if found else ""
    if old is None:
        return f"+ {name} {new}{where}"
    if new is None:
        return f"- {name} {old}{where}"
    return f"{'↑' if Version(old) < Version(new) else '↓'} {name} {old} → {new}{where}"


def _require_current(project: Project) -> None:
    stale = drift.check_lock(project)
    if stale:
        told = "\n".join(f"  {finding}" for finding in stale[:6])
        raise FindingError(f"{project.settings.lock} is not current:\n{told}", hint=stale[0].hint or drift.RELOCK)
