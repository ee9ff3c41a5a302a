"""``mlenv check``: the gate on the environment as it stands, and ``--repair``: build it anew where it is damaged."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mlenv import build, gate, inspection, selection, standing
from mlenv.clock import Clock
from mlenv.errors import FindingError, PackageIndexError, UsageError
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.selection import Environment
from mlenv.system import generation, inventory
from mlenv.system import uv as uv_module
from mlenv.system.files import project_lock
from mlenv.system.flip import flip
from mlenv.system.generation import Generation
from mlenv.system.uv import Uv
from mlenv.values import dataclass

_SHOWN = 8
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of ``check``; with ``deep`` every file is read and hashed."""

    environment: Environment
    deep: bool = False
    wait: float = 600.0


def check(project: Project, machine: Machine, request: Request) -> Outcome:
    """What drifted, was damaged or replaced since the environment was finished, by name; writes nothing.

    Raises FindingError where there is no environment of mlenv's.
    """
    current = _current(project, request.environment)
    findings = _found(project, machine, request, current)
    name, count = request.environment.shown, len(current.planned)
    how = ", every file hashed" if request.deep else ""
    text = "" if findings else f"{name} is whole: {count} packages, backend {current.backend}{how}"
    data = {"whole": not findings, "backend": current.backend, "packages": count, "generation": str(current.path)}
    return Outcome(text=text, data=data, findings=findings, exit_code=1 if findings else 0)


def repair(project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Progress) -> Outcome:
    """Build the environment anew from its plan where something is wrong with it, uv's cache healed before.

    Raises FindingError where there is no environment of mlenv's, and what building raises.
    """
    name = request.environment.shown
    if request.environment.image:
        told = f"{name} was built for an image, where nothing is repaired"
        raise UsageError(told, hint=_rebuild(request, _current(project, request.environment)))
    with project_lock(project.state, wait=request.wait, waiting=progress):
        standing.sweep(project, progress=progress)
        current = _current(project, request.environment)
        findings = _found(project, machine, replace(request, deep=True), current)
        if not findings:
            text = f"nothing to repair: {name} is whole, every file hashed"
            return Outcome(text=text, data={"action": "nothing", "backend": current.backend})
        for finding in findings[:_SHOWN]:
            progress(f"found: {finding}")
        if (more := len(findings) - _SHOWN) > 0:
            progress(f"found: {more} more")
        healed = _heal(uv, current, findings, progress=progress)
        built = _whole(project, uv, machine, request, current, progress=progress)
        placed = flip(project.state, request.environment.path, built, env=uv.env, back_to=current.id)
    told = f"; fetched again: {', '.join(healed)}" if healed else ""
    data = {
        "action": "repaired",
        "backend": current.backend,
        "generation": str(placed.generation.path),
        "fetched_again": healed,
        "repaired": [finding.as_json() for finding in findings],
    }
    return Outcome(text=f"{name} was built anew and is whole{told}", data=data)


def _current(project: Project, environment: Environment) -> Generation:
    current = generation.current(environment.path)
    if current is None:
        raise selection.missing(project, environment)
    selection.require_backend(project, environment, current.backend)
    return current


def _found(project: Project, machine: Machine, request: Request, current: Generation) -> tuple[Finding, ...]:
    name = request.environment.shown
    mend = (
        _rebuild(request, current)
        if request.environment.image
        else selection.mending(project, _command(request.environment))
    )
    drifted = tuple(
        Finding(kind="environment-drifted", message=f"{name}: {line}", hint=mend)
        for line in inspection.changed_since(current)
    )
    try:
        damaged = inspection.intact(project, current, machine, deep=request.deep)
    except OSError as error:
        raise FindingError(f"{name} can't be read: {error.strerror}", hint=_rebuild(request, current)) from error
    return drifted + tuple(
        replace(finding, hint=mend if finding.hint == gate.REBUILD else finding.hint) for finding in damaged
    )


def _command(environment: Environment) -> str:
    return f"`{shlex.join(['mlenv', 'check', '--repair', *environment.words])}`"


def _rebuild(request: Request, current: Generation) -> str:
    return f"run {request.environment.sync(backend=current.backend, extras=current.extras, rebuild=True)}"


def _heal(uv: Uv, current: Generation, findings: tuple[Finding, ...], *, progress: Progress) -> list[str]:
    """Drop from uv's cache what is damaged there too: a changed file that is a link has the cache's bytes.

    Returns the packages' names.
    """
    found = inventory.read(current.path)
    changed = {f.path: f.package for f in findings if f.kind == "file-changed" and f.path and f.package}
    damaged = sorted({package for path, package in changed.items() if inventory.linked(found, path)})
    if not damaged:
        return []
    if uv.offline:
        raise PackageIndexError(
            f"uv's cache has the same damage and must fetch again: {', '.join(damaged)}",
            hint="run it without --offline",
        )
    progress(f"uv's cache has the same damage; it will fetch again: {', '.join(damaged)}")
    uv_module.clean_cache(uv, damaged)
    return damaged


def _whole(
    project: Project, uv: Uv, machine: Machine, request: Request, current: Generation, *, progress: Progress
) -> Generation:
    """A new generation like ``current`` in which every file is what its package brought."""

    def once() -> Generation:
        clean = partial(uv_module.cache_clean, uv)
        refusal = partial(gate.failure, rebuild=_rebuild(request, current), clean=clean, stands=True)
        return build.again(
            project,
            uv,
            current,
            machine=machine,
            refusal=refusal,
            clock=Clock(),
            progress=progress,
            instead=request.environment.sync(backend=current.backend, extras=current.extras),
            deep=True,
        )

    return build.healing(uv, once, progress=progress)
