"""``mlenv sync``: make the environment be exactly foundation + lock for one backend."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from mlenv import build, drift, footing, gate, locking, nightly, plan, planning, unbundle
from mlenv.build import Clock, Verify, Wanted
from mlenv.errors import MlenvError, PackageIndexError
from mlenv.locking import Wish
from mlenv.machine import Machine
from mlenv.plan import Plan
from mlenv.project import Project, read_text
from mlenv.report import Finding, Outcome
from mlenv.selection import Environment
from mlenv.system import by_hand, generation, in_use
from mlenv.system import uv as uv_module
from mlenv.system.files import project_lock, write_atomically
from mlenv.system.flip import flip
from mlenv.system.generation import Generation
from mlenv.system.uv import Uv

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of ``sync``. ``reasons`` say why ``backend`` was chosen.

    ``described``: the machine is another one than this, so what stands here counts for nothing. ``keep``: how many
    generations stay, where that was asked for. ``bundle`` is the folder that everything comes from.
    """

    backend: str
    reasons: tuple[str, ...]
    environment: Environment
    python: str | None = None
    extras: tuple[str, ...] = ()
    verify: Verify = Verify.AUTO
    rebuild: bool = False
    locked: bool = False
    described: bool = False
    wait: float = 600.0
    keep: int | None = None
    bundle: Path | None = None

    def again(self, *, rebuild: bool = False) -> str:
        """The command that asks the same, for hints."""
        return self.environment.sync(backend=self.backend, python=self.python, extras=self.extras, rebuild=rebuild)


@dataclass(frozen=True, kw_only=True)
class _State:
    """Everything known before anything is built."""

    project: Project
    uv: Uv
    machine: Machine
    request: Request
    wanted: Wanted
    inputs: Mapping[str, str]
    current: Generation | None
    candidates: tuple[Generation, ...]
    opened: unbundle.Opened | None = None


def sync(
    project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Progress, detail: Progress
) -> Outcome:
    """Build, flip, or do nothing; ``detail`` is told what few want to know.

    Raises FindingError for a stale lock, and what planning and building raise."""
    clock = Clock()
    project = project.of_lock(request.backend)
    with project_lock(project.state, wait=request.wait, waiting=progress):
        project = _as_it_is_now(project)
        project = _with_lock(project, uv, request, progress=progress)
        project = _with_nightly(project, uv, request, progress=progress)
        build.sweep(project, progress=progress)
        state = _look(project, uv, machine, request)
        clock.phase("look")
        notes: list[str] = []
        chosen = None if request.rebuild else _reusable(state, progress=progress)
        if chosen is not None and state.current is not None and chosen.path == state.current.path:
            return _nothing(state)
        action = "flipped" if chosen is not None else "built"
        if chosen is None:
            chosen, notes = _build(state, clock=clock, progress=progress, detail=detail)
        replaced = state.current if action == "built" else None
        left = by_hand.put_in(replaced, chosen.path) if replaced is not None else ()
        placed = flip(project.state, request.environment.path, chosen, env=uv.env)
        generation.prune(project.state, keep=request.keep or project.settings.keep, current=placed.generation)
        clock.phase("flip")
    if state.current is not None and state.current.layout == "directory" and in_use.leased(project.state):
        what = f"what it imports now is {request.environment.shown}'s new files"
        notes.append(f"a command of `mlenv run` is still running, and {what}")
    if placed.aside is not None:
        to = placed.aside if request.environment.asked else placed.aside.name
        notes.append(f"{request.environment.shown} was not made by mlenv; it was moved to {to}")
    behind = _left_behind(state, left) if left else ()
    return _done(state, placed.generation, action=action, clock=clock, findings=(*_as_notes(tuple(notes)), *behind))


def _left_behind(state: _State, left: tuple[str, ...]) -> tuple[Finding, ...]:
    """A warning of what somebody put into the environment by hand, and where it is now."""
    assert state.current is not None
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    old = next((g.path for g in generation.finished(state.project.state) if g.id == state.current.id), None)
    kept = f"is in {old.relative_to(state.project.root).as_posix()} still" if old else "went with the old one"
    told = f"the new {state.request.environment.shown} lacks what was put into the old one by hand, which {kept}"
    return (Finding(kind="left-behind", message=f"{told}: {', '.join(left[:3])}{more}", severity="warning"),)


def check(project: Project, machine: Machine, uv: Uv, request: Request) -> Outcome:
    """Whether the environment is what ``sync`` would make of it; writes nothing."""
    project = project.of_lock(request.backend)
    findings = drift.check_lock(project)
    if not findings:
        findings = _differences(_look(project, uv, machine, request))
    text = "" if findings else f"{request.environment.shown} is in sync ({request.backend})"
    return Outcome(text=text, data={"in_sync": not findings}, findings=findings, exit_code=1 if findings else 0)


def dry_run(
    project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Progress, detail: Progress
) -> Outcome:
    """What ``sync`` would do; writes nothing."""
    project = project.of_lock(request.backend)
    if project.lock_text is None and not request.locked:
        made = locking.make(project, uv, Wish(), progress=progress)
        text = f"would make {project.settings.lock} ({len(made.pins)} packages), then build {request.environment.shown}"
        return Outcome(text=text, data={"action": "lock", "backend": request.backend})
    drift.require_current(project)
    if _lacks_nightly(project, request):
        found = nightly.find(project, uv, request.backend, today=date.today(), progress=progress)
        text = f"would write {found.overlay.path} (torch {found.family.torch}), then build {request.environment.shown}"
        return Outcome(text=text, data={"action": "nightly", "backend": request.backend, **found.family.as_json()})
    state = _look(project, uv, machine, request)
    intact = None if request.rebuild or request.described else _reusable(state, progress=progress)
    if intact is not None and state.current is not None and intact.path == state.current.path:
        return _nothing(state)
    if intact is not None:
        text = f"would flip {request.environment.shown} to the {request.backend} environment built before"
        return Outcome(text=text, data={"action": "flip", "backend": request.backend})
    if state.current is not None and state.current.key != build.key_of(state.inputs) and not request.described:
        progress(_differences(state)[0].message)
    chosen, notes = _plan(state, detail=detail)
    before = {} if state.current is None or request.described else dict(state.current.manifest.get("planned", {}))
    lines = _plan_difference(before, chosen)
    head = f"would build {request.environment.shown} for {request.backend}: {len(chosen.packages)} packages"
    data = {"action": "build", "backend": request.backend, "packages": _packages(chosen)}
    return Outcome(text="\n".join([head, *request.reasons, *lines]), data=data, findings=_as_notes(notes))


def _as_it_is_now(project: Project) -> Project:
    """The project, without what was read before its lock was held where another mlenv wrote the lock meanwhile."""
    now = read_text(project.lock_path, shown=project.settings.lock)
    return project if now == project.lock_text else replace(project)


def _with_lock(project: Project, uv: Uv, request: Request, *, progress: Progress) -> Project:
    """The project with a current lock: a missing one is made, a stale one refused."""
    if project.lock_text is None and not request.locked:
        progress(f"there is no {project.settings.lock} yet; making it")
        preferred = project.main_pins if project.alone is not None else ()
        made = locking.make(project, uv, Wish(), progress=progress, preferred=preferred)
        write_atomically(project.lock_path, made.text, staging=project.state)
        return replace(project)  # without what was read before
    drift.require_current(project)
    return project


def _with_nightly(project: Project, uv: Uv, request: Request, *, progress: Progress) -> Project:
    """The project with pins for the nightly channel, where that is asked for: missing ones are found and written."""
    if not _lacks_nightly(project, request):
        return project
    found = nightly.find(project, uv, request.backend, today=date.today(), progress=progress)
    nightly.write(project, found)
    progress(f"wrote {found.overlay.path} and {found.record_path}: torch {found.family.torch}")
    return replace(project)


def _lacks_nightly(project: Project, request: Request) -> bool:
    """Whether the nightly channel has no pins yet and may get some."""
    if project.channel == "stable" or project.nightly_overlay(request.backend) is not None:
        return False
    return not request.locked


def _look(project: Project, uv: Uv, machine: Machine, request: Request) -> _State:
    wanted = Wanted(
        backend=request.backend,
        interpreter=footing.interpreter(project, uv, machine, asked=request.python, described=request.described),
        extras=request.extras,
        verify=request.verify,
        layout=project.settings.layout,
        bundle=None if request.bundle is None else request.bundle.resolve(),
    )
    inputs = build.inputs_of(project, wanted, platform=machine.platform)
    key = build.key_of(inputs)
    known = generation.known(project.state, request.environment.path)
    return _State(
        project=project,
        uv=uv,
        machine=machine,
        request=request,
        wanted=wanted,
        inputs=inputs,
        current=generation.current(request.environment.path),
        candidates=tuple(g for g in known if g.key == key and _trusted(g, request)),
        opened=_opened(project, machine, request),
    )


def _opened(project: Project, machine: Machine, request: Request) -> unbundle.Opened | None:
    """The bundle's part for this environment, where one is asked for. Raises as ``unbundle.open_bundle``."""
    if request.bundle is None:
        return None
    return unbundle.open_bundle(
        project,
        request.bundle,
        backend=request.backend,
        platform=machine.platform,
        inputs=build.shared_inputs_of(project, request.backend, platform=machine.platform),
        names=_called(project, request),
    )


def _called(project: Project, request: Request) -> dict[str, str]:
    """What an input is called in a message, where it is a file."""
    return {
        "overlay": project.overlay(request.backend).path,
        "lock": project.settings.lock,
        "record": project.record_path(request.backend),
    }


def _trusted(found: Generation, request: Request) -> bool:
    """What was built with ``--verify none`` does for nobody who did not ask for it."""
    return request.verify is Verify.NONE or bool(found.manifest.get("verified", True))


def _reusable(state: _State, *, progress: Progress) -> Generation | None:
    """A finished generation with the same inputs that nobody changed since; the current one first."""
    order = sorted(state.candidates, key=lambda g: state.current is None or g.path != state.current.path)
    for position, candidate in enumerate(order):
        is_current = state.current is not None and candidate.path == state.current.path
        changed = build.changed_since(candidate)
        if not changed and not is_current:  # nobody has looked at it since it was left
            changed = tuple(finding.message for finding in build.intact(state.project, candidate, state.machine))
        if not changed:
            return candidate
        if position == 0:
            moved = candidate.moved_from is not None
            what = "was built elsewhere" if moved else "was changed behind mlenv's back"
            progress(f"the environment {what} and is replaced:")
            for line in changed[:8]:
                progress(f"  {line}")
    return None


def _differences(state: _State) -> tuple[Finding, ...]:
    request, current = state.request, state.current
    hint, name = f"run {request.again()}", request.environment.shown
    if current is None:
        what = generation.unusable(request.environment.path)
        return (Finding(kind="environment-missing", message=f"{name} {what}", hint=hint),)
    if current.key != build.key_of(state.inputs):
        message = f"{name} was built from other inputs{_told_apart(current, state)}"
        if current.backend != request.backend:
            message += f"; {request.backend} is what it should be: {'; '.join(request.reasons)}"
            hint += f", or check what is there: `mlenv sync --check --backend {current.backend}`"
        return (Finding(kind="environment-stale", message=message, hint=hint),)
    changed = build.changed_since(current)
    return tuple(Finding(kind="environment-drifted", message=f"{name}: {line}", hint=hint) for line in changed)


def _told_apart(current: Generation, state: _State) -> str:
    """The inputs that differ, in brackets; what the command line chooses with what was built."""
    differ = {name for name in {*state.inputs, *current.inputs} if state.inputs.get(name) != current.inputs.get(name)}
    if "backend" in differ:
        differ -= {"overlay", "record"}  # each backend has its own
    words = {
        "backend": f"backend {current.backend}",
        "additions": f"with {', '.join(current.extras) or 'no additions'}",
        **_called(state.project, state.request),
    }
    told = [words.get(name, name) for name in sorted(differ)]
    return f" ({', '.join(told)})" if told else ""


def _build(state: _State, *, clock: Clock, progress: Progress, detail: Progress) -> tuple[Generation, list[str]]:
    if state.opened is not None:
        return _build_bundled(state, state.opened, clock=clock, progress=progress), []
    saved = next((p for p in map(build.saved_plan, state.candidates) if p is not None), None)
    if saved is not None:
        try:
            return _build_planned(state, saved, clock=clock, progress=progress), []
        except PackageIndexError as error:  # its URLs may be those of yesterday's mirror
            if state.uv.offline:
                raise
            progress(f"the plan of the last build can't be had any more: {error.message.splitlines()[0]}")
    progress(f"resolving the foundation for {state.request.backend}")
    chosen, notes = _plan(state, detail=detail)
    try:
        return _build_planned(state, chosen, clock=clock, progress=progress), list(notes)
    except PackageIndexError as error:  # resolved by a cached page of the index, which then lacks a file
        overlay = state.project.overlay(state.request.backend)
        expired = planning.expired(state.project, state.uv, overlay, error)
        if expired is None:
            raise
        raise expired from error


def _build_bundled(state: _State, opened: unbundle.Opened, *, clock: Clock, progress: Progress) -> Generation:
    chosen = unbundle.plan_for(state.project, opened)
    try:
        return _build_planned(state, chosen, clock=clock, progress=progress)
    except MlenvError:
        unbundle.require_whole(opened, chosen)
        raise


def _plan(state: _State, *, detail: Progress) -> tuple[Plan, tuple[str, ...]]:
    """A new plan; as far as the indexes tell, nothing of the foundation overwrites another's files."""
    if state.opened is not None:
        return unbundle.plan_for(state.project, state.opened), ()
    target = planning.Target(
        backend=state.request.backend,
        platform=state.machine.platform,
        interpreter=state.wanted.interpreter,
        elsewhere=state.request.described,
        extras=state.wanted.extras,
    )
    chosen, notes = planning.make_plan(state.project, state.uv, target)
    if state.wanted.verify is not Verify.NONE:
        planning.refuse_collisions(state.project, state.uv, chosen, detail=detail)
    return chosen, notes


def _build_planned(state: _State, chosen: Plan, *, clock: Clock, progress: Progress) -> Generation:
    clock.phase("plan")
    return build.build(
        state.project,
        state.uv,
        state.wanted,
        chosen,
        inputs=state.inputs,
        machine=state.machine,
        refusal=partial(
            gate.failure,
            rebuild=state.request.again(rebuild=True),
            clean=partial(uv_module.cache_clean, state.uv),
            stands=state.request.environment.path.exists(),
        ),
        clock=clock,
        progress=progress,
    )


def _nothing(state: _State) -> Outcome:
    request = state.request
    text = f"nothing to do: {request.environment.shown} is in sync ({request.backend})"
    data = {"action": "nothing", "backend": request.backend, "environment": str(request.environment.path)}
    return Outcome(text=text, data=data)


def _done(state: _State, built: Generation, *, action: str, clock: Clock, findings: tuple[Finding, ...]) -> Outcome:
    manifest, request = built.manifest, state.request
    foundation = len(manifest["foundation"])
    application = len(manifest["planned"]) - foundation
    seconds = {name: value for name, value in clock.seconds.items() if value >= 0.01}
    rows = [
        ("backend", f"{request.backend} ({'; '.join(request.reasons)})" if request.reasons else request.backend),
        ("torch", f"{manifest['torch'] or 'none'} from the {manifest['source']} index{_recorded(state)}"),
        ("packages", f"{foundation} foundation, {application} application"),
        ("seconds", ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())),
        ("environment", f"{request.environment.path} ({action})"),
        ("activate", _activation(request.environment.path)),
    ]
    data: dict[str, Any] = {
        "action": action,
        "backend": request.backend,
        "reasons": list(request.reasons),
        "torch": manifest["torch"],
        "source": manifest["source"],
        "channel": state.project.channel,
        "packages": {"foundation": foundation, "application": application},
        "seconds": clock.seconds,
        "environment": str(request.environment.path),
        "generation": str(built.path),
        "python": manifest["python"],
    }
    text = "\n".join(f"{label:<12} {value}" for label, value in rows)
    return Outcome(text=text, data=data, findings=findings)


def _recorded(state: _State) -> str:
    record = state.project.record(state.request.backend)
    return "" if record is None else f", as {record.path} records it ({record.recorded})"


def _activation(environment: Path) -> str:
    scripts = generation.scripts_of(environment)
    if scripts.name != "bin":
        return str(scripts / "activate.bat")
    return f"source {shlex.quote(str(scripts / 'activate'))}"


def _as_notes(notes: tuple[str, ...]) -> tuple[Finding, ...]:
    return tuple(Finding(kind="note", message=note, severity="note") for note in notes)


def _packages(chosen: Plan) -> dict[str, dict[str, str]]:
    return {
        layer: {package.name: package.version for package in chosen.layer(layer)}
        for layer in (plan.FOUNDATION, plan.APPLICATION)
    }


def _plan_difference(before: dict[str, str], chosen: Plan) -> list[str]:
    after = {package.name: package.version for package in chosen.packages}
    lines = [f"+ {name} {after[name]}" for name in sorted(after.keys() - before.keys())]
    lines += [f"- {name} {before[name]}" for name in sorted(before.keys() - after.keys())]
    moved = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return lines + [f"~ {name} {before[name]} → {after[name]}" for name in moved]
