"""Who brings what in one backend's environment, foundation included: the lock's pins resolved again with its overlay.

The lock's annotations tell who brings the Application, and nothing of what brings the foundation, which they leave out
(ADR 0002). Resolving with exactly the lock's pins tells both, of every backend, built here or not; uv's cache has what
that takes since the lock was made or an environment built. Where it can't be resolved the annotations must do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from packaging.utils import canonicalize_name

from mlenv import drift, graph, lockfile, locking, planning, resolution, solve
from mlenv.errors import FindingError, MlenvError
from mlenv.graph import Graph, Layer, Origin
from mlenv.indexes import mirror_variable
from mlenv.local_projects import LocalProject
from mlenv.lockfile import Pin
from mlenv.overlay import Constraint, Overlay
from mlenv.project import Project
from mlenv.report import Finding
from mlenv.requirements import WORKSPACE_FILE
from mlenv.resolution import Resolved
from mlenv.system.uv import Uv

_UNKNOWN = "what needs the foundation, and what of its own that brings, is not known"


def of_backend(project: Project, uv: Uv, backend: str, *, platform: str) -> Graph:
    """The graph of a backend on one platform of the lock. Raises FindingError without a lock, ProjectError."""
    part = project.of_lock(backend)
    if part.lock is None:
        raise FindingError("there is no lock", path=part.settings.lock, hint=drift.RELOCK)
    found = _of_part(part, uv, backend, platform)
    return replace(found, findings=(*found.findings, *project.apart))


def _of_part(part: Project, uv: Uv, backend: str, platform: str) -> Graph:
    if stale := drift.check_lock(part):
        why = f"{part.settings.lock} is not current: {stale[0].message}"
        return _of_lock(part, backend, platform, why=why, hint=stale[0].hint)
    try:
        answer = _resolved(part, uv, backend, platform)
    except MlenvError as error:
        return _of_lock(part, backend, platform, why=error.message.splitlines()[0], hint=error.hint)
    layers: dict[str, Layer] = {pin.name: "foundation" for pin in answer.foundation}
    pins = answer.pins.values() if answer.source.equal else _without_own_libraries(answer)
    return graph.made_of(
        pins,
        backend=backend,
        platform=platform,
        layers={**layers, **_local(part)},
        origins=_origins(part, backend, platform, known={pin.name for pin in pins}),
        findings=tuple(_findings(answer)),
    )


def _without_own_libraries(answer: Resolved) -> list[Pin]:
    """All but the foundation's libraries that torch alone brings: the metadata of another build stood in for them."""
    beside = resolution.brought_beside_torch(answer.foundation)
    own = resolution.brought_by_torch(answer.foundation).keys() - beside.keys()
    kept = (pin for pin in answer.pins.values() if pin.name not in own)
    return [replace(pin, via=tuple(via for via in pin.via if via not in own)) for pin in kept]


def _findings(answer: Resolved) -> Iterator[Finding]:
    for note in answer.notes:
        if answer.source.equal:
            yield Finding(kind="source-note", message=note, severity="note")
        else:
            message = f"torch's own libraries are not known: {note}"
            hint = f"name a mirror: {mirror_variable(f'pytorch-{answer.backend}')}=<URL>"
            yield Finding(kind="libraries-unknown", message=message, hint=hint, severity="warning")


def _resolved(part: Project, uv: Uv, backend: str, platform: str) -> Resolved:
    """The lock's pins, and the record's where there is one, resolved together; from the cache if that can."""
    record = part.record(backend)
    pins = planning.pins_on(part, platform)
    recorded = record.on(platform).values() if record is not None and platform in record.sources else ()
    seed = lockfile.render_pins(replace(pin, via=(), marker=None) for pin in pins)
    held = (*pins, *(Pin(name=package.name, version=package.version) for package in recorded))
    asked = locking.question_of(part, python=planning.python_of(part), platform=platform, seed=seed)
    asked = replace(asked, pins=held, with_files=False)
    overlay = part.overlay(backend)
    try:
        cached = replace(asked, fall_back=False)
        return solve.resolve_backend(part, replace(uv, offline=True), overlay, cached, platform=platform)
    except MlenvError:
        return solve.resolve_backend(part, uv, overlay, asked, platform=platform)


def _of_lock(part: Project, backend: str, platform: str, *, why: str, hint: str | None) -> Graph:
    """What the lock's annotations and the overlay tell."""
    assert part.lock is not None
    pins = planning.pins_on(part, platform)
    roots = [
        Pin(name=constraint.name, version=constraint.pin)
        for constraint in _roots(part, part.overlay(backend), platform)
    ]
    names = {pin.name for pin in (*pins, *roots)}
    outside = {via for pin in pins for via in pin.via if part.names.owns(via)} | {pin.name for pin in roots}
    foundation: dict[str, Layer] = dict.fromkeys(outside, "foundation")
    return graph.made_of(
        (*pins, *roots),
        backend=backend,
        platform=platform,
        layers={**foundation, **_local(part)},
        origins=_origins(part, backend, platform, known=names),
        findings=(Finding(kind="partly-known", message=f"{_UNKNOWN}: {why}", hint=hint, severity="warning"),),
    )


def _local(part: Project) -> Mapping[str, Layer]:
    return {local.name: "local project" for local in part.requirements.local_projects if local.name}


def _origins(part: Project, backend: str, platform: str, *, known: Iterable[str]) -> dict[str, tuple[Origin, ...]]:
    """The lines that ask for packages on the platform, then those of the overlay that pin its roots."""
    environment = planning.environment_of(part, platform)
    found: dict[str, list[Origin]] = {}
    for file, entry in part.requirements.direct:
        marker = entry.requirement.marker
        if marker is None or marker.evaluate({**environment, "extra": ""}):
            origin = Origin(path=file.path, line=entry.line, text=str(entry.requirement))
            found.setdefault(canonicalize_name(entry.requirement.name), []).append(origin)
    for file in part.requirements.files:
        for local in (entry for entry in file.entries if isinstance(entry, LocalProject)):
            path = local.metadata_path if file.path == WORKSPACE_FILE else file.path
            origin = Origin(path=path, line=local.line or 1, text=local.written)
            found.setdefault(local.name or local.relative, []).append(origin)
    overlay = part.overlay(backend)
    there = {*known, *found}
    for constraint in _roots(part, overlay, platform):
        if constraint.name in there:
            origin = Origin(path=overlay.path, line=constraint.line, text=str(constraint.requirement))
            found.setdefault(constraint.name, []).append(origin)
    return {name: tuple(origins) for name, origins in found.items()}


def _roots(part: Project, overlay: Overlay, platform: str) -> list[Constraint]:
    """The overlay's lines that pin a root on the platform."""
    there = overlay.on([planning.environment_of(part, platform)])
    names = {root.name for root in there.roots(part.settings.foundation.roots)}
    return [entry for entry in there.constraints if entry.name in names and entry.pin is not None]
