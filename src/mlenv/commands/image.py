"""``mlenv sync --image``: an environment in one fixed folder, for an image, in one layer or in two (docs/adr/0016).

The first layer holds the foundation and reads overlay and record alone; the second adds everything else and changes no
file below it, so a new lock costs the second one only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from mlenv import build, drift, footing, gate, inspection, plan, planning
from mlenv.clock import Clock
from mlenv.errors import EnvironmentBuildError, FindingError, MlenvError, ResolutionError
from mlenv.machine import Machine
from mlenv.overlay import meaning
from mlenv.plan import Plan
from mlenv.project import Project
from mlenv.record import digest_text
from mlenv.report import Finding, Outcome
from mlenv.selection import Environment
from mlenv.system import generation, inventory, layer
from mlenv.system import uv as uv_module
from mlenv.system.generation import Generation
from mlenv.system.layer import Foundation
from mlenv.system.uv import Uv
from mlenv.values import dataclass
from mlenv.wanted import Verify, Wanted, inputs_of

Progress = Callable[[str], None]


class Only(Enum):
    """One of the two steps."""

    FOUNDATION = "foundation"
    APPLICATION = "application"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of ``sync --image``; without ``only`` it is both steps."""

    backend: str
    reasons: tuple[str, ...]
    environment: Environment
    only: Only | None = None
    python: str | None = None
    extras: tuple[str, ...] = ()
    verify: Verify = Verify.AUTO
    rebuild: bool = False

    @property
    def path(self) -> Path:
        """The environment's folder."""
        return self.environment.path

    def again(self, *, only: Only | None = None, rebuild: bool = False) -> str:
        """The command for one step or both, for hints."""
        place = replace(self.environment, image=True)
        extras = () if only is Only.FOUNDATION else self.extras
        step = None if only is None else only.value
        return place.sync(backend=self.backend, python=self.python, extras=extras, rebuild=rebuild, only=step)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every step needs."""

    project: Project
    uv: Uv
    machine: Machine
    request: Request
    progress: Progress
    clock: Clock

    def refusal(self, findings: tuple[Finding, ...]) -> MlenvError:
        """What a layer that did not pass the gate is refused with."""
        again = self.request.again(only=self.request.only)
        return gate.failure(findings, rebuild=again, clean=partial(uv_module.cache_clean, self.uv), stands=False)


def sync(project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Progress) -> Outcome:
    """Build the layer that is asked for, or all; nothing where it is there.

    Raises EnvironmentBuildError where something else stands at the path, FindingError where the lock is not current or
    doesn't fit the foundation that is there, and what planning and building raise.
    """
    project = project.foundation_only() if request.only is Only.FOUNDATION else project
    project = project.of_lock(request.backend)
    # A layer can't link to files of another one, and what is imported on the way must leave no bytecode in one.
    env = {"UV_LINK_MODE": "copy", **uv.env, "PYTHONDONTWRITEBYTECODE": "1"}
    uv = replace(uv, env=env)
    work = _Work(project=project, uv=uv, machine=machine, request=request, progress=progress, clock=Clock())
    _require_own(request.environment)
    return _lay_foundation(work) if request.only is Only.FOUNDATION else _complete(work)


def backend_at(path: Path | None) -> str | None:
    """The backend of the foundation, or of the whole environment, that is there; None where nothing is."""
    found = None if path is None else layer.read(path) or generation.read(path)
    return None if found is None else found.backend


def _require_own(environment: Environment) -> None:
    """Nothing is moved aside in an image: what stands there would only fill its layers."""
    path = environment.path
    empty = not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))
    if not empty and (path.is_symlink() or not layer.marked(path)):
        raise EnvironmentBuildError(
            "something is there that was not built for an image, and stays",
            path=environment.shown,
            hint="name a path that is free, or remove what is there",
        )


def _lay_foundation(work: _Work) -> Outcome:
    request, uv = work.request, work.uv
    project, interpreter = _with_python(work)
    inputs = _foundation_inputs(project, request.backend, interpreter, platform=work.machine.platform)
    if not request.rebuild and (layer.read(request.path) or generation.read(request.path)):
        _require_inputs(request, layer.read(request.path), inputs)
        return _nothing(request, "foundation")
    work.progress(f"resolving the foundation for {request.backend}")
    target = planning.Target(
        backend=request.backend, platform=work.machine.platform, interpreter=interpreter, elsewhere=False
    )
    chosen, notes = planning.make_foundation(project, uv, target)
    work.clock.phase("plan")
    path, python = request.path, project.target_python[0]
    with build.undone_on_failure(path, undo=partial(uv_module.remove_tree, path)):
        _start(work, interpreter)
        listed = path / f"pylock.{request.backend}.toml"
        listed.write_text(plan.to_toml(chosen, python=python), encoding="utf-8")
        work.progress(build.installing(chosen))
        with build.configured(project, chosen, path) as config:
            uv_module.install_plan(uv, plan=listed, python=generation.python_of(path), config=config, strict=False)
        work.clock.phase("install")
        planned = {package.name: package.version for package in chosen.packages}
        if request.verify is not Verify.NONE and (findings := _found_below(work, planned)):
            raise work.refusal(findings)
        work.clock.phase("gate")
        inventory.fix_times(path)
        manifest = {
            "backend": request.backend,
            "source": chosen.source,
            "python": str(interpreter),
            "inputs": inputs,
            "planned": planned,
            "created": time.time(),
            "inventory": inventory.snapshot(path),
        }
        layer.finish(path, manifest)
    return _done(work, chosen, foundation=True, notes=notes)


def _with_python(work: _Work) -> tuple[Project, Path]:
    """The project with the Python it is built for, and where that is: nothing but the lock would know another one."""
    project, uv, asked = work.project, work.uv, work.request.python
    path = uv_module.find_python(uv, asked or project.target_python[0])
    if asked is None:
        return project, path
    minor = ".".join(uv_module.python_version(uv, path).split(".")[:2])
    return replace(project, settings=replace(project.settings, python=minor)), path


def _foundation_inputs(project: Project, backend: str, interpreter: Path, *, platform: str) -> dict[str, str]:
    """Everything that decides what the first layer holds, each with its digest."""
    record = project.record(backend)
    chosen = project.settings.foundation
    parts: dict[str, object] = {
        "backend": backend,
        "channel": project.channel,
        "platform": platform,
        "python": str(interpreter.resolve()),
        project.overlay(backend).path: meaning(project.overlay(backend)),
        project.record_path(backend): None if record is None else digest_text(record),
        "[tool.mlenv.foundation]": [chosen.roots, chosen.include, chosen.exclude],
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def _require_inputs(request: Request, below: Foundation | None, inputs: dict[str, str]) -> None:
    """Raise where the first layer that is there was built from something else."""
    hint = f"build it anew: {request.again(only=Only.FOUNDATION, rebuild=True)}"
    if below is None:
        told = "holds a whole environment, built in one step"
        raise EnvironmentBuildError(told, path=request.environment.shown, hint=hint)
    names = sorted({*inputs, *below.inputs})
    differ = [name for name in names if inputs.get(name) != below.inputs.get(name)]
    if below.backend != request.backend:
        differ = [f"backend {below.backend}"]
    if differ:
        raise FindingError(
            f"the foundation that is there was built from another state of: {', '.join(differ)}",
            path=request.environment.shown,
            hint=hint,
        )


def _clear(path: Path) -> None:
    """Remove what stands there and is ours: asked for with ``--rebuild``, or never finished."""
    if layer.marked(path):
        uv_module.remove_tree(path)


def _start(work: _Work, interpreter: Path) -> None:
    """An empty environment that is marked as ours."""
    path = work.request.path
    _clear(path)
    uv_module.make_environment(work.uv, target=path, python=interpreter, prompt=work.project.root.name)
    layer.begin(path)
    generation.require_private(path, env=work.uv.env)
    work.clock.phase("venv")


def _found_below(work: _Work, planned: dict[str, str]) -> tuple[Finding, ...]:
    """The metadata gate on the foundation alone: what it requires of the Application is not there yet."""
    request = work.request
    found = inspection.inspect(
        work.project, request.path, backend=request.backend, planned=planned, machine=work.machine
    )
    return tuple(finding for finding in found if finding.kind != "requirement-missing")


def _complete(work: _Work) -> Outcome:
    request, project = work.request, work.project
    below, there = layer.read(request.path), generation.read(request.path)
    if request.rebuild:
        below, there = None, None
    elif request.only is Only.APPLICATION and below is None and there is None:
        raise EnvironmentBuildError(
            "there is no foundation to add to",
            path=request.environment.shown,
            hint=f"{request.again(only=Only.FOUNDATION)} first",
        )
    drift.require_current(project)
    python = request.python or (str(below.manifest["python"]) if below is not None else None)
    interpreter = footing.interpreter(project, work.uv, work.machine, asked=python)
    wanted = Wanted(
        backend=request.backend,
        interpreter=interpreter,
        extras=request.extras,
        verify=request.verify,
        image=True,
        below=None if below is None else _plan_of(below),
    )
    if there is not None:
        return _as_it_is(work, wanted, there)
    return _add_application(work, wanted, below) if below is not None else _build_whole(work, wanted)


def _plan_of(below: Foundation) -> Plan:
    text = below.listed.read_text(encoding="utf-8")
    return plan.from_toml(
        text, backend=below.backend, source=str(below.manifest["source"]), foundation=below.planned.keys()
    )


def _as_it_is(work: _Work, wanted: Wanted, there: Generation) -> Outcome:
    """Nothing to do where it is what was asked for. Raises EnvironmentBuildError where it is not."""
    request = work.request
    inputs = inputs_of(work.project, wanted, platform=work.machine.platform)
    differ = sorted(name for name in {*inputs, *there.inputs} if inputs.get(name) != there.inputs.get(name))
    changed = [f"it was built from another {', '.join(differ)}"] if differ else inspection.changed_since(there)
    if not changed:
        layer.end_adding(request.path)  # it was killed right after it was finished
        return _nothing(request, "environment")
    raise EnvironmentBuildError(
        f"the environment that is there is complete, and not what was asked for: {'; '.join(changed[:3])}",
        path=request.environment.shown,
        hint=f"build it anew: {request.again(rebuild=True)}",
    )


def _build_whole(work: _Work, wanted: Wanted) -> Outcome:
    chosen, notes = _plan(work, wanted)
    path = work.request.path
    with build.undone_on_failure(path, undo=partial(uv_module.remove_tree, path)):
        _clear(path)
        _install(work, wanted, chosen)
    return _done(work, chosen, foundation=False, notes=notes)


def _add_application(work: _Work, wanted: Wanted, below: Foundation) -> Outcome:
    request, path = work.request, work.request.path
    inputs = _foundation_inputs(work.project, request.backend, wanted.interpreter, platform=work.machine.platform)
    _require_inputs(request, below, inputs)
    if layer.take_away_half(path):
        work.progress("took away what an interrupted second step had added")
    _require_unchanged(request, below)
    chosen, notes = _plan(work, wanted)
    before = layer.begin_adding(path)
    with build.undone_on_failure(path, undo=partial(layer.remove_added, path, before)):
        _install(work, wanted, chosen)
        if touched := _written_below(path, before, below):
            shown = ", ".join(touched[:3])
            raise EnvironmentBuildError(
                f"the second layer wrote to files of the foundation: {shown}",
                path=request.environment.shown,
                hint=f"build both layers anew: {request.again(rebuild=True)}",
            )
    layer.end_adding(path)
    return _done(work, chosen, foundation=False, notes=notes)


def _require_unchanged(request: Request, below: Foundation) -> None:
    changed = inventory.drifted(below.manifest["inventory"], inventory.snapshot(request.path))
    if changed:
        raise FindingError(
            f"the foundation is not as it was built: {'; '.join(changed[:3])}",
            path=request.environment.shown,
            hint=f"build it anew: {request.again(only=Only.FOUNDATION, rebuild=True)}",
        )


def _plan(work: _Work, wanted: Wanted) -> tuple[Plan, tuple[str, ...]]:
    """The plan of the whole environment. Raises FindingError where it doesn't fit the foundation that is there."""
    request, below = work.request, wanted.below
    target = planning.Target(
        backend=request.backend,
        platform=work.machine.platform,
        interpreter=wanted.interpreter,
        elsewhere=False,
        extras=wanted.extras,
        below=below,
    )
    try:
        chosen, notes = planning.make_plan(work.project, work.uv, target)
    except ResolutionError as error:
        if below is None:
            raise
        raise _misfit(request, error.message) from error
    lacking = () if below is None else plan.beside(chosen, below).layer(plan.FOUNDATION)
    if lacking:
        told = ", ".join(f"{package.name} {package.version}" for package in lacking)
        raise _misfit(request, f"it lacks {told}, which the overlay's roots don't bring")
    work.clock.phase("plan")
    return chosen, notes


def _misfit(request: Request, reason: str) -> FindingError:
    nightly = "--nightly " if request.environment.channel == "nightly" else ""
    record = f"`mlenv foundation record {nightly}--backend {request.backend}`"
    anew = request.again(only=Only.FOUNDATION, rebuild=True)
    return FindingError(
        f"the lock does not fit the foundation that is there: {reason}",
        path=request.environment.shown,
        hint=f"{record} records the one that it needs; with that, build it anew: {anew}",
    )


def _install(work: _Work, wanted: Wanted, chosen: Plan) -> None:
    build.complete(
        work.project,
        work.uv,
        wanted,
        chosen,
        work.request.path,
        inputs=inputs_of(work.project, wanted, platform=work.machine.platform),
        machine=work.machine,
        refusal=work.refusal,
        clock=work.clock,
        progress=work.progress,
    )


def _written_below(path: Path, before: layer.Stamps, below: Foundation) -> list[str]:
    """The foundation's files that were written to; not one that an application brought too, with the same bytes."""
    held = inventory.owners(inventory.read(path).packages)
    return [
        name
        for name in layer.written(path, before)
        if name in held and all(package.name in below.planned for package, _ in held[name])
    ]


def _nothing(request: Request, what: str) -> Outcome:
    text = f"nothing to do: the {what} at {request.environment.shown} is there ({request.backend})"
    data = {"action": "nothing", "backend": request.backend, "environment": str(request.path)}
    return Outcome(text=text, data=data)


def _done(work: _Work, chosen: Plan, *, foundation: bool, notes: tuple[str, ...]) -> Outcome:
    request, seconds = work.request, work.clock.seconds
    counts = {name: len(chosen.layer(name)) for name in (plan.FOUNDATION, plan.APPLICATION)}
    torch, state = chosen.version("torch"), "the foundation" if foundation else "complete"
    rows = [
        ("backend", f"{request.backend} ({'; '.join(request.reasons)})" if request.reasons else request.backend),
        ("torch", f"{torch or 'none'} from the {chosen.source} index"),
        ("packages", ", ".join(f"{count} {name}" for name, count in counts.items() if count or not foundation)),
        ("seconds", ", ".join(f"{name} {value:.2f}" for name, value in seconds.items() if value >= 0.01)),
        ("environment", f"{request.path} ({state})"),
    ]
    if foundation:
        rows.append(("next", request.again(only=Only.APPLICATION).strip("`")))
    data: dict[str, Any] = {
        "action": "built",
        "layer": None if request.only is None else request.only.value,
        "complete": not foundation,
        "backend": request.backend,
        "reasons": list(request.reasons),
        "torch": torch,
        "source": chosen.source,
        "channel": work.project.channel,
        "packages": counts,
        "seconds": seconds,
        "environment": str(request.path),
    }
    text = "\n".join(f"{label:<12} {value}" for label, value in rows)
    findings = tuple(Finding(kind="note", message=note, severity="note") for note in notes)
    return Outcome(text=text, data=data, findings=findings)
