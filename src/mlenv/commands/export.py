"""``mlenv export``: the lock, or foundation + lock for one backend, for other tools."""

from __future__ import annotations

from dataclasses import replace

from mlenv import build, drift, lockfile, plan
from mlenv.build import Wanted
from mlenv.errors import FindingError, UsageError
from mlenv.machine import Machine
from mlenv.plan import Plan
from mlenv.project import Project
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv


def export(project: Project, uv: Uv, *, form: str, backend: str | None, machine: Machine) -> str:
    """The text of the export. ``form`` is ``requirements.txt`` or ``pylock.toml``.

    Raises FindingError where the lock is missing or not current, UsageError for a pylock without a backend.
    """
    project = project.of_lock(backend) if backend is not None else project
    findings = drift.check_lock(project)
    if findings:
        told = "\n".join(f"  {finding}" for finding in findings[:6])
        raise FindingError(f"{project.settings.lock} is not current:\n{told}", hint=findings[0].hint)
    assert project.lock is not None
    assert project.lock_text is not None
    if backend is None:
        if form == "pylock.toml":
            raise UsageError("a pylock.toml lists the files of one backend", hint="add --backend B")
        return project.lock_text
    chosen = _plan(project, uv, backend, machine)
    if form == "pylock.toml":
        return plan.to_toml(chosen, python=project.target_python[0])
    return _requirements(project, chosen)


def _plan(project: Project, uv: Uv, backend: str, machine: Machine) -> Plan:
    interpreter = uv_module.find_python(uv, project.target_python[0])
    chosen, _ = build.make_plan(
        project, uv, Wanted(backend=backend, interpreter=interpreter), platform=machine.platform
    )
    return chosen


def _requirements(project: Project, chosen: Plan) -> str:
    """Every pin with its hashes; those of the foundation are of the files for this platform."""
    assert project.lock is not None
    foundation = [
        lockfile.Pin(name=package.name, version=package.version, hashes=_hashes(package))
        for package in chosen.layer(plan.FOUNDATION)
    ]
    application = [replace(pin, via=()) for pin in project.lock.pins]
    head = (
        f"# foundation ({chosen.backend}, from the {chosen.source} index) and application, exported by mlenv\n"
        f"# install with: pip install --require-hashes -r FILE\n"
    )
    return head + lockfile.render_pins([*foundation, *application])


def _hashes(package: plan.Planned) -> tuple[str, ...]:
    files = [
        *package.table.get("wheels", []),
        *filter(None, [package.table.get("sdist"), package.table.get("archive")]),
    ]
    return tuple(sorted(f"sha256:{file['hashes']['sha256']}" for file in files))
