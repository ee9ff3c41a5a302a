"""What an overlay keeps far behind: the lock compared with what the requirements would get without any overlay.

A pin of torch can push a package years back without a word (FACTS, uv 3: accelerate became 0.0.1). How far is measured
in days between the two releases, as the index dates them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from packaging.version import Version

from mlenv import solve
from mlenv.errors import MlenvError, ResolutionError
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay, without_label
from mlenv.project import Project
from mlenv.proof import Prover
from mlenv.report import Finding
from mlenv.resolution import NAMES_FILE, Resolved
from mlenv.solve import Question
from mlenv.system.uv import Uv
from mlenv.values import dataclass

Progress = Callable[[str], None]
_NEEDS = re.compile(r"(?P<who>[A-Za-z0-9._-]+)(?P<which>==[^\s,]+|[^\s,]*) depends on (?P<what>[A-Za-z0-9._-]+[^\s,]*)")


@dataclass(frozen=True, kw_only=True)
class HeldBack:
    """One package that overlays keep ``days`` behind; ``bounds`` says for each of them what does it, in words."""

    name: str
    version: str
    instead_of: str
    days: int
    bounds: tuple[str, ...]

    @property
    def warning(self) -> Finding:
        """It as a warning."""
        return Finding(kind="held-back", message=str(self), hint=_hint((self,)), severity="warning")

    def __str__(self) -> str:
        """The sentence of the contract, with the distance."""
        years = f"{self.days / 365:.1f} years" if self.days >= 365 else f"{self.days} days"
        return f"{self.name} {self.version} instead of {self.instead_of}: {'; '.join(self.bounds)} ({years} behind)"


def find(
    prover: Prover,
    found: Mapping[str, Resolved],
    overlays: Sequence[Overlay],
    *,
    free: Callable[[], Resolved],
    progress: Progress,
) -> tuple[HeldBack, ...]:
    """The packages that these overlays keep more than ``held-back-days`` behind, allowed ones left out.

    ``found`` has the resolution of each overlay, ``free`` what ``without_foundation`` gave. Where that can't be
    resolved nothing is known to be held back, and that is said.
    """
    pins = {pin.name: pin.version or "" for answer in found.values() for pin in answer.application}
    try:
        newest = free()
        if not pins.keys() <= newest.pins.keys():  # what only the foundation brings was not known yet
            foundation = {pin.name for answer in found.values() for pin in answer.foundation}
            newest = without_foundation(prover.project, prover.uv, prover.question, names=pins, foundation=foundation)
    except MlenvError as error:
        progress(f"note: what the overlays hold back can't be told: {error.message.splitlines()[0]}")
        return ()
    behind = _behind(prover.project, pins, newest)
    try:
        suspects = _far_behind(behind, found, prover) if behind else {}
    except MlenvError as error:
        progress(f"note: how far the overlays hold packages back can't be told: {error.message.splitlines()[0]}")
        return ()
    return tuple(_explained(suspects, pins, newest, prover, overlays))


def without_foundation(
    project: Project, uv: Uv, question: Question, *, names: Iterable[str], foundation: Iterable[str]
) -> Resolved:
    """What the requirements, and ``names`` beside them, would get if no torch bounded anything.

    ``foundation`` names are passed over, whoever asks for them. Raises as ``solve.resolve_backend``.
    """
    without = {*foundation, *project.names.exact}
    files = {**question.files, NAMES_FILE: "".join(f"{name}\n" for name in sorted({*names} - without))}
    sources = (*question.sources, NAMES_FILE)
    alone = replace(question, files=files, sources=sources, seed="", with_files=False)
    return solve.resolve_without_foundation(project, uv, alone, without=without)


def _behind(project: Project, pins: Mapping[str, str], free: Resolved) -> list[Pin]:
    """The newer releases of packages that would have them without the overlays, allowed ones left out."""
    return [
        pin
        for pin in free.application
        if pins.get(pin.name)
        and pin.version
        and pin.name not in project.settings.held_back_allow
        and Version(pins[pin.name]) < Version(pin.version)
    ]


def _far_behind(behind: Sequence[Pin], found: Mapping[str, Resolved], prover: Prover) -> dict[str, int]:
    """name → days, for each package that is further behind than allowed. Raises as ``solve.listed_files``."""
    asked = prover.question
    files = solve.listed_files(prover.project, prover.uv, behind, python=asked.python, platform=prover.platform)
    days = {pin.name: _days_behind(pin.name, found, files.get(pin.name)) for pin in behind}
    return {name: far for name, far in days.items() if far is not None and far > prover.project.settings.held_back_days}


def instead_of(
    error: ResolutionError, prover: Prover, overlays: Sequence[Overlay], direct: Iterable[str]
) -> ResolutionError:
    """``error`` with the reason why an old release was tried at all, where an overlay refuses the newest of a name."""
    try:
        free = without_foundation(prover.project, prover.uv, prover.question, names=(), foundation=())
        asked = {name: free.pins[name].version for name in direct if name in free.pins}
        told = [
            f"{name} {version} can't be had: {_bound(overlay, name, objection)}"
            for name, version in asked.items()
            for overlay in overlays
            if (objection := prover.objection(overlay, f"{name}=={version}")) is not None
        ]
    except MlenvError:
        return error
    if not told:
        return error
    message = "\n".join([*told, f"an older release was tried instead: {error.message}"])
    return ResolutionError(message, hint=f"move torch in constraints/ to what it needs; or {error.hint}")


def refuse(found: Sequence[HeldBack]) -> None:
    """Raise ResolutionError where anything is held back."""
    if not found:
        return
    told = "\n".join(f"  {one}" for one in found)
    what = "a package is" if len(found) == 1 else f"{len(found)} packages are"
    raise ResolutionError(f"{what} held back by the overlays:\n{told}", hint=_hint(found))


def _hint(found: Iterable[HeldBack]) -> str:
    names = ", ".join(f'"{one.name}"' for one in found)
    return (
        "move the overlay's pin in constraints/, bound the package in requirements.in to what you want, leave the "
        f"backend out (unproven), or allow it: [tool.mlenv] held-back-allow = [{names}]"
    )


def _days_behind(name: str, found: Mapping[str, Resolved], newer: Mapping[str, object] | None) -> int | None:
    """How many days the locked release is older than a newer one's files; None where an index gives no dates."""
    ours = next((date for answer in found.values() if (date := _released(answer.files.get(name))) is not None), None)
    theirs = _released(newer)
    return (theirs - ours).days if ours is not None and theirs is not None else None


def _released(table: Mapping[str, object] | None) -> datetime | None:
    """When the first file of a release (its PEP 751 table) was uploaded."""
    files = [*_listed(table, "wheels"), *_listed(table, "sdist"), *_listed(table, "archive")]
    dates = [date for file in files if isinstance(date := file.get("upload-time"), datetime)]
    return min(dates, default=None)


def _listed(table: Mapping[str, object] | None, key: str) -> list[Mapping[str, object]]:
    value = (table or {}).get(key)
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _explained(
    suspects: Mapping[str, int], pins: Mapping[str, str], free: Resolved, prover: Prover, overlays: Sequence[Overlay]
) -> Iterable[HeldBack]:
    """Of the suspects those that an overlay refuses to have newer; the others only wait for an upgrade."""
    for name, days in suspects.items():
        newest = free.pins[name].version or ""
        objections = [(overlay, prover.objection(overlay, f"{name}=={newest}")) for overlay in overlays]
        bounds = tuple(_bound(overlay, name, told) for overlay, told in objections if told is not None)
        if bounds:
            yield HeldBack(name=name, version=pins[name], instead_of=newest, days=days, bounds=joined(bounds))


def _bound(overlay: Overlay, name: str, objection: str) -> str:
    """``cu132 pins torch==2.15.0, vllm 0.33.0 needs torch==2.14.0``, or what uv says where it is longer than that."""
    return by_a_root(overlay, name, objection) or " ".join(objection.split())


def by_a_root(overlay: Overlay, name: str, objection: str) -> str | None:
    """The overlay's pin that uv's objection to a release of a package is about, in words; None where it is another."""
    roots = {root.name: without_label(root) for root in overlay.roots()}
    for needs in _NEEDS.finditer(objection):
        what = re.match(r"[A-Za-z0-9._-]+", needs["what"])
        if needs["who"] == name and what and what[0] in roots:
            return f"{overlay.backend} pins {roots[what[0]]}, {name} {needs['which'][2:]} needs {needs['what']}"
        if needs["who"] in roots and what and what[0] == name:
            return f"{overlay.backend} pins {roots[needs['who']]}, which needs {needs['what']}"
    return None


def joined(bounds: Sequence[str]) -> tuple[str, ...]:
    """Overlays that say the same, told once: ``cpu and cu132 pin ...``."""
    by_reason: dict[str, list[str]] = {}
    for bound in bounds:
        backend, space, rest = bound.partition(" ")
        by_reason.setdefault(rest if space else bound, []).append(backend)
    return tuple(
        f"{' and '.join(backends)} {reason.replace('pins', 'pin', 1) if len(backends) > 1 else reason}"
        for reason, backends in by_reason.items()
    )
