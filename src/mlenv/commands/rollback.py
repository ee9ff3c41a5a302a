"""``mlenv rollback``: put an earlier generation back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mlenv import build, gate, inspection, standing
from mlenv.clock import Clock
from mlenv.errors import FindingError, UsageError, did_you_mean
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Outcome
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
            return _outcome(asked, request, action="nothing")
        target = _whole(project, uv, machine, request, asked, progress=progress)
        placed = flip(project.state, request.environment.path, target, env=uv.env, back_to=asked.id)
    return _outcome(placed.generation, request, action="flipped" if target is asked else "built")


def _target(project: Project, request: Request, current: Generation | None) -> Generation:
    found = {g.id: g for g in generation.known(project.state, request.environment.path)}
    if request.to is not None:
        matching = [id_ for id_ in found if id_.startswith(request.to)]
        exact = request.to if request.to in found else matching[0] if len(matching) == 1 else None
        if exact is None:
            what = f"{len(matching)} generations begin with" if matching else "there is no generation"
            hint = did_you_mean(request.to, found, otherwise="`mlenv generations` lists them")
            raise UsageError(f"{what} {request.to!r}", hint=hint)
        return found[exact]
    ids = history.before(project.state, request.environment.path, None if current is None else current.id)
    earlier = next((found[id_] for id_ in ids if id_ in found), None)
    if earlier is None:
        raise FindingError(
            f"{request.environment.shown} has no earlier generation",
            hint="`mlenv generations` lists what is there; `mlenv rollback ID` takes any of them",
        )
    return earlier


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
    return build.again(project, uv, found, machine=machine, refusal=refusal, clock=Clock(), progress=progress)


def _outcome(now: Generation, request: Request, *, action: str) -> Outcome:
    shown = request.environment.shown
    text = {
        "nothing": f"nothing to do: {shown} is {now.id} already",
        "flipped": f"{shown} is {now.id} again; {request.environment.sync(backend=now.backend)} goes forward",
        "built": f"{shown} is {now.id}, built anew; {request.environment.sync(backend=now.backend)} goes forward",
    }[action]
    data = {
        "action": action,
        "generation": now.id,
        "backend": now.backend,
        "environment": str(request.environment.path),
    }
    return Outcome(text=text, data=data)
