"""``mlenv export``: the lock, or foundation + lock for one backend, for other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlenv import drift, lockfile, plan, planning
from mlenv.errors import FindingError, UsageError
from mlenv.location import CONSTRAINTS
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
    missing = "".join(f"# {line}\n" for line in left_out(project))
    if form == "pylock.toml":
        return missing + plan.to_toml(chosen, python=project.target_python[0])
    return missing + _requirements(project, chosen)


def left_out(project: Project) -> tuple[str, ...]:
    """What is in no export, one sentence each: the local projects, as nothing says what their hash would be."""
    return tuple(
        f"not in this file: {local.written} (a local project; install it with pip install --no-deps)"
        for local in project.requirements.local_projects
    )


def require_free(project: Project, output: Path) -> None:
    """Raise UsageError where ``output`` is an input of the project, its lock, or nothing that a file can be put at."""
    elsewhere = "name another file, or leave -o out: the export goes to standard output"
    if not output.parent.is_dir():
        raise UsageError(f"-o {output}: the folder {output.parent} does not exist", hint="make it first")
    if output.exists() and not output.is_file():
        raise UsageError(f"-o {output} is no regular file", hint=elsewhere)
    target = output.resolve()
    for path, what in _own_files(project).items():
        if target == path.resolve():
            raise UsageError(f"-o {output} would overwrite {what} of this project", hint=elsewhere)
    if target.is_relative_to((project.root / CONSTRAINTS).resolve()):
        raise UsageError(f"-o {output} is in {CONSTRAINTS}/, which holds the overlays", hint=elsewhere)


def _own_files(project: Project) -> dict[Path, str]:
    """Every file that the project is read from, and what it is."""
    found = {file.path: f"the {file.kind}s file" for file in project.requirements.files}
    found |= {local.metadata_path: "a local project" for local in project.requirements.local_projects}
    found |= {overlay.path: "an overlay" for overlay in project.overlays.values()}
    found |= {project.settings.lock: "the lock", "pyproject.toml": "the settings", "uv.toml": "the indexes"}
    return {project.root / path: what for path, what in found.items()}


def _plan(project: Project, uv: Uv, backend: str, machine: Machine) -> Plan:
    interpreter = uv_module.find_python(uv, project.target_python[0])
    target = planning.Target(backend=backend, platform=machine.platform, interpreter=interpreter, elsewhere=False)
    chosen, _ = planning.make_plan(project, uv, target)
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
