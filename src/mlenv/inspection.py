"""The gate on an environment as it stands: read what is there, and judge it (``gate``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from packaging.utils import canonicalize_name

from mlenv import platforms
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Finding
from mlenv.system import generation, inventory, process
from mlenv.system.generation import Generation
from mlenv.system.inventory import Inventory


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
    from mlenv import gate

    found = inventory.read(environment)
    expected = gate.Expectation(
        backend=backend,
        os=machine.os,
        names=project.names,
        planned=planned,
        version_files=version_files(environment),
        markers=_markers(machine, environment),
        architecture_gap=_architecture_gap(project, backend, found.versions.get("torch"), machine),
    )
    findings = gate.metadata(found, expected)
    told = {finding.package for finding in findings if finding.kind == "file-changed"}
    return findings + tuple(one for one in gate.edited(differing(found), found) if one.package not in told)


def altered(project: Project, found: Generation, machine: Machine) -> tuple[str, ...]:
    """What somebody changed in a generation that nobody looked at since it was left; empty where it is whole.

    Where no name is new or missing and nothing was written since it was finished, that is known without the gate.
    """
    if changed := changed_since(found):
        return changed
    names = found.manifest.get("names")
    if names and inventory.untouched(found.path, names=str(names), since=found.created):
        return ()
    return tuple(finding.message for finding in intact(project, found, machine))


def intact(project: Project, found: Generation, machine: Machine, *, deep: bool = False) -> tuple[Finding, ...]:
    """The metadata gate on a finished generation; empty where it is whole.

    What was written since is hashed too; with ``deep`` every file is, and what Python compiled is compiled again.
    """
    findings = inspect(
        project,
        found.path,
        backend=found.backend,
        planned=found.manifest.get("planned"),
        machine=machine,
        differing=inventory.damaged if deep else partial(inventory.edited, since=found.created),
    )
    return (*findings, *_miscompiled(found.path)) if deep and not changed_since(found) else findings


def _miscompiled(environment: Path) -> tuple[Finding, ...]:
    """The .pyc files that are not what their source compiles to, asked of the environment's own Python."""
    root = environment.resolve()
    done = _child(root, "compiled_child.py", inventory.site_packages(root), env=os.environ)
    if done.code != 0:
        return (Finding(kind="import-failed", message=f"its Python does not start: {done.err.strip()[-500:]}"),)
    told = "is not what its source compiles to"
    return tuple(Finding(kind="file-changed", message=f"{line} {told}", path=line) for line in done.out.splitlines())


def _child(root: Path, script: str, *args: str | Path, env: Mapping[str, str]) -> process.Completed:
    """Run one of mlenv's own scripts with the environment's Python."""
    from importlib import resources

    with resources.as_file(resources.files("mlenv.data").joinpath(script)) as path:
        return process.run([generation.python_of(root), "-I", "-B", "-W", "ignore", path, *args], env=env)


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
    asked = (",".join(roots), "gpu" if gpu else "-")
    done = _child(environment.resolve(), "gate_child.py", *asked, env={**env, **_gpu_variables()})
    last = done.out.strip().splitlines()[-1:] or [""]
    try:
        document = json.loads(last[0])
    except ValueError:
        message = f"the roots can't be imported: Python ended with {done.code}\n{done.err.strip()[-500:]}"
        return (Finding(kind="import-failed", message=message, hint="run `mlenv sync --rebuild`"),)
    failures = [item for item in (*document["imports"], *document["gpus"]) if "message" in item]
    return tuple(
        Finding(kind="import-failed", message=f"{f['subject']}: {f['message']}", path=f["file"], line=f["line"])
        for f in failures
    )


def version_files(environment: Path) -> dict[str, str]:
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


def _gpu_variables() -> dict[str, str]:
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER")
    return {name: os.environ[name] for name in names if name in os.environ}
