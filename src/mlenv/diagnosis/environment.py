"""The environment as it stands: whole, current, and what interrupted builds left beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlenv import drift, inspection
from mlenv.catalogue import is_nightly
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Area, Finding
from mlenv.selection import Environment
from mlenv.system import generation, git
from mlenv.system.generation import Generation
from mlenv.wanted import Wanted, inputs_of, key_of

_SHOWN = 8


def examine(project: Project, machine: Machine, environment: Environment) -> Area:
    """The gate's metadata level on the environment, whether it fits the lock, leftovers. Raises OSError."""
    left = (*_leftovers(project), *_unignored(project))
    current = generation.current(environment.path)
    if current is None:
        absent = _absent(environment)
        return Area(name="environment", seen=environment.shown, findings=(absent, *left))
    if _is_nightly(project, current):
        project, environment = project.of_channel("nightly"), replace(environment, channel="nightly")
    findings = (*_damaged(project, machine, environment, current), *_stale(project, machine, environment, current))
    count = len(current.manifest.get("planned", {}))
    seen = f"{environment.shown}, {current.backend}, {count} packages"
    return Area(name="environment", seen=seen, findings=(*findings, *left))


def _is_nightly(project: Project, current: Generation) -> bool:
    """Whether it was built with ``--nightly``; an overlay of the stable channel may pin a nightly, too."""
    there = project.of_channel("nightly").nightly_overlay(current.backend) is not None
    return there and is_nightly(str(current.manifest.get("torch", "")))


def _absent(environment: Environment) -> Finding:
    """None yet is how every project begins; a broken or a foreign one is in the way."""
    begins = not environment.path.is_symlink() and not environment.path.exists()
    return Finding(
        kind="environment-missing" if begins else "environment-unusable",
        message=f"{environment.shown} {generation.unusable(environment.path)}",
        hint=f"{environment.sync()} builds it" + ("" if begins else "; a foreign one is moved aside, never deleted"),
        severity="note" if begins else "warning",
    )


def _damaged(project: Project, machine: Machine, environment: Environment, current: Generation) -> Iterator[Finding]:
    mend = f"run {environment.sync(backend=current.backend, extras=current.extras, rebuild=True)}"
    for line in inspection.changed_since(current)[:_SHOWN]:
        yield Finding(kind="environment-drifted", message=f"{environment.shown}: {line}", hint=mend)
    found = inspection.intact(project, current, machine)
    yield from (replace(finding, hint=mend) for finding in found[:_SHOWN])
    if len(found) > _SHOWN:
        more = f"{environment.shown}: {len(found) - _SHOWN} more; `mlenv check` lists all"
        yield Finding(kind="environment-drifted", message=more, hint=mend)


def _stale(project: Project, machine: Machine, environment: Environment, current: Generation) -> Iterator[Finding]:
    """Whether ``sync`` would build another one for the same backend; a lock that isn't current is told elsewhere."""
    if current.backend not in project.overlays:
        message = f"{environment.shown} is for {current.backend}, which has no overlay any more"
        hint = f"run {environment.sync()}"
        yield Finding(kind="environment-stale", message=message, hint=hint, severity="warning")
        return
    seen = project.of_lock(current.backend)
    if drift.check_lock(seen):
        return
    interpreter = Path(str(current.manifest.get("python", "")))
    if not interpreter.is_file():
        return
    wanted = Wanted(
        backend=current.backend, interpreter=interpreter, extras=current.extras, layout=project.settings.layout
    )
    if key_of(inputs_of(seen, wanted, platform=machine.platform)) == current.key:
        return
    yield Finding(
        kind="environment-stale",
        message=f"{environment.shown} was built from other inputs than the lock and overlays of now",
        why="programs run with yesterday's packages",
        hint=f"run {environment.sync(backend=current.backend, extras=current.extras)}",
        severity="warning",
    )


def _leftovers(project: Project) -> Iterator[Finding]:
    names = [path.name for path in generation.unfinished(project.state)]
    if names:
        yield Finding(
            kind="environment-leftovers",
            message=f"interrupted builds left {', '.join(names)} in .mlenv/gen",
            why="they take room; one of them may be a build that runs now",
            hint="`mlenv sync` removes them",
            severity="note",
        )


def _unignored(project: Project) -> Iterator[Finding]:
    """Environments in the repository that git would take: members that came after `mlenv init` had no lines there."""
    members = [member.settings for member in project.workspace.members if not member.group]
    places = sorted({re.sub(r"\{[^}]*\}", "x", one.environment) for one in members or [project.settings]})
    inside = [place for place in places if not Path(place).is_absolute() and ".." not in Path(place).parts]
    found = git.unignored(project.root, inside, env=project.environ) if inside else []
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Finding(
            kind="environment-unignored",
            message=f".gitignore does not have {found[0]}{more}",
            why="`git add` and the context of an image would take an environment in",
            hint="`mlenv init` adds the lines to .gitignore and .dockerignore",
            severity="note",
        )
