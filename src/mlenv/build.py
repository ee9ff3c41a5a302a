"""Build an environment: plan, install into a new generation, pass the gate, flip."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from mlenv import against, gate, inspection, plan, planning
from mlenv import indexes as index_module
from mlenv.bundle import BUILD
from mlenv.clock import Clock
from mlenv.errors import EnvironmentBuildError, IntegrityError, MlenvError
from mlenv.local_projects import build_requirements
from mlenv.machine import Machine
from mlenv.plan import Plan
from mlenv.project import Project
from mlenv.report import Finding
from mlenv.system import disks, generation, inventory, layer
from mlenv.system import uv as uv_module
from mlenv.system.generation import Generation
from mlenv.system.uv import Uv
from mlenv.wanted import Verify, Wanted, key_of

Progress = Callable[[str], None]


def saved_plan(found: Generation) -> Plan | None:
    """The plan that a generation was built from, or None where it can't be read."""
    try:
        text = (found.path / generation.PLAN).read_text(encoding="utf-8")
        manifest = found.manifest
        return plan.from_toml(
            text, backend=found.backend, source=str(manifest["source"]), foundation=set(manifest["foundation"])
        )
    except (OSError, KeyError, ValueError):
        return None


def build(
    project: Project,
    uv: Uv,
    wanted: Wanted,
    chosen: Plan,
    *,
    inputs: Mapping[str, str],
    machine: Machine,
    refusal: Callable[[tuple[Finding, ...]], MlenvError],
    clock: Clock,
    progress: Progress,
) -> Generation:
    """A new finished generation that passed the gate. Leaves nothing behind where it fails, and ``.venv`` as it is.

    Raises EnvironmentBuildError, IntegrityError, PackageIndexError, or the ``refusal`` of what the gate finds.
    """
    path = generation.begin(project.state, backend=wanted.backend, key=key_of(inputs))
    with undone_on_failure(path, undo=partial(uv_module.remove_tree, path)):
        return complete(
            project,
            uv,
            wanted,
            chosen,
            path,
            inputs=inputs,
            machine=machine,
            refusal=refusal,
            clock=clock,
            progress=progress,
        )


@contextmanager
def undone_on_failure(path: Path, *, undo: Callable[[], object]) -> Iterator[None]:
    """``undo`` what the block wrote to ``path`` where it fails; the disk's errors become EnvironmentBuildError."""
    try:
        yield
    except BaseException as error:
        undo()
        if isinstance(error, OSError):
            raise EnvironmentBuildError(
                f"the new environment can't be written: {error.strerror}",
                path=str(path),
                hint="check the permissions and the space left",
            ) from error
        raise


def complete(
    project: Project,
    uv: Uv,
    wanted: Wanted,
    chosen: Plan,
    path: Path,
    *,
    inputs: Mapping[str, str],
    machine: Machine,
    refusal: Callable[[tuple[Finding, ...]], MlenvError],
    clock: Clock,
    progress: Progress,
) -> Generation:
    """Install what is planned to ``path``, and mark it complete once it passed the gate. Raises as ``build`` does."""
    built = _install(project, uv, wanted, chosen, path, machine=machine, clock=clock, progress=progress)
    if wanted.verify is not Verify.NONE:
        progress("checking the new environment")
    findings = _gate(project, wanted, chosen, path, machine=machine, env=uv.env)
    if findings:
        raise refusal(findings)
    clock.phase("gate")
    if wanted.image:
        inventory.fix_times(path)
    manifest = _manifest(wanted, chosen, inputs=inputs, path=path) | ({"built": built} if built else {})
    finished = generation.finish(path, manifest)
    clock.phase("finish")
    return finished


def healing(uv: Uv, once: Callable[[], Generation], *, progress: Progress) -> Generation:
    """Build, and where the gate finds that uv's cache is damaged, drop that from it and build once more."""
    try:
        return once()
    except IntegrityError as error:
        if uv.offline or not error.packages:
            raise
        damaged = error.packages
        progress(f"not as their wheels brought them: {error.message.partition(': ')[2].splitlines()[0]}")
    progress(f"uv's cache is damaged; it will fetch again: {', '.join(damaged)}")
    uv_module.clean_cache(uv, damaged)
    try:
        return once()
    except IntegrityError as error:
        if error.packages == damaged:
            error.hint = f"it was fetched anew and is the same: the wheel itself is damaged ({', '.join(damaged)})"
        raise


def again(
    project: Project,
    uv: Uv,
    found: Generation,
    *,
    machine: Machine,
    refusal: Callable[[tuple[Finding, ...]], MlenvError],
    clock: Clock,
    progress: Progress,
    instead: str,
    deep: bool = False,
) -> Generation:
    """A new generation like ``found``, from the plan it was built from; local projects are as they are now.

    With ``deep`` its gate hashes every file; ``instead`` is the command that builds what is wanted now. Raises what
    ``build`` does, EnvironmentBuildError where its plan or its Python is gone.
    """
    chosen = saved_plan(found)
    if chosen is None:
        raise EnvironmentBuildError(
            f"can't be built again: {generation.PLAN} is gone", path=str(found.path), hint=f"run {instead}"
        )
    interpreter = Path(str(found.manifest["python"]))
    if not interpreter.is_file():
        told = f"{found.id} can't be built again: its Python is gone ({interpreter})"
        raise EnvironmentBuildError(
            told, hint=f"{instead} builds one of what the lock says now, with a Python that is there"
        )
    wanted = Wanted(
        backend=found.backend,
        interpreter=interpreter,
        extras=found.extras,
        layout=found.layout,
        deep=deep,
        bundle=Path(found.manifest["bundle"]) if found.manifest.get("bundle") else None,
    )
    return build(
        project,
        uv,
        wanted,
        chosen,
        inputs=found.inputs,
        machine=machine,
        refusal=refusal,
        clock=clock,
        progress=progress,
    )


def _install(
    project: Project,
    uv: Uv,
    wanted: Wanted,
    chosen: Plan,
    path: Path,
    *,
    machine: Machine,
    clock: Clock,
    progress: Progress,
) -> dict[str, Any]:
    """Everything into the new generation, the foundation before what is built against it; returns what was built."""
    if wanted.below is None:
        relocatable = wanted.layout == "directory"
        uv_module.make_environment(
            uv, target=path, python=wanted.interpreter, prompt=project.root.name, relocatable=relocatable
        )
        if wanted.image:
            layer.begin(path)
    generation.require_private(path, env=uv.env)
    clock.phase("venv")
    _write_plan(project, chosen, path, below=wanted.below)
    with configured(project, chosen, path, bundle=wanted.bundle) as config:
        place = against.Place(
            generation=path,
            config=config,
            requirements=project.settings.requirements[0],
            python=planning.python_of(project),
            machine=machine,
        )
        return _install_all(project, uv, chosen, place, below=wanted.below, clock=clock, progress=progress)


@contextmanager
def configured(project: Project, chosen: Plan, path: Path, *, bundle: Path | None = None) -> Iterator[Path]:
    """uv's configuration file for an installation to ``path``, from a ``bundle`` or the indexes; gone afterwards."""
    config = path / "uv.toml"
    config.touch(0o600)  # it may name a mirror with its credentials
    config.write_text(_sources(project, bundle) + _no_build(project, chosen), encoding="utf-8")
    try:
        yield config
    finally:
        config.unlink(missing_ok=True)


def _install_all(
    project: Project,
    uv: Uv,
    chosen: Plan,
    place: against.Place,
    *,
    below: Plan | None,
    clock: Clock,
    progress: Progress,
) -> dict[str, Any]:
    first = place.generation / generation.PLAN
    names = {canonicalize_name(name) for name in project.settings.build_against_foundation}
    ready, sources = plan.apart(chosen if below is None else plan.beside(chosen, below), names)
    if sources:
        jobs = against.prepare(uv, chosen, sources, place)
        clock.phase("sources")
    if sources or below is not None:
        first = place.generation / "pylock.first.toml"
        first.write_text(plan.to_toml(ready, python=planning.python_of(project)), encoding="utf-8")
    progress(installing(ready))
    uv_module.install_plan(uv, plan=first, python=place.interpreter, config=place.config, adding=below is not None)
    clock.phase("install")
    built = {}
    if sources:
        built = {job.package.name: against.install(uv, job, chosen, place, progress=progress) for job in jobs}
        uv_module.remove_tree(place.folder)
        clock.phase("build")
    if first.name != generation.PLAN:
        first.unlink()
    if project.requirements.local_projects:
        _install_local(project, uv, chosen, place, names=names, progress=progress)
        clock.phase("install")
    return {name: {"wheel": wheel.path.name, "sha256": wheel.sha256} for name, wheel in built.items()}


def installing(chosen: Plan) -> str:
    """What is installed now and how much that is, for people."""
    return f"installing {len(chosen.packages)} packages ({disks.shown(sum(p.size for p in chosen.packages))})"


def _install_local(
    project: Project, uv: Uv, chosen: Plan, place: against.Place, *, names: Collection[str], progress: Progress
) -> None:
    local = project.requirements.local_projects
    named = [one for one in local if one.name in names]
    for one in named:
        against.require_tools(one.written, one.path, chosen, place)
    generation.require_private(place.generation, env=uv.env)
    if others := [one.line_for_uv() for one in local if one not in named]:
        given = _given(project)
        uv_module.install_local(uv, requirements=others, python=place.interpreter, config=place.config, given=given)
    for one in named:
        against.install_local(uv, one, chosen, place, progress=progress)


def _given(project: Project) -> set[str]:
    """The packages whose folders the workspace and the requirements name; what a build itself needs is found by uv."""
    local = project.requirements.local_projects
    tools = {re.split(r"[^A-Za-z0-9._-]", line.strip())[0] for one in local for line in build_requirements(one)}
    return {*project.workspace.packages, *(one.name for one in local if one.name)} - set(map(canonicalize_name, tools))


def _write_plan(project: Project, chosen: Plan, path: Path, *, below: Plan | None) -> None:
    python = planning.python_of(project)
    (path / generation.PLAN).write_text(plan.to_toml(chosen, python=python), encoding="utf-8")
    if below is None:
        record = plan.to_toml(chosen, layer=plan.FOUNDATION, python=python)
        (path / f"pylock.{chosen.backend}.toml").write_text(record, encoding="utf-8")


def _sources(project: Project, bundle: Path | None) -> str:
    """uv's configuration: the project's indexes, or for a bundle none, and what local projects are built with."""
    if bundle is None:
        return index_module.to_uv_toml(project.indexes)
    wheels = bundle / BUILD
    return "no-index = true\n" + (f"find-links = [{json.dumps(str(wheels))}]\n" if wheels.is_dir() else "")


def _no_build(project: Project, chosen: Plan) -> str:
    """Nobody's build code runs but the code of what the settings name, and of the project's own local projects."""
    allowed = {canonicalize_name(n) for n in (*project.settings.build, *project.settings.build_against_foundation)}
    names = sorted(json.dumps(package.name) for package in chosen.packages if package.name not in allowed)
    return f"\n[pip]\nonly-binary = [{', '.join(names)}]\n" if names else ""


def _manifest(wanted: Wanted, chosen: Plan, *, inputs: Mapping[str, str], path: Path) -> dict[str, Any]:
    return {
        "schema": 1,
        "id": path.name,
        "layout": wanted.layout,
        "key": key_of(inputs),
        "inputs": dict(inputs),
        "path": str(path.resolve()),
        "backend": wanted.backend,
        "source": chosen.source,
        "torch": gate.torch_build(inspection.version_files(path).get("torch", ""))[0] or chosen.version("torch"),
        "python": str(wanted.interpreter),
        "extras": list(wanted.extras),
        "bundle": None if wanted.bundle is None else str(wanted.bundle),
        "verified": wanted.verify is not Verify.NONE,
        "created": time.time(),
        "host": os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", ""),
        "foundation": sorted(package.name for package in chosen.layer(plan.FOUNDATION)),
        "planned": {package.name: package.version for package in chosen.packages},
        "inventory": inventory.snapshot(path),
        "names": inventory.names_digest(path),
    }


def _gate(
    project: Project, wanted: Wanted, chosen: Plan, path: Path, *, machine: Machine, env: Mapping[str, str]
) -> tuple[Finding, ...]:
    """What the gate finds in a new environment, as far as ``wanted`` lets it go."""
    if wanted.verify is Verify.NONE:
        return ()
    planned = {package.name: package.version for package in chosen.packages}
    findings = inspection.inspect(
        project,
        path,
        backend=wanted.backend,
        planned=planned,
        machine=machine,
        differing=inventory.damaged if wanted.deep else inventory.edited_in_cache,
    )
    if findings or wanted.verify is Verify.METADATA:
        return findings
    gpu = wanted.verify is Verify.GPU or (wanted.verify is Verify.AUTO and bool(machine.visible_gpus))
    roots = inspection.import_names(project, path, wanted.backend)
    return inspection.import_gate(path, roots=roots, gpu=gpu and wanted.backend != "cpu", env=env)
