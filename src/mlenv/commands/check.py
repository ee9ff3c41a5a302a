"""``mlenv check``: the gate on the environment as it stands."""

from __future__ import annotations

from dataclasses import replace

from mlenv import build
from mlenv.errors import FindingError
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.selection import Environment
from mlenv.system import generation
from mlenv.system.generation import Generation


def check(project: Project, machine: Machine, environment: Environment) -> Outcome:
    """What drifted, was damaged or replaced since the environment was finished, by name; writes nothing.

    Raises FindingError where there is no environment of mlenv's.
    """
    name = environment.shown
    current = generation.current(environment.path)
    if current is None:
        raise FindingError(f"{name} {generation.unusable(environment.path)}", hint=f"run {environment.sync()}")
    mend = f"run {environment.sync(backend=current.backend, extras=current.extras, rebuild=True)}"
    drifted = tuple(
        Finding(kind="environment-drifted", message=f"{name}: {line}", hint=mend)
        for line in build.changed_since(current)
    )
    try:
        damaged = tuple(replace(finding, hint=mend) for finding in build.intact(project, current, machine))
    except OSError as error:
        raise FindingError(f"{name} can't be read: {error.strerror}", hint=mend) from error
    return _outcome(current, drifted + damaged, name=name)


def _outcome(current: Generation, findings: tuple[Finding, ...], *, name: str) -> Outcome:
    count = len(current.manifest.get("planned", {}))
    text = "" if findings else f"{name} is whole: {count} packages, backend {current.backend}"
    data = {"whole": not findings, "backend": current.backend, "packages": count, "generation": str(current.path)}
    return Outcome(text=text, data=data, findings=findings, exit_code=1 if findings else 0)
