"""``mlenv rollback``: put an earlier generation back."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from mlenv import build, drift, gate, inspection, standing
from mlenv.clock import Clock
from mlenv.errors import FindingError, MlenvError, UsageError, did_you_mean
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.selection import Environment
from mlenv.system import generation, history
from mlenv.system import uv as uv_module
from mlenv.system.files import project_lock
from mlenv.system.flip import flip
from mlenv.system.generation import Generation
from mlenv.system.uv import Uv
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of ``rollback``; ``to`` is the id of a generation, or its beginning."""

    environment: Environment
    to: str | None = None
    wait: float = 600.0


def rollback(
    project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Callable[[str], None]
) -> Outcome:
    """Flip the environment to the generation it had before, or to the one asked for; one that was changed since is
    built anew from its plan.

    Raises FindingError where there is none, UsageError for an unknown id, and what building raises.
    """
    with project_lock(project.state, wait=request.wait, waiting=progress):
        standing.sweep(project, progress=progress)
        current = generation.current(request.environment.path)
        asked = _target(project, request, current)
        if current is not None and asked.id == current.id:
            return _outcome(project, asked, request, action="nothing")
        target = _whole(project, uv, machine, request, asked, progress=progress)
        placed = flip(project.state, request.environment.path, target, env=uv.env, back_to=asked.id)
    return _outcome(project, placed.generation, request, action="flipped" if target is asked else "built")


def _target(project: Project, request: Request, current: Generation | None) -> Generation:
    found = {g.id: g for g in generation.known(project.state, request.environment.path)}
    if request.to is not None:
        return _named(request, found, request.to)
    ids = history.before(project.state, request.environment.path, None if current is None else current.id)
    backend = request.environment.backend
    earlier = (found[id_] for id_ in ids if id_ in found and backend in (None, found[id_].backend))
    if (last := next(earlier, None)) is None:
        of_it = f" of {backend}" if backend else ""
        words = shlex.join(["mlenv", "rollback", "ID", *request.environment.words])
        raise FindingError(
            f"{request.environment.shown} has no earlier generation{of_it}",
            hint=f"`mlenv generations` lists what is there; `{words}` takes any of them{of_it}",
        )
    return last


def _named(request: Request, found: Mapping[str, Generation], asked: str) -> Generation:
    """The generation that is called ``asked``, or begins so. Raises UsageError."""
    matching = [id_ for id_ in found if id_.startswith(asked)]
    exact = asked if asked in found else matching[0] if len(matching) == 1 else None
    if exact is None:
        what = f"{len(matching)} generations begin with" if matching else "there is no generation"
        raise UsageError(
            f"{what} {asked!r}", hint=did_you_mean(asked, found, otherwise="`mlenv generations` lists them")
        )
    chosen, place = found[exact], request.environment
    if place.backend not in (None, chosen.backend):
        told = f"{exact} is of {chosen.backend}, and {place.shown} of {place.backend}"
        words = replace(place, backend=chosen.backend).words
        raise UsageError(told, hint=f"`{shlex.join(['mlenv', 'rollback', exact, *words])}`")
    return chosen


def _whole(
    project: Project,
    uv: Uv,
    machine: Machine,
    request: Request,
    found: Generation,
    *,
    progress: Callable[[str], None],
) -> Generation:
    """``found`` itself where nobody changed it, else one built anew from its plan."""
    changed = inspection.altered(project, found, machine)
    if not changed:
        return found
    progress(f"{found.id} was changed since it was built, and is built anew:")
    for line in changed[:8]:
        progress(f"  {line}")
    refusal = partial(
        gate.failure,
        rebuild=f"run {request.environment.sync(backend=found.backend, extras=found.extras, rebuild=True)}",
        clean=partial(uv_module.cache_clean, uv),
        stands=request.environment.path.exists(),
    )
    return build.again(
        project,
        uv,
        found,
        machine=machine,
        refusal=refusal,
        clock=Clock(),
        progress=progress,
        instead=request.environment.sync(backend=found.backend, extras=found.extras),
    )


def _outcome(project: Project, now: Generation, request: Request, *, action: str) -> Outcome:
    shown = request.environment.shown
    with_ = f" (with {', '.join(now.extras)})" if now.extras else ""
    text = {
        "nothing": f"nothing to do: {shown} is {now.id}{with_} already",
        "flipped": f"{shown} is {now.id}{with_} again; {_forward(project, now, request)}",
        "built": f"{shown} is {now.id}{with_}, built anew; {_forward(project, now, request)}",
    }[action]
    data = {
        "action": action,
        "generation": now.id,
        "backend": now.backend,
        "additions": list(now.extras),
        "layout": now.layout,
        "environment": str(request.environment.path),
    }
    return Outcome(text=text, data=data, findings=_of_other_layout(project, now, request))


def _forward(project: Project, now: Generation, request: Request) -> str:
    """How to come to what the lock says now; with a stale one that takes two steps."""
    sync = request.environment.sync(backend=now.backend, extras=now.extras)
    try:
        stale = bool(drift.check_lock(project.of_lock(now.backend)))
    except MlenvError:  # project files that can't be used; sync says so
        stale = False
    return f"`mlenv lock`, then {sync} goes forward" if stale else f"{sync} goes forward"


def _of_other_layout(project: Project, now: Generation, request: Request) -> tuple[Finding, ...]:
    """A note where the generation keeps the layout that it was built in, and the settings have the other one."""
    layout = project.settings.layout
    if now.layout == layout:
        return ()
    kind = {"link": "a link", "directory": "a folder"}[now.layout]
    told = (
        f'{request.environment.shown} is {kind} now, as {now.id} was built so; the next sync builds layout = "{layout}"'
    )
    return (Finding(kind="other-layout", message=told, severity="note"),)
