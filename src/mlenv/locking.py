"""Make the lock: requirements and overlays in, the text of ``requirements.txt`` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlenv import drift, lockfile, plan, resolution, solve
from mlenv.errors import FindingError, MlenvError, ProjectError, ResolutionError, UsageError
from mlenv.lockfile import Header, Pin
from mlenv.overlay import Overlay
from mlenv.project import CONSTRAINTS, Project
from mlenv.resolution import Change, Resolved
from mlenv.solve import Question
from mlenv.system import uv as uv_module
from mlenv.system.uv import Upgrade, Uv

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How one backend was proven: its torch, the index its foundation came from, the seconds it took."""

    backend: str
    torch: str | None
    source: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NewLock:
    """A lock that was made and not yet written."""

    text: str
    changes: tuple[Change, ...]
    proofs: tuple[Proof, ...]
    unproven: tuple[str, ...]
    notes: tuple[str, ...]
    packages: int


def make(project: Project, uv: Uv, *, upgrade: Upgrade, progress: Progress) -> NewLock:
    """Resolve the Application against every overlay and render the lock.

    Existing pins are kept unless ``upgrade`` lets them move. Raises UsageError for an upgrade of a name that isn't
    there, ProjectError for files that can't be used, ResolutionError, PackageIndexError.
    """
    overlays = _proven_overlays(project)
    for line in _rootless(project, overlays):
        progress(f"note: {line}")
    old = _adoptable(project)
    _check_upgrade(project, upgrade, old)
    python, origin = project.target_python
    if project.lock is None and not project.settings.python:
        progress(f"the lock is for Python {python} (from {origin})")
    seconds: dict[str, float] = {}
    found = _resolve_all(
        project, uv, overlays, python=python, seed=old, upgrade=upgrade, seconds=seconds, progress=progress
    )
    _refuse_collisions(found)
    pins = _application(project, found)
    header = Header(
        python=python,
        platforms=project.settings.platforms,
        inputs=drift.inputs(project),
        overlays=drift.overlays(project),
        settings=drift.settings(project),
        proven={overlay.backend: _proof_line(overlay) for overlay in overlays},
    )
    text = lockfile.render(header=header, pins=pins, excluded=_left_out(project, found))
    return NewLock(
        text=text,
        changes=resolution.changes(project.lock.pins if project.lock else (), pins),
        proofs=tuple(_proof(o, found[o.backend], seconds[o.backend]) for o in overlays),
        unproven=project.settings.unproven,
        notes=tuple(note for answer in found.values() for note in answer.notes),
        packages=len(pins),
    )


def _proven_overlays(project: Project) -> list[Overlay]:
    chosen = [overlay for name, overlay in project.overlays.items() if name not in project.settings.unproven]
    if not chosen:
        raise ProjectError(
            "there is no overlay to resolve against",
            path=CONSTRAINTS,
            hint="`mlenv init` writes overlays for the usual backends",
        )
    if len(project.settings.platforms) > 1:
        raise ProjectError(
            "one lock for several platforms is not there yet",
            path="pyproject.toml",
            hint="name one platform in [tool.mlenv] platforms",
        )
    return chosen


def _rootless(project: Project, overlays: Sequence[Overlay]) -> Iterable[str]:
    """Overlays that prove nothing, because they pin no root: an emptied file, or one that is no overlay."""
    for overlay in overlays:
        if not overlay.roots(project.settings.foundation.roots):
            yield f"{overlay.path} pins no root (torch, tensorflow...): {overlay.backend} gets no foundation"


def _adoptable(project: Project) -> str:
    """The old lock's pins as preferences, foundation that leaked into it left out; both sides of a conflict.

    Hashes are kept only where the body is as mlenv wrote it: uv carries any hash on, even one that belongs to another
    release (FACTS, uv 6), so those of an edited or a foreign lock are fetched anew.
    """
    if project.lock_text is None or project.lock is None:
        return ""
    header = project.lock.header
    if header is not None and header.scheme > lockfile.SCHEME:
        raise FindingError(
            f"this lock was written by a newer mlenv (scheme {header.scheme}; this one knows {lockfile.SCHEME})",
            path=project.settings.lock,
            hint="upgrade mlenv",
        )
    trusted = header is not None and header.body == project.lock.body_digest
    pins = [pin for pin in lockfile.parse_pins(project.lock_text) if not project.names.owns(pin.name)]
    kept = [lockfile.without_weak_hashes(pin) if trusted or pin.url else replace(pin, hashes=()) for pin in pins]
    return lockfile.render_pins(replace(pin, via=(), marker=None) for pin in kept)


def _check_upgrade(project: Project, upgrade: Upgrade, old: str) -> None:
    """uv passes over an upgrade of a name it never meets (FACTS, uv 6); a typo must not look like success."""
    locked = {pin.name for pin in lockfile.parse_pins(old)}
    direct = {canonicalize_name(entry.requirement.name) for _, entry in project.requirements.direct}
    for text in upgrade.packages:
        name = _upgraded(text)
        if project.names.owns(name):
            raise UsageError(
                f"{name} is foundation: it is pinned in {CONSTRAINTS}/, not in the lock",
                hint=f"change its pin in {CONSTRAINTS}/<backend>.txt, then run `mlenv lock`",
            )
        if name not in locked | direct:
            raise UsageError(f"{name} is not in the lock", hint=_nearest(name, locked | direct))


def _upgraded(text: str) -> str:
    """The name in ``NAME`` or ``NAME==V``. Raises UsageError."""
    try:
        asked = Requirement(text)
    except InvalidRequirement:
        asked = None
    if asked is None or asked.url or asked.marker or asked.extras:
        raise UsageError(
            f"{text!r} is neither a name nor name==version", hint="for example: mlenv lock -P transformers==5.0.0"
        )
    return canonicalize_name(asked.name)


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {close[0]}?" if close else "add it to requirements.in first"


def _resolve_all(
    project: Project,
    uv: Uv,
    overlays: Sequence[Overlay],
    *,
    python: str,
    seed: str,
    upgrade: Upgrade,
    seconds: dict[str, float],
    progress: Progress,
) -> Mapping[str, Resolved]:
    question = _question(project, python=python)
    exact = _exact(upgrade)

    def timed(overlay: Overlay, asked: Question, how: Uv) -> Resolved:
        start = time.perf_counter()
        try:
            return solve.resolve_backend(project, how, overlay, asked, platform=project.settings.platforms[0])
        finally:
            seconds[overlay.backend] = time.perf_counter() - start

    def lead(overlay: Overlay, preferred: str, moving: Upgrade | None) -> Resolved:
        progress(f"resolving for {overlay.backend}")
        return timed(overlay, replace(question, seed=preferred, upgrade=moving or exact), uv)

    def follow(overlay: Overlay, preferred: str) -> Resolved:
        progress(f"proving {overlay.backend}")
        asked = replace(question, seed=preferred, upgrade=exact)
        known = {(pin.name, pin.version) for pin in lockfile.parse_pins(preferred)}
        try:
            answer = timed(overlay, replace(asked, fall_back=False), replace(uv, offline=True))
        except MlenvError:
            return timed(overlay, asked, uv)
        # The cache may be older than the index: it is believed where it brings nothing of its own.
        unseen = {(pin.name, pin.version) for pin in answer.application} - known
        return timed(overlay, asked, uv) if unseen and not uv.offline else answer

    def objection(overlay: Overlay, requirement: str) -> str | None:
        files = {**question.files, resolution.CLASH_FILE: f"{requirement}\n"}
        asked = replace(question, files=files, sources=(*question.sources, resolution.CLASH_FILE))
        try:
            timed(overlay, asked, uv)
        except ResolutionError as error:
            return error.message
        return None

    return solve.agree(overlays, lead=lead, follow=follow, objection=objection, seed=seed, upgrade=upgrade)


def _exact(upgrade: Upgrade) -> Upgrade:
    """The versions that were asked for: unlike a mere leave to move, they hold for every backend."""
    return Upgrade(packages=tuple(text for text in upgrade.packages if Requirement(text).specifier))


def _question(project: Project, *, python: str) -> Question:
    requirements = project.requirements
    return Question(
        files=requirements.mirror(),
        sources=requirements.roots,
        python=python,
        interpreter=uv_module.base_interpreter(),
        platform=project.settings.platforms[0],
        stand_in=True,
        direct=frozenset(canonicalize_name(entry.requirement.name) for _, entry in requirements.direct),
    )


def _application(project: Project, found: Mapping[str, Resolved]) -> list[Pin]:
    """The union of every backend's Application; each release has a wheel or may be built."""
    merged: dict[str, Pin] = {}
    built = {canonicalize_name(n) for n in (*project.settings.build, *project.settings.build_against_foundation)}
    local = {entry.name for entry in project.requirements.local_projects}
    for answer in found.values():
        for pin in answer.application:
            if pin.name in local:
                continue
            if pin.name in answer.files:
                plan.require_wheel(pin.name, pin.version or "", answer.files[pin.name], built=built)
            merged[pin.name] = resolution.merge_pin(merged[pin.name], pin) if pin.name in merged else pin
    return resolution.with_markers((merged[name] for name in sorted(merged)), _direct_markers(project))


def _direct_markers(project: Project) -> dict[str, list[Marker | None]]:
    found: dict[str, list[Marker | None]] = {}
    for _, entry in project.requirements.direct:
        found.setdefault(canonicalize_name(entry.requirement.name), []).append(entry.requirement.marker)
    return found


def _left_out(project: Project, found: Mapping[str, Resolved]) -> tuple[str, ...]:
    """The foundation packages the footer names.

    Where an index could not be reached its build's own libraries are not known; what the old lock said of them is kept.
    """
    names: set[str] = set()
    partial = False
    for answer in found.values():
        wanted = {pin.name for pin in answer.foundation}
        if not answer.source.equal:
            partial = True
            wanted &= resolution.TORCH_FAMILY | set(resolution.brought_beside_torch(answer.foundation))
        names |= wanted
    if partial and project.lock is not None:
        names |= {name for name in project.lock.excluded if project.names.owns(name)}
    return tuple(sorted(names))


def _refuse_collisions(found: Mapping[str, Resolved]) -> None:
    """Two CUDA families of one library overwrite each other's files (FACTS, CUDA 8): refused before anything is built.

    Raises ResolutionError.
    """
    for backend, answer in found.items():
        clash = resolution.collision(answer)
        if clash is not None:
            first, second = clash
            pins = {**answer.pins, first.name: first, second.name: second}
            raise ResolutionError(
                f"{backend}: {first.name} and {second.name} are two CUDA families of one library and overwrite "
                f"each other's files\n  {resolution.chain(first.name, pins)}\n  {resolution.chain(second.name, pins)}",
                hint="drop one of the two (plain `tensorflow` runs on the CPU beside a CUDA torch), require a release "
                "that brings the other family (it may need a newer Python: `mlenv lock --python-version`), "
                f'or leave the backend out: [tool.mlenv] unproven = ["{backend}"]',
            )


def _proof_line(overlay: Overlay) -> str:
    return f"torch=={overlay.torch_version}" if overlay.torch_version else "no-torch"


def _proof(overlay: Overlay, answer: Resolved, seconds: float) -> Proof:
    source = answer.source.index if answer.source.equal else "default (stand-in)"
    return Proof(backend=overlay.backend, torch=overlay.torch_version, source=source, seconds=round(seconds, 2))
