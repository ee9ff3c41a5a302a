"""Build an environment: plan, install into a new generation, pass the gate, flip."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from mlenv import against, drift, gate, lockfile, plan, planning, platforms
from mlenv import indexes as index_module
from mlenv.bundle import BUILD
from mlenv.errors import EnvironmentBuildError, MlenvError
from mlenv.machine import Machine
from mlenv.overlay import meaning
from mlenv.plan import Plan
from mlenv.project import Project
from mlenv.record import digest_text
from mlenv.report import Finding
from mlenv.settings import Layout
from mlenv.system import disks, flip, generation, inventory, layer, process
from mlenv.system import uv as uv_module
from mlenv.system.generation import Generation
from mlenv.system.inventory import Inventory
from mlenv.system.uv import Uv

KEY_SCHEME = 2
Progress = Callable[[str], None]


class Verify(Enum):
    """How far the gate goes before a new environment is used."""

    AUTO = "auto"
    METADATA = "metadata"
    IMPORT = "import"
    GPU = "gpu"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the environment is to be. ``extras`` are personal additions (``--with``), for this environment only.

    With ``deep`` the gate hashes every file. For an ``image`` it is built where it stays; ``below`` is the foundation
    that its first layer holds, if that is there. ``bundle`` is the folder that
    everything comes from, instead of indexes.
    """

    backend: str
    interpreter: Path
    extras: tuple[str, ...] = ()
    verify: Verify = Verify.AUTO
    layout: Layout = "link"
    deep: bool = False
    image: bool = False
    below: Plan | None = None
    bundle: Path | None = None


@dataclass
class Clock:
    """Seconds per phase, in the order the phases ran."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def phase(self, name: str) -> None:
        """Everything since the last call belongs to ``name``."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 2)
        self._last = now


def inputs_of(project: Project, wanted: Wanted, *, platform: str) -> dict[str, str]:
    """Everything that decides what the environment holds, each with its digest; no URL and no machine's name."""
    status = wanted.interpreter.resolve().stat()
    parts: dict[str, object] = {
        "python": [str(wanted.interpreter.resolve()), status.st_size, status.st_mtime_ns],
        "additions": sorted(wanted.extras),
        "local projects": [
            [local.line_for_uv(), local.content_digest] for local in project.requirements.local_projects
        ],
    }
    if wanted.layout != "link":
        parts["layout"] = wanted.layout
    return shared_inputs_of(project, wanted.backend, platform=platform) | _digests(parts)


def shared_inputs_of(project: Project, backend: str, *, platform: str) -> dict[str, str]:
    """The inputs that every machine of a platform shares, each with its digest."""
    parts: dict[str, object] = {
        "backend": backend,
        "overlay": meaning(project.overlay(backend)),
        "lock": lockfile.body_of(project.lock_text or ""),
        "platform": platform,
        "settings": [
            drift.settings(project),
            *drift.plugins(project).values(),
            *planning.asked_of_foundation(project),
        ],
    }
    if project.channel != "stable":
        parts["channel"] = project.channel
    if (record := project.record(backend)) is not None:
        parts["record"] = digest_text(record)
    return _digests(parts)


def _digests(parts: Mapping[str, object]) -> dict[str, str]:
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def key_of(inputs: Mapping[str, str]) -> str:
    """The digest of all inputs: environments with one key hold the same."""
    text = json.dumps({"scheme": KEY_SCHEME, **inputs}, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


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


def again(
    project: Project,
    uv: Uv,
    found: Generation,
    *,
    machine: Machine,
    refusal: Callable[[tuple[Finding, ...]], MlenvError],
    clock: Clock,
    progress: Progress,
    deep: bool = False,
) -> Generation:
    """A new generation like ``found``, from the plan it was built from; local projects are as they are now.

    With ``deep`` its gate hashes every file. Raises what ``build`` does, EnvironmentBuildError where its plan is gone.
    """
    chosen = saved_plan(found)
    if chosen is None:
        raise EnvironmentBuildError(
            f"can't be built again: {generation.PLAN} is gone", path=str(found.path), hint="run `mlenv sync`"
        )
    wanted = Wanted(
        backend=found.backend,
        interpreter=Path(str(found.manifest["python"])),
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


def sweep(project: Project, *, progress: Progress) -> None:
    """Remove what interrupted builds left, and say so; the project's lock must be held."""
    flip.tidy(project.state)
    swept = generation.sweep(project.state)
    for path in swept.gone:
        progress(f"removed what an interrupted build left: {path.name}")
    for path in swept.busy:
        progress(f"left {path.name}, which has no sound {generation.MARKER}, as a process runs in it")


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
        _install_local(project, uv, chosen, place, names=names)
        clock.phase("install")
    return {name: {"wheel": wheel.path.name, "sha256": wheel.sha256} for name, wheel in built.items()}


def installing(chosen: Plan) -> str:
    """What is installed now and how much that is, for people."""
    return f"installing {len(chosen.packages)} packages ({disks.shown(sum(p.size for p in chosen.packages))})"


def _install_local(project: Project, uv: Uv, chosen: Plan, place: against.Place, *, names: Collection[str]) -> None:
    local = project.requirements.local_projects
    named = [one for one in local if one.name in names]
    for one in named:
        against.require_tools(one.written, one.path, chosen, place)
    generation.require_private(place.generation, env=uv.env)
    uv_module.install_local(
        uv,
        requirements=[one.line_for_uv() for one in local],
        python=place.interpreter,
        config=place.config,
        against=[one.name for one in named if one.name],
        path=place.path,
    )


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
        "torch": gate.torch_build(_version_files(path).get("torch", ""))[0] or chosen.version("torch"),
        "python": str(wanted.interpreter),
        "extras": list(wanted.extras),
        "bundle": None if wanted.bundle is None else str(wanted.bundle),
        "verified": wanted.verify is not Verify.NONE,
        "created": time.time(),
        "host": os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", ""),
        "foundation": sorted(package.name for package in chosen.layer(plan.FOUNDATION)),
        "planned": {package.name: package.version for package in chosen.packages},
        "inventory": inventory.snapshot(path),
    }


def inspect(
    project: Project,
    environment: Path,
    *,
    backend: str,
    planned: Mapping[str, str] | None,
    machine: Machine,
    differing: Callable[[Inventory], tuple[str, ...]] = lambda _: (),
) -> tuple[Finding, ...]:
    """The metadata gate on an environment as it stands; ``differing`` names files whose bytes aren't those recorded."""
    found = inventory.read(environment)
    expected = gate.Expectation(
        backend=backend,
        os=machine.os,
        names=project.names,
        planned=planned,
        version_files=_version_files(environment),
        markers=_markers(machine, environment),
        architecture_gap=_architecture_gap(project, backend, found.versions.get("torch"), machine),
    )
    findings = gate.metadata(found, expected)
    told = {finding.package for finding in findings if finding.kind == "file-changed"}
    return findings + tuple(one for one in gate.edited(differing(found), found) if one.package not in told)


def intact(project: Project, found: Generation, machine: Machine, *, deep: bool = False) -> tuple[Finding, ...]:
    """The metadata gate on a finished generation; empty where it is whole.

    What was written since is hashed too; with ``deep`` every file is.
    """
    return inspect(
        project,
        found.path,
        backend=found.backend,
        planned=found.manifest.get("planned"),
        machine=machine,
        differing=inventory.damaged if deep else partial(inventory.edited, since=found.created),
    )


def _version_files(environment: Path) -> dict[str, str]:
    """What torch and its companions say of their own build."""
    site = inventory.site_packages(environment.resolve())
    paths = {name: site / name / "version.py" for name in ("torch", "torchvision", "torchaudio")}
    return {name: path.read_text(encoding="utf-8", errors="replace") for name, path in paths.items() if path.is_file()}


def _markers(machine: Machine, environment: Path) -> dict[str, str]:
    site = inventory.site_packages(environment.resolve())
    version = site.parent.name.removeprefix("python") if site.parent.name.startswith("python3") else None
    import platform

    return platforms.environment(machine.platform, version or platform.python_version())


def _architecture_gap(project: Project, backend: str, torch: str | None, machine: Machine) -> str | None:
    """Why the torch in the environment can't run on a visible GPU, or None."""
    if torch is None or not machine.visible_gpus or backend == "cpu":
        return None
    from mlenv.judgement import uncovered

    return uncovered(catalogue=project.catalogue, machine=machine, backend=backend, torch=torch)


def _gate(
    project: Project, wanted: Wanted, chosen: Plan, path: Path, *, machine: Machine, env: Mapping[str, str]
) -> tuple[Finding, ...]:
    """What the gate finds in a new environment, as far as ``wanted`` lets it go."""
    if wanted.verify is Verify.NONE:
        return ()
    planned = {package.name: package.version for package in chosen.packages}
    findings = inspect(
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
    roots = import_names(project, path, wanted.backend)
    return import_gate(path, roots=roots, gpu=gpu and wanted.backend != "cpu", env=env)


def import_names(project: Project, environment: Path, backend: str) -> tuple[str, ...]:
    """What the import gate imports: of each of the overlay's roots that is installed, the package it brings."""
    roots = {canonicalize_name(root.name) for root in project.overlay(backend).roots(project.settings.foundation.roots)}
    found = inventory.read(environment)
    return tuple(
        name
        for package in found.packages
        if package.name in roots
        for name in inventory.import_names(package, found.site)
    )


def import_gate(environment: Path, *, roots: Sequence[str], gpu: bool, env: Mapping[str, str]) -> tuple[Finding, ...]:
    """Import the roots in the environment's own Python, and compute on each GPU where ``gpu`` says so."""
    with resources.as_file(resources.files("mlenv.data").joinpath("gate_child.py")) as script:
        python = generation.python_of(environment.resolve())
        argv: list[str | Path] = [python, "-I", "-B", str(script), ",".join(roots), "gpu" if gpu else "-"]
        done = process.run(argv, env={**env, **_gpu_variables()})
    last = done.out.strip().splitlines()[-1:] or [""]
    try:
        document = json.loads(last[0])
    except ValueError:
        message = f"the roots can't be imported: Python ended with {done.code}\n{done.err.strip()[-500:]}"
        return (Finding(kind="import-failed", message=message, hint=gate.REBUILD),)
    failures = [item for item in (*document["imports"], *document["gpus"]) if "message" in item]
    return tuple(
        Finding(kind="import-failed", message=f"{f['subject']}: {f['message']}", path=f["file"], line=f["line"])
        for f in failures
    )


def _gpu_variables() -> dict[str, str]:
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER")
    return {name: os.environ[name] for name in names if name in os.environ}


def changed_since(found: Generation) -> tuple[str, ...]:
    """What somebody changed in a generation since it was finished, one sentence each; empty where it is as it was."""
    if found.moved_from is not None:
        return (f"it was built at {found.moved_from}; its scripts point there",)
    if not generation.python_of(found.path).exists():
        return ("its Python is gone",)
    try:
        return inventory.drifted(found.manifest["inventory"], inventory.snapshot(found.path))
    except OSError:
        return ("its site-packages is gone",)
