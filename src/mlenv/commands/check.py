"""``mlenv check``: the gate on the environment as it stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlenv import build
from mlenv.errors import FindingError
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.system import generation


def check(project: Project, machine: Machine, environment: Path) -> Outcome:
    """What drifted, was damaged or replaced since the environment was finished, by name; writes nothing."""
    current = generation.current(environment)
    if current is None:
        raise FindingError(f"{environment.name} {generation.unusable(environment)}", hint="run `mlenv sync`")
    mend = f"run `mlenv sync --backend {current.backend} --rebuild`"
    drifted = tuple(
        Finding(kind="environment-drifted", message=f"{environment.name}: {line}", hint=mend)
        for line in build.changed_since(current)
    )
    try:
        damaged = tuple(replace(finding, hint=mend) for finding in build.intact(project, current, machine))
        count = len(current.manifest.get("planned", {}))
    except OSError as error:
        raise FindingError(f"{environment.name} can't be read: {error.strerror}", hint=mend) from error
    findings = drifted + damaged
    text = "" if findings else f"{environment.name} is whole: {count} packages, backend {current.backend}"
    data = {"whole": not findings, "backend": current.backend, "packages": count, "generation": str(current.path)}
    return Outcome(text=text, data=data, findings=findings, exit_code=1 if findings else 0)
