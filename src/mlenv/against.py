"""Packages that are built against the installed foundation (``build-against-foundation``): source, wheel, cache.

Their build is not isolated: it sees the unfinished generation, which holds this very torch and the tools that the lock
pins (docs/adr/0015).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from mlenv import local_projects, plan, platforms
from mlenv.errors import EnvironmentBuildError, ProjectError
from mlenv.foundation import ROOT_NAMES
from mlenv.local_projects import LocalProject
from mlenv.machine import Machine
from mlenv.plan import Plan, Planned
from mlenv.system import cache, generation
from mlenv.system import uv as uv_module
from mlenv.system.cache import Wheel
from mlenv.system.uv import Uv
from mlenv.values import dataclass

if TYPE_CHECKING:
    import ast

KEY_SCHEME = 1
_FOLDER = "build-against-foundation"
# Tools that a setup.py imports without declaring them, each a package of that name.
_TOOLS = frozenset({"cmake", "ninja", "numpy", "packaging", "psutil", "pybind11", "setuptools", "wheel"})
_LAST_LINES = 15
_EDITABLE = "; it is editable: what is compiled lies in its folder, and every environment imports what was built last"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the builds run: the unfinished generation, what uv is configured with, and the target of the lock.

    ``requirements`` is the file that their tools are to be added to.
    """

    generation: Path
    config: Path
    requirements: str
    python: str
    machine: Machine

    @property
    def interpreter(self) -> Path:
        """The generation's Python."""
        return generation.python_of(self.generation)

    @property
    def path(self) -> str:
        """PATH as the builds see it: the generation's commands first (ninja)."""
        return os.pathsep.join([str(generation.scripts_of(self.generation)), os.environ.get("PATH", "")])

    @property
    def folder(self) -> Path:
        """Inside the generation, so that what a kill leaves is swept with it."""
        return self.generation / _FOLDER


@dataclass(frozen=True, kw_only=True)
class Job:
    """One package to install at the end: its wheel as built before, or its source."""

    package: Planned
    key: str
    wheel: Wheel | None
    source: Path

    @property
    def release(self) -> str:
        """Name and version."""
        return f"{self.package.name} {self.package.version}"


def prepare(uv: Uv, chosen: Plan, packages: Sequence[Planned], place: Place) -> tuple[Job, ...]:
    """What there is to do, found out before anything big is fetched: wheels from the cache, else checked sources.

    Raises ProjectError where a build needs what the plan lacks, and what uv says where a source can't be had.
    """
    place.folder.mkdir()
    jobs = []
    for package in packages:
        key = key_of(package, chosen, python=place.python, machine=place.machine, variables=uv_module.compiler(uv))
        job = Job(package=package, key=key, wheel=cache.wheel(key), source=place.folder / package.name)
        if job.wheel is None:
            _fetch(uv, job, place)
            require_tools(job.release, job.source, chosen, place)
        jobs.append(job)
    return tuple(jobs)


def install(uv: Uv, job: Job, chosen: Plan, place: Place, *, progress: Callable[[str], None]) -> Wheel:
    """Install one package into the generation, which holds everything else by now.

    Raises EnvironmentBuildError with the end of the build's output.
    """
    wheel = job.wheel
    if wheel is None:
        progress(f"building {job.release} against {_foundation(chosen)}; this may take long")
        wheel = cache.put_wheel(job.key, _build(uv, job, chosen, place))
    generation.require_private(place.generation, env=uv.env)
    uv_module.install_wheel(uv, wheel=wheel.path, sha256=wheel.sha256, python=place.interpreter, config=place.config)
    return wheel


def install_local(uv: Uv, local: LocalProject, chosen: Plan, place: Place, *, progress: Callable[[str], None]) -> None:
    """Build and install a local project; nothing that was compiled for another foundation gets in.

    Its folder may hold such objects (setuptools keeps them in ``build/``), so it is built from a copy. An editable one
    is built where it is, as that was asked for. Raises EnvironmentBuildError, OSError.
    """
    name = local.name or local.relative
    progress(f"building {name} against {_foundation(chosen)}{_EDITABLE if local.editable else ''}")
    source = place.folder / name
    place.folder.mkdir(exist_ok=True)
    if not local.editable:
        local_projects.copy_to(local.path, source)
    built = local if local.editable else replace(local, path=source)
    uv_module.install_local_against(
        uv,
        requirement=built.line_for_uv(),
        name=name,
        python=place.interpreter,
        config=place.config,
        path=place.path,
        folder=place.folder,
    )
    uv_module.remove_tree(place.folder)


def require_tools(release: str, source: Path, chosen: Plan, place: Place) -> None:
    """Raise ProjectError where the build of ``source`` needs what the plan lacks."""
    planned = {package.name: package.version for package in chosen.packages}
    markers = platforms.environment(place.machine.platform, place.python)
    tools = required_tools(_text(source / "pyproject.toml"), _text(source / "setup.py"))
    missing = lacking(tools, planned, markers=markers)
    if missing:
        raise ProjectError(
            f"{release} is built without isolation, and the lock lacks what its build needs: {', '.join(missing)}",
            path=place.requirements,
            hint=f"add {'this line' if len(missing) == 1 else 'these lines'} to it: {', '.join(missing)}; "
            "then `mlenv lock`",
        )


def key_of(package: Planned, chosen: Plan, *, python: str, machine: Machine, variables: Mapping[str, str]) -> str:
    """The digest of what decides the wheel: its source, the foundation's roots to the byte, Python, platform, compiler.

    Where no variable says which GPUs to compile for, torch compiles for those that are visible.
    """
    roots = {p.name: plan.hashes(p) for p in chosen.layer(plan.FOUNDATION) if p.name in ROOT_NAMES}
    compiled_for = sorted({gpu.compute_capability for gpu in machine.visible_gpus} if chosen.backend != "cpu" else ())
    parts = [KEY_SCHEME, plan.hashes(package), roots, chosen.backend, python, machine.platform, compiled_for]
    text = json.dumps([*parts, sorted(variables.items())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lacking(declared: Sequence[str], planned: Mapping[str, str], *, markers: Mapping[str, str]) -> tuple[str, ...]:
    """Of what a build requires, that which the plan (name → version) lacks; any release of a root will do."""
    found = []
    for text in declared:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({**markers, "extra": ""})
        version = planned.get(name)
        fits = version is not None and (name in ROOT_NAMES or requirement.specifier.contains(version, prereleases=True))
        if applies and not fits:
            requirement.marker = None
            found.append(str(requirement))
    return tuple(sorted(dict.fromkeys(found)))


def required_tools(pyproject: str | None, setup: str | None) -> tuple[str, ...]:
    """What the build of a source requires: its ``[build-system] requires``, and tools that its setup.py imports."""
    import tomllib

    try:
        declared = tomllib.loads(pyproject or "").get("build-system", {}).get("requires")
    except tomllib.TOMLDecodeError:
        declared = None
    named = declared if isinstance(declared, list) else ["setuptools"]
    names = {canonicalize_name(re.split(r"[^A-Za-z0-9._-]", str(text).strip(), maxsplit=1)[0]) for text in named}
    imported = _imported(setup) & _TOOLS if setup is not None else set()
    return (*map(str, named), *sorted(imported - names))


def _imported(setup: str) -> set[str]:
    """The modules that a setup.py imports, but for those that it tries to do without."""
    import ast

    try:
        return {name.partition(".")[0] for name in _imports(ast.parse(setup))}
    except (SyntaxError, ValueError):
        return set()


def _imports(node: ast.AST) -> Iterator[str]:
    import ast

    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module
        elif not isinstance(child, ast.Try):
            yield from _imports(child)


def failure(release: str, against: str, output: str, *, backend: str) -> EnvironmentBuildError:
    """The error for a build that failed, with the end of what it wrote; its ``detail`` is all of it."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    told = "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
    error = EnvironmentBuildError(
        f"{release} could not be built against {against}; its output ends:\n{told}",
        hint=remedy(output, backend=backend),
    )
    error.detail = output.strip()
    return error


def remedy(output: str, *, backend: str) -> str:
    """What mends a failed build, as far as its output tells."""
    if missing := re.search(r"ModuleNotFoundError: No module named '([A-Za-z0-9_]+)", output):
        return (
            f"its build needs {missing[1]} and does not say so: add that package to requirements.in, then `mlenv lock`"
        )
    digits = re.fullmatch(r"cu(\d+)(\d)", backend)
    toolkit = f"the CUDA toolkit{f' {digits[1]}.{digits[2]}' if digits else ''}"
    if "mismatches the version that was used to compile" in output:
        return f"install {toolkit}, which torch was built with, and set CUDA_HOME to its folder"
    if re.search(
        r"CUDA_HOME[^\n]* not (?:set|found)|nvcc\S*(?: was|:)? not found|file or directory: '\S*nvcc'", output
    ):
        return f"install {toolkit} (it brings nvcc), and set CUDA_HOME to its folder"
    if re.search(
        r"(?:gcc|g\+\+|cc|c\+\+|clang)\S*:? (?:not found|No such file)|command '[^']*' failed: No such", output
    ):
        return "install a C++ compiler (Debian: `apt install g++`), or name yours in CC and CXX"
    if re.search(r"Killed|out of memory|Cannot allocate memory|signal 9", output):
        return "it ran out of memory: compile with fewer jobs at a time (MAX_JOBS=2)"
    if "Python.h" in output:
        return "install the headers of this Python (Debian: `apt install python3-dev`)"
    return "run again with -v to see its whole output"


def _fetch(uv: Uv, job: Job, place: Place) -> None:
    listed = place.folder / f"pylock.{job.package.name}.toml"
    one = Plan(backend="", source="", packages=(job.package,))
    listed.write_text(plan.to_toml(one, python=".".join(place.python.split(".")[:2])), encoding="utf-8")
    sources = cache.writable(cache.folder() / "sources", otherwise=place.folder / "sources")
    uv_module.fetch_source(uv, plan=listed, python=place.interpreter, config=place.config, to=job.source, cache=sources)


def _build(uv: Uv, job: Job, chosen: Plan, place: Place) -> Path:
    out = place.folder / f"{job.package.name}-wheel"
    done = uv_module.build_wheel(uv, source=job.source, out=out, python=place.interpreter, path=place.path)
    if done.code != 0:
        raise failure(job.release, _foundation(chosen), uv_module.build_output(done), backend=chosen.backend)
    [wheel] = out.glob("*.whl")
    _require_same(job, wheel)
    return wheel


def _require_same(job: Job, wheel: Path) -> None:
    name, version, *_ = parse_wheel_filename(wheel.name)
    if name != job.package.name or version.public != job.package.version.partition("+")[0]:
        raise EnvironmentBuildError(
            f"the source of {job.release} builds {wheel.name}", hint="require another release of it"
        )


def _foundation(chosen: Plan) -> str:
    roots = [package for package in chosen.layer(plan.FOUNDATION) if package.name in ROOT_NAMES]
    torch = [package for package in roots if package.name == "torch"]
    told = ", ".join(f"{package.name} {package.version}" for package in torch or roots)
    return f"{told or 'the foundation'} ({chosen.backend})"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
