"""``mlenv sync``: make the environment be exactly foundation + lock for one backend."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlenv import drift, standing
from mlenv.clock import Clock
from mlenv.machine import Machine
from mlenv.project import Project, read_text
from mlenv.report import Finding, Outcome
from mlenv.standing import Request, State
from mlenv.system import generation, in_use
from mlenv.system.files import project_lock, write_atomically
from mlenv.system.flip import flip, place_aside
from mlenv.system.generation import Generation
from mlenv.system.uv import Uv

if TYPE_CHECKING:
    from mlenv.locking import NewLock
    from mlenv.plan import Plan

Progress = Callable[[str], None]


def sync(
    project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Progress, detail: Progress
) -> Outcome:
    """Build, flip, or do nothing; ``detail`` is told what few want to know.

    Raises FindingError for a stale lock, and what planning and building raise."""
    clock = Clock()
    project = project.of_lock(request.backend)
    if (state := _in_sync(project, uv, machine, request)) is not None:
        return _nothing(state)
    with project_lock(project.state, wait=request.wait, waiting=progress):
        project = _as_it_is_now(project)
        project = _with_lock(project, uv, request, progress=progress).with_groups(_groups(project, request))
        project = _with_nightly(project, uv, request, progress=progress)
        standing.sweep(project, progress=progress)
        state = standing.look(project, uv, machine, request)
        clock.phase("look")
        notes: list[str] = []
        chosen = None if request.rebuild else standing.reusable(state, progress=progress)
        if chosen is not None and standing.is_current(state, chosen):
            return _nothing(state)
        action = "flipped" if chosen is not None else "built"
        if chosen is None:
            from mlenv import renew  # with all that builds, which nobody else pays for

            chosen, notes = renew.build_anew(state, clock=clock, progress=progress, detail=detail)
        left = _put_in_by_hand(state, chosen) if action == "built" else ()
        placed = flip(project.state, request.environment.path, chosen, env=uv.env)
        generation.prune(project.state, keep=request.keep or project.settings.keep, current=placed.generation)
        clock.phase("flip")
    if state.current is not None and state.current.layout == "directory" and in_use.leased(project.state):
        what = f"what it imports now is {request.environment.shown}'s new files"
        notes.append(f"a command of `mlenv run` is still running, and {what}")
    if placed.aside is not None:
        notes.append(_moved(request, placed.aside, "was moved"))
    findings = (*_as_notes(tuple(notes)), *_left_behind(state, left))
    return _done(state, placed.generation, action=action, clock=clock, findings=findings)


def _moved(request: Request, aside: Path, how: str) -> str:
    to = aside if request.environment.asked else aside.name
    return f"{request.environment.shown} was not made by mlenv; it {how} to {to}"


def _put_in_by_hand(state: State, chosen: Generation) -> tuple[str, ...]:
    """What somebody put into the environment by hand and the new one lacks: paths in it."""
    if state.current is None:
        return ()
    from mlenv.system import by_hand

    return by_hand.put_in(state.current, chosen.path)


def _left_behind(state: State, left: tuple[str, ...]) -> tuple[Finding, ...]:
    """A warning of what somebody put into the environment by hand, and where it is now."""
    if state.current is None or not left:
        return ()
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    old = next((g.path for g in generation.finished(state.project.state) if g.id == state.current.id), None)
    kept = f"is in {old.relative_to(state.project.root).as_posix()} still" if old else "went with the old one"
    told = f"the new {state.request.environment.shown} lacks what was put into the old one by hand, which {kept}"
    return (Finding(kind="left-behind", message=f"{told}: {', '.join(left[:3])}{more}", severity="warning"),)


def _in_sync(project: Project, uv: Uv, machine: Machine, request: Request) -> State | None:
    """What stands, where there is nothing to do: that needs neither the project's lock nor what builds."""
    if request.rebuild or _lacks_nightly(project, request) or standing.unswept(project):
        return None
    groups = _groups(project, request)
    if not all(map(drift.is_current, (project, *groups))):
        return None  # somebody may be writing it
    state = standing.look(project.with_groups(groups), uv, machine, request)
    return state if standing.untouched(state) else None


def check(project: Project, machine: Machine, uv: Uv, request: Request) -> Outcome:
    """Whether the environment is what ``sync`` would make of it; writes nothing."""
    project = project.of_lock(request.backend)
    groups = _groups(project, request)
    findings = tuple(finding for part in (project, *groups) for finding in drift.check_lock(part))
    if not findings:
        findings = standing.differences(standing.look(project.with_groups(groups), uv, machine, request))
    text = "" if findings else f"{request.environment.shown} is in sync ({request.backend})"
    return Outcome(text=text, data={"in_sync": not findings}, findings=findings, exit_code=1 if findings else 0)


def dry_run(
    project: Project, uv: Uv, machine: Machine, request: Request, *, progress: Progress, detail: Progress
) -> Outcome:
    """What ``sync`` would do; writes nothing."""
    project = project.of_lock(request.backend)
    if project.lock_text is None and not request.locked:
        from mlenv import locking

        made = _made_here(project, locking.make_all(project.of_all, uv, locking.Wish(), progress=progress))
        text = f"would make {project.settings.lock} ({len(made.pins)} packages), then build {request.environment.shown}"
        return Outcome(text=text, data={"action": "lock", "backend": request.backend})
    groups = _groups(project, request)
    for part in (project, *groups):
        drift.require_current(part)
    project = project.with_groups(groups)
    if _lacks_nightly(project, request):
        from datetime import date

        from mlenv import nightly

        found = nightly.find(project, uv, request.backend, today=date.today(), progress=progress)
        text = f"would write {found.overlay.path} (torch {found.family.torch}), then build {request.environment.shown}"
        return Outcome(text=text, data={"action": "nightly", "backend": request.backend, **found.family.as_json()})
    state = standing.look(project, uv, machine, request)
    intact = None if request.rebuild or request.described else standing.reusable(state, progress=progress)
    if intact is not None and standing.is_current(state, intact):
        return _nothing(state)
    aside = None if request.described else place_aside(request.environment.path)
    moved = () if aside is None else (_moved(request, aside, "would be moved"),)
    if intact is not None:
        text = f"would flip {request.environment.shown} to the {request.backend} environment built before"
        data: dict[str, Any] = {"action": "flip", "backend": request.backend}
        return Outcome(text=text, data=data, findings=_as_notes(moved))
    if state.current is not None and not standing.of_these_inputs(state, state.current) and not request.described:
        progress(standing.differences(state)[0].message)
    from mlenv import renew

    chosen, notes = renew.make_plan(state, detail=detail)
    before = {} if state.current is None or request.described else dict(state.current.manifest.get("planned", {}))
    lines = _plan_difference(before, chosen)
    head = f"would build {request.environment.shown} for {request.backend}: {len(chosen.packages)} packages"
    data = {"action": "build", "backend": request.backend, "packages": _packages(chosen)}
    return Outcome(text="\n".join([head, *request.reasons, *lines]), data=data, findings=_as_notes((*moved, *notes)))


def _as_it_is_now(project: Project) -> Project:
    """The project, without what was read before its lock was held where another mlenv wrote the lock meanwhile."""
    now = read_text(project.lock_path, shown=project.settings.lock)
    return project if now == project.lock_text else replace(project)


def _with_lock(project: Project, uv: Uv, request: Request, *, progress: Progress) -> Project:
    """The project with a current lock: a missing one is made, a stale one refused."""
    if project.lock_text is None and not request.locked:
        from mlenv import locking

        makes = "the workspace's locks" if project.workspace.members else "it"
        progress(f"there is no {project.settings.lock} yet; making {makes}")
        if project.workspace.members:
            _lock_all(project.of_all, uv, request, held=project.member is None, progress=progress)
            return replace(project)
        preferred = project.main_pins if project.alone is not None else ()
        made = locking.make(project, uv, locking.Wish(), progress=progress, preferred=preferred)
        write_atomically(project.lock_path, made.text, staging=project.state)
        return replace(project)  # without what was read before
    for part in (project, *_groups(project, request)):
        drift.require_current(part)
    return project


def _lock_all(whole: Project, uv: Uv, request: Request, *, held: bool, progress: Progress) -> None:
    """Every lock of a workspace: a member's is a part of one resolution. ``held``: so is the root's project lock."""
    from mlenv import locking

    with nullcontext() if held else project_lock(whole.state, wait=request.wait, waiting=progress):
        for part, new in locking.make_all(whole, uv, locking.Wish(), progress=progress):
            write_atomically(part.lock_path, new.text, staging=whole.state)


def _made_here(project: Project, made: Iterable[tuple[Project, NewLock]]) -> NewLock:
    """Of all locks of a workspace the one that serves this project."""
    return next(new for part, new in made if part.settings.lock == project.settings.lock)


def _groups(project: Project, request: Request) -> tuple[Project, ...]:
    """The development lists that are asked for, as their locks see them. Raises UsageError."""
    views = project.of_groups(request.groups) if request.groups else ()
    return tuple(view.of_lock(request.backend) for view in views)


def _with_nightly(project: Project, uv: Uv, request: Request, *, progress: Progress) -> Project:
    """The project with pins for the nightly channel, where that is asked for: missing ones are found and written."""
    if not _lacks_nightly(project, request):
        return project
    from datetime import date

    from mlenv import nightly

    found = nightly.find(project, uv, request.backend, today=date.today(), progress=progress)
    nightly.write(project, found)
    progress(f"wrote {found.overlay.path} and {found.record_path}: torch {found.family.torch}")
    return replace(project)


def _lacks_nightly(project: Project, request: Request) -> bool:
    """Whether the nightly channel has no pins yet and may get some."""
    if project.channel == "stable" or project.nightly_overlay(request.backend) is not None:
        return False
    return not request.locked


def _nothing(state: State) -> Outcome:
    request = state.request
    text = f"nothing to do: {request.environment.shown} is in sync ({request.backend})"
    data = {"action": "nothing", "backend": request.backend, "environment": str(request.environment.path)}
    return Outcome(text=text, data=data)


def _done(state: State, built: Generation, *, action: str, clock: Clock, findings: tuple[Finding, ...]) -> Outcome:
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


def _recorded(state: State) -> str:
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
    from mlenv import plan

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
