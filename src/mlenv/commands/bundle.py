"""``mlenv bundle``: lock, records and wheels in one folder, for ``mlenv sync --bundle`` where there is no network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from mlenv import __version__, drift, local_projects, plan, planning, platforms, unbundle
from mlenv import bundle as bundle_module
from mlenv import indexes as index_module
from mlenv.bundle import Bundle, File, Part
from mlenv.errors import MlenvError, ProjectError, ResolutionError
from mlenv.plan import Plan, Planned
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.system import disks, download, own_wheel, scratch
from mlenv.system import uv as uv_module
from mlenv.system.download import Download
from mlenv.system.files import make_state, project_lock, write_atomically
from mlenv.system.uv import Compilation, Uv
from mlenv.values import dataclass
from mlenv.wanted import shared_inputs_of

Progress = Callable[[str], None]
_OLDEST_PYTHON = (3, 11)
_README = """\
Made by mlenv {version} for {parts} (Python {python}). `mlenv bundle` makes it anew.

mlenv itself, on a machine without a network (with Python 3.11 or newer; PATH is this folder):
    python3 -m venv ~/mlenv
    ~/mlenv/bin/python -m pip install --no-index --find-links PATH/tool mlenv

The environment, in a copy of the project:
    ~/mlenv/bin/mlenv sync --bundle PATH --backend {backend}
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of ``bundle``. ``shown`` is what ``folder`` is called; ``here`` this platform.

    Without ``backends`` all that the locks are for, without ``platforms`` all of the lock. ``tool``: with mlenv and uv.
    """

    folder: Path
    shown: str
    here: str
    backends: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    python: str | None = None
    tool: bool = True
    dry_run: bool = False
    wait: float = 600.0


@dataclass
class _Contents:
    """What is to be in the folder, by path; ``built`` are the source distributions, by the package they are of."""

    folder: Path
    downloads: dict[str, Download] = field(default_factory=dict)
    built: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def add(self, folder: str, file: Mapping[str, Any]) -> str:
        """Have a file (of a PEP 751 table) fetched into ``folder`` of the bundle; its path there."""
        url, sha256 = str(file["url"]), str(file["hashes"]["sha256"])
        name = str(file.get("name") or unquote(urlsplit(url).path.rpartition("/")[2]))
        taken = {path: one.sha256 for path, one in self.downloads.items()}
        path = bundle_module.place(folder, name, sha256, taken=taken)
        size = int(file.get("size", 0))
        self.downloads[path] = Download(url=url, sha256=sha256, target=self.folder / path, size=size)
        return path

    @property
    def missing(self) -> list[Download]:
        """The files that aren't there, as far as their sizes say."""
        return [one for one in self.downloads.values() if not _may_be(one)]


@dataclass(frozen=True, kw_only=True)
class _Target:
    """One backend on one platform: the project as its lock sees it, its plan, its packages' paths in the bundle."""

    project: Project
    backend: str
    platform: str
    plan: Plan
    paths: Mapping[str, tuple[str, ...]]


def bundle(project: Project, uv: Uv, request: Request, *, progress: Progress, detail: Progress) -> Outcome:
    """Make the bundle, or bring one up to date: what is there already is not fetched again.

    ``detail`` is told what few want to know.

    Raises FindingError for a stale lock, UsageError for a folder that holds something else, and what planning and
    fetching raise.
    """
    unbundle.require_free(request.folder, shown=request.shown)
    contents = _Contents(folder=request.folder)
    targets = []
    for part, backend, platform in _asked(project, request):
        progress(f"resolving {backend} for {platform}")
        targets.append(_target(part, uv, backend, platform, request=request, contents=contents, detail=detail))
    _add_build_requirements(targets, uv, contents)
    if request.tool:
        _add_tool(targets, uv, contents)
    missing = contents.missing
    if request.dry_run:
        return _told(request, targets, files=len(contents.downloads), missing=missing)
    make_state(request.folder)  # with a .gitignore
    with project_lock(request.folder / unbundle.STATE, wait=request.wait, waiting=progress):
        made, fetched = _made(uv, request, targets, contents, progress=progress)
    return _told(request, targets, files=len(made.files), missing=fetched, made=made)


def _asked(project: Project, request: Request) -> list[tuple[Project, str, str]]:
    """(the project as its lock sees it, backend, platform) of each part. Raises FindingError, ProjectError."""
    backends = request.backends or tuple(name for part in project.locks for name in part.locked_overlays)
    backends = request.backends or tuple(name for name in backends if name not in project.settings.unproven)
    found, checked = [], set()
    for backend in dict.fromkeys(backends):
        part = project.of_lock(backend)
        part.overlay(backend)
        if part.settings.lock not in checked:
            drift.require_current(part)
            checked.add(part.settings.lock)
        there = _platforms(part, request)
        found += [(part, backend, name) for name in there if part.catalogue.builds_for(backend, name)]
    if not found:
        told = " and ".join(request.platforms) or "the lock's platforms"
        raise ProjectError(
            f"there is no build of {', '.join(backends)} for {told}", hint="`mlenv foundation list` says what exists"
        )
    return found


def _platforms(part: Project, request: Request) -> Sequence[str]:
    """The platforms to make it for. Raises ProjectError for one, or a Python, that the lock isn't made for."""
    header = part.lock.header if part.lock is not None else None
    assert header is not None
    locked = header.python.split(".")[:2]
    if request.python is not None and request.python.split(".")[:2] != locked:
        raise ProjectError(
            f"the lock is made for Python {header.python}; Python {request.python} was asked for",
            path=part.settings.lock,
            hint=f'make it for the other: [tool.mlenv] python = "{request.python}", then `mlenv lock`',
        )
    for name in request.platforms:
        if name not in header.platforms:
            raise ProjectError(
                f"the lock is made for {', '.join(header.platforms)}, not for {name}",
                path=part.settings.lock,
                hint=platforms.adding(name, to=header.platforms),
            )
    return request.platforms or header.platforms


def _target(
    part: Project, uv: Uv, backend: str, platform: str, *, request: Request, contents: _Contents, detail: Progress
) -> _Target:
    """A part's plan, its files among the contents. Raises as ``planning.make_plan``, ProjectError for a source."""
    made, _ = planning.make_plan(part, uv, planning.Target(backend=backend, platform=platform))
    planning.refuse_collisions(part, uv, made, detail=detail)
    built = {canonicalize_name(name) for name in part.settings.build}
    paths = {}
    for package in made.packages:
        files = package.table.get("wheels") or [file for file in (package.table.get("archive"),) if file]
        if not files:
            _require_buildable(package, platform, built=built, here=request.here)
            contents.built[package.name, str(package.table["sdist"]["hashes"]["sha256"])] = package.table["sdist"]
        paths[package.name] = tuple(contents.add(bundle_module.WHEELS, file) for file in files)
    return _Target(project=part, backend=backend, platform=platform, plan=made, paths=paths)


def _require_buildable(package: Planned, platform: str, *, built: Collection[str], here: str) -> None:
    """Raise ProjectError for a source distribution that can't be built into a wheel on this machine."""
    what = f"{package.name} {package.version} has no wheel for {platform}"
    if package.name not in built:
        raise ProjectError(
            f"{what}, and what is built against the foundation is not put into a bundle",
            hint="require a release that has a wheel, or build it into an index of your own",
        )
    if platform != here:
        raise ProjectError(
            f"{what}; it has to be built, and this machine is {here}",
            hint=f"make the bundle on {platform}, or require a release that has a wheel",
        )


def _add_build_requirements(targets: Iterable[_Target], uv: Uv, contents: _Contents) -> None:
    """What local projects are built with: `sync --bundle` installs them where nothing can be asked for it."""
    done = set()
    for target in targets:
        for local in target.project.requirements.local_projects:
            lines = local_projects.build_requirements(local)
            if (lines, target.platform) in done:
                continue
            done.add((lines, target.platform))
            try:
                files = _wheels_of(target.project, uv, lines, python=_python(target), platform=target.platform)
            except ResolutionError as error:
                message = f"what {local.written} is built with can't be had: {error.message}"
                raise ProjectError(message, path=local.metadata_path, hint=error.hint) from error
            for file in files:
                contents.add(bundle_module.BUILD, file)


def _add_tool(targets: Iterable[_Target], uv: Uv, contents: _Contents) -> None:
    """What mlenv needs, uv among it, at the versions that run here."""
    lines = own_wheel.requirements()
    for platform, target in {target.platform: target for target in targets}.items():
        number = max(tuple(int(part) for part in _python(target).split(".")[:2]), _OLDEST_PYTHON)
        python = ".".join(map(str, number))
        for file in _wheels_of(target.project, uv, lines, python=python, platform=platform):
            contents.add(bundle_module.TOOL, file)


def _wheels_of(
    project: Project, uv: Uv, lines: Iterable[str], *, python: str, platform: str
) -> list[Mapping[str, Any]]:
    """The wheels of requirements and of what they require, from the default index. Raises as ``uv.compile_``."""
    import tomllib

    task = Compilation(
        files={"asked.txt": "".join(f"{line}\n" for line in lines)},
        sources=("asked.txt",),
        config=index_module.to_uv_toml(project.indexes, names=()) + '\n[pip]\nonly-binary = [":all:"]\n',
        python=python,
        interpreter=uv_module.base_interpreter(),
        platform=platform,
        output="pylock.toml",
    )
    packages = tomllib.loads(uv_module.compile_(uv, task)).get("packages", [])
    return [wheel for package in packages for wheel in package["wheels"][:1]]


def _python(target: _Target) -> str:
    return planning.python_of(target.project)


# ------------------------------------------------------------------------------------------------------------- writing


def _made(
    uv: Uv, request: Request, targets: Sequence[_Target], contents: _Contents, *, progress: Progress
) -> tuple[Bundle, Sequence[Download]]:
    """Everything fetched, built and written; the manifest last, then what it lists no more is removed.

    Returns what was fetched, too: what was there with other bytes is among it.
    """
    before, fetched = _before(request.folder), list[Download]()

    def told(one: Download) -> None:
        fetched.append(one)
        progress(f"fetched {one.target.name}")

    missing = contents.missing
    if missing:
        progress(f"fetching {len(missing)} files ({disks.shown(sum(one.size for one in missing))})")
    download.fetch(
        contents.downloads.values(),
        logins=index_module.logins(targets[0].project.indexes, uv.env),
        env=uv.env,
        offline=uv.offline,
        fetched=told,
    )
    files = {
        path: File(path=path, sha256=one.sha256, size=one.target.stat().st_size)
        for path, one in contents.downloads.items()
    }
    built = _built(uv, targets[0], contents, before=before, progress=progress)
    files |= {file.path: file for file in built.values()}
    written = dict(_texts(targets, files, built))
    if request.tool:
        name, data = own_wheel.make()
        written[f"{bundle_module.TOOL}/{name}"] = data
    files |= {path: _put(request.folder, path, data) for path, data in written.items()}
    made = Bundle(
        made_by=f"mlenv {__version__}",
        python=".".join(_python(targets[0]).split(".")[:2]),
        channel=targets[0].project.channel,
        parts=tuple(_part(target) for target in targets),
        files=tuple(files[path] for path in sorted(files)),
    )
    write_atomically(request.folder / bundle_module.MANIFEST, bundle_module.render(made))
    for path in set(before) - set(files):
        with suppress(OSError):
            (request.folder / path).unlink()
    return made, fetched


def _before(folder: Path) -> Mapping[str, File]:
    """What the bundle that is there lists; nothing where there is none, or none that can be read."""
    try:
        return unbundle.read(folder).by_path
    except MlenvError:
        return {}


def _built(
    uv: Uv, target: _Target, contents: _Contents, *, before: Mapping[str, File], progress: Progress
) -> dict[str, File]:
    """The wheels of source distributions by the hash of these; what was built of the same source is taken again."""
    known = {file.source: file for file in before.values() if file.source}
    found: dict[str, File] = {}
    for (name, sha256), source in contents.built.items():
        file = known.get(sha256)
        if file is None or not download.is_there(contents.folder / file.path, file.sha256, size=file.size):
            progress(f"building {name}")
            file = _build(uv, target, contents.folder, source, sha256)
        found[sha256] = file
    return found


def _build(uv: Uv, target: _Target, folder: Path, source: Mapping[str, Any], sha256: str) -> File:
    project = target.project
    python = uv_module.find_python(uv, ".".join(_python(target).split(".")[:2]))
    with scratch.folder() as own:
        config = own / "uv.toml"
        config.write_text(index_module.to_uv_toml(project.indexes), encoding="utf-8")
        contents = _Contents(folder=own)
        contents.add("source", source)
        [fetched] = contents.downloads.values()
        download.fetch(
            [fetched],
            logins=index_module.logins(project.indexes, uv.env),
            env=uv.env,
            offline=uv.offline,
            fetched=lambda _: None,
        )
        wheel = uv_module.build_alone(uv, source=fetched.target, folder=own / "wheels", python=python, config=config)
        made = _put(folder, f"{bundle_module.WHEELS}/{wheel.name}", wheel.read_bytes())
    return File(path=made.path, sha256=made.sha256, size=made.size, source=sha256)


def _texts(
    targets: Sequence[_Target], files: Mapping[str, File], built: Mapping[str, File]
) -> Iterable[tuple[str, bytes]]:
    """(path, bytes) of the plans, the project's files and the page for people."""
    for target in targets:
        packages = tuple(_carried(target, package, files, built) for package in target.plan.packages)
        carried = Plan(backend=target.backend, source=target.plan.source, packages=packages)
        yield _plan_path(target), plan.to_toml(carried, python=_python(target)).encode()
        project = target.project
        for path in (project.settings.lock, project.record_path(target.backend)):
            if (project.root / path).is_file():
                yield f"{bundle_module.PROJECT}/{path}", (project.root / path).read_bytes()
    parts = ", ".join(f"{target.backend} on {target.platform}" for target in targets)
    words = {"version": __version__, "parts": parts, "python": _python(targets[0]), "backend": targets[0].backend}
    yield bundle_module.README, _README.format(**words).encode()


def _carried(target: _Target, package: Planned, files: Mapping[str, File], built: Mapping[str, File]) -> Planned:
    own = [files[path] for path in target.paths[package.name]]
    return bundle_module.carried(package, own or [built[str(package.table["sdist"]["hashes"]["sha256"])]])


def _part(target: _Target) -> Part:
    return Part(
        backend=target.backend,
        platform=target.platform,
        plan=_plan_path(target),
        source=target.plan.source,
        foundation=tuple(package.name for package in target.plan.layer(plan.FOUNDATION)),
        inputs=shared_inputs_of(target.project, target.backend, platform=target.platform),
    )


def _plan_path(target: _Target) -> str:
    return f"{bundle_module.PLANS}/pylock.{target.backend}-{target.platform}.toml"


def _put(folder: Path, path: str, data: bytes) -> File:
    """A file of the bundle with these bytes, replaced whole where it has others."""
    found = File(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    target = folder / path
    if not download.is_there(target, found.sha256, size=found.size):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(data)
        os.replace(part, target)  # noqa: PTH105 - named for what it does
    return found


# ------------------------------------------------------------------------------------------------------------- telling


def _may_be(one: Download) -> bool:
    try:
        return one.target.stat().st_size == one.size or (not one.size and one.target.is_file())
    except OSError:
        return False


def _told(
    request: Request, targets: Sequence[_Target], *, files: int, missing: Sequence[Download], made: Bundle | None = None
) -> Outcome:
    to_fetch = sum(one.size for one in missing)
    parts = [{"backend": target.backend, "platform": target.platform} for target in targets]
    data: dict[str, Any] = {
        "action": "made" if made is not None else "make",
        "bundle": str(request.folder),
        "python": _python(targets[0]),
        "parts": parts,
        "files": files,
        "fetched": {"files": len(missing), "bytes": to_fetch},
    }
    named = ", ".join(f"{target.backend} on {target.platform}" for target in targets)
    if made is None:
        head = f"would make {request.shown}: {named}"
        text = f"{head}\nwould fetch {len(missing)} of {files} files ({disks.shown(to_fetch)})"
        return Outcome(text=text, data=data, findings=_plugins(targets))
    size = sum(file.size for file in made.files)
    data["bytes"] = size
    text = f"{request.shown} holds {named}: {files} files, {disks.shown(size)}, {len(missing)} of them fetched now"
    text += f"\ncopy it and the project; {request.shown}/{bundle_module.README} says what to do there"
    return Outcome(text=text, data=data, findings=_plugins(targets))


def _plugins(targets: Sequence[_Target]) -> tuple[Finding, ...]:
    """The packages that the lock needs installed beside mlenv, which the bundle does not hold."""
    brought = {who.split(" ", 1)[1] for target in targets for who in drift.plugins(target.project)}
    return tuple(
        Finding(
            kind="bundle-without-plugin",
            message=f"the lock needs {name} installed beside mlenv, and the bundle does not hold it",
            hint="copy its wheel as well, and install it there together with mlenv",
            severity="warning",
        )
        for name in sorted(brought)
    )
