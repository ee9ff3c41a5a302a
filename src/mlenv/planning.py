"""From lock, overlay and record to the plan of one environment: the foundation resolved with the lock's very pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field, replace
from datetime import date
from pathlib import Path

from packaging.utils import canonicalize_name

from mlenv import collisions, lockfile, plan, platforms, releases, resolution, solve
from mlenv import indexes as index_module
from mlenv import record as record_module
from mlenv.errors import FindingError, MlenvError, PackageIndexError, ProjectError, ResolutionError
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay
from mlenv.plan import Plan
from mlenv.project import Project
from mlenv.record import Record
from mlenv.resolution import Resolved, Source
from mlenv.solve import Question
from mlenv.system import remote
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv
from mlenv.system.uv_messages import ASKED_WITH, WITH
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a foundation is resolved for. ``elsewhere``: the platform is not the one that ``interpreter`` runs on.

    ``extras`` are personal additions. ``below`` is the foundation that is installed already: it stays, and the rest has
    to go with it. ``stand_in`` lets the default index's metadata of the same release do: enough to
    prove, never to install.
    """

    backend: str
    platform: str
    interpreter: Path = field(default_factory=uv_module.base_interpreter)
    elsewhere: bool = True
    extras: tuple[str, ...] = ()
    below: Plan | None = None
    stand_in: bool = False


def make_plan(project: Project, uv: Uv, target: Target) -> tuple[Plan, tuple[str, ...]]:
    """Resolve the foundation with the lock's pins; every file with URL and hash.

    Where there is a record its files are taken, and no others. Returns the plan and what is worth saying about its
    source. Raises FindingError where lock and record don't fit, and what ``solve.resolve_backend`` and ``plan.make``
    raise.
    """
    record = project.record(target.backend) if target.below is None else None
    pins = pins_on(project, target.platform)
    resolved = resolve(project, uv, target, record=record)
    locked = {pin.name for pin in pins}
    additions = {pin.name for pin in resolved.application} - locked if target.extras else set()
    built = {canonicalize_name(n) for n in (*project.settings.build, *project.settings.build_against_foundation)}
    made = plan.make(resolved, lock=pins, built=built, extra=additions)
    if target.below is not None:
        return plan.over(made, target.below, names=project.names), resolved.notes
    return (made if record is None else held_to_record(made, record, target.platform)), resolved.notes


def make_record(project: Project, uv: Uv, backend: str, *, today: date) -> Record:
    """The foundation of a backend on every platform of the lock, one file each, whatever was recorded before.

    Where an index lists no hash the file is fetched, once, and hashed (by uv). Raises as ``make_plan``.
    """
    assert project.lock is not None
    header = project.lock.header
    targets = header.platforms if header is not None else project.settings.platforms
    there = [platform for platform in targets if project.catalogue.builds_for(backend, platform)]
    by_platform = {
        platform: resolve(project, uv, Target(backend=backend, platform=platform), record=None) for platform in there
    }
    built = {canonicalize_name(name) for name in project.settings.build}
    tables = {
        platform: plan.make(answer, lock=pins_on(project, platform), built=built).layer(plan.FOUNDATION)
        for platform, answer in by_platform.items()
    }
    return record_module.made_of(
        {platform: [package.table for package in packages] for platform, packages in tables.items()},
        backend=backend,
        channel=project.channel,
        python=python_of(project),
        sources={platform: answer.source.index for platform, answer in by_platform.items()},
        path=project.record_path(backend),
        today=today,
    )


def resolve(project: Project, uv: Uv, target: Target, *, record: Record | None) -> Resolved:
    """One backend's foundation with the lock's pins, held to the ``record`` where there is one.

    Raises FindingError where two CUDA families collide or the record doesn't fit.
    """
    platform = target.platform
    pins = pins_on(project, platform)
    files = {"lock.txt": lockfile.render_pins(replace(pin, via=(), hashes=(), marker=None) for pin in pins)}
    files["asked.txt"] = "".join(f"{line}\n" for line in project.asked_of_foundation)
    if target.extras:
        files[WITH] = "".join(f"{extra}\n" for extra in target.extras)
    question = Question(
        files=files,
        sources=tuple(files),
        python=python_of(project),
        interpreter=target.interpreter,
        platform=platform if target.elsewhere else None,
        stand_in=target.stand_in,
        direct=frozenset(pin.name for pin in pins),
    )
    if target.below is not None:
        held = tuple(Pin(name=package.name, version=package.version) for package in target.below.packages)
        question = replace(question, pins=held, source=Source(index=target.below.source))
    return _resolved(project, uv, target, question, record=record)


def make_foundation(project: Project, uv: Uv, target: Target) -> tuple[Plan, tuple[str, ...]]:
    """The foundation alone, whatever will be installed over it: as recorded, else what the overlay's roots bring.

    Neither the requirements nor the lock are read. Returns and raises as ``make_plan`` does.
    """
    record = project.record(target.backend)
    listed = {} if record is None else record.on(target.platform)
    question = Question(
        files={"record.txt": "".join(f"{package.name}=={package.version}\n" for package in listed.values())},
        sources=("record.txt",),
        python=python_of(project),
        interpreter=target.interpreter,
        platform=target.platform if target.elsewhere else None,
        direct=frozenset(listed),
        alone=record is not None,
    )
    resolved = _resolved(project, uv, target, question, record=record)
    known = [pin for pin in resolved.pins.values() if pin.name in listed or project.names.owns(pin.name)]
    made = plan.make(replace(resolved, foundation=tuple(known), application=()), lock=(), built=())
    return (made if record is None else held_to_record(made, record, target.platform)), resolved.notes


def _resolved(project: Project, uv: Uv, target: Target, question: Question, *, record: Record | None) -> Resolved:
    overlay, platform = project.overlay(target.backend), target.platform
    try:
        if record is None:
            resolved = solve.resolve_backend(project, uv, overlay, question, platform=platform)
        else:
            record.require_fit(overlay, platform=platform, python=python_of(project))
            resolved = _resolve_recorded(project, uv, question, record, platform=platform)
    except (ResolutionError, PackageIndexError) as error:
        told = expired(project, uv, overlay, error) or _of_mixed_days(overlay, error)
        if told is None:
            raise
        raise told from error
    clash = resolution.collision(resolved)
    if clash is not None:
        raise FindingError(
            f"{clash[0].name} and {clash[1].name} are two CUDA families of one library "
            "and overwrite each other's files",
            hint="run `mlenv lock`: it names what brought each",
        )
    mixed = (overlay.mixed_days,) if overlay.mixed_days else ()
    return replace(resolved, notes=(*resolved.notes, *mixed))


def refuse_collisions(project: Project, uv: Uv, chosen: Plan, *, detail: Callable[[str], None]) -> None:
    """Raise ResolutionError where packages of the foundation would overwrite each other's files.

    Nothing is fetched but the list of each wheel's files; where an index doesn't give it, ``detail`` says so, and the
    gate looks after the installation.
    """
    wanted = [
        remote.Wanted(name=package.name, url=str(wheel["url"]), sha256=plan.sha256(wheel), size=wheel.get("size"))
        for package in chosen.layer(plan.FOUNDATION)
        for wheel in package.table.get("wheels", ())[:1]
        if wheel.get("url") and plan.sha256(wheel)
    ]
    logins = index_module.logins(project.indexes, uv.env)
    answer = remote.records(wanted, logins=logins, env=uv.env, offline=uv.offline)
    for name, why in sorted(answer.passed_over.items()):
        detail(f"the files of {name} are not known before it is installed: {why}")
    files = {name: collisions.installed_files(text) for name, text in answer.records.items()}
    if found := collisions.find(files):
        versions = {package.name: package.version for package in chosen.packages}
        raise collisions.refusal(found, versions, backend=chosen.backend)


def _resolve_recorded(project: Project, uv: Uv, question: Question, record: Record, *, platform: str) -> Resolved:
    """From the recorded source, at the recorded versions: there is no choice where a record exists."""
    index = record.sources[platform]
    if index != resolution.DEFAULT_SOURCE and index not in project.indexes.named:
        raise ProjectError(
            f"the record's files come from the index {index!r}, which uv.toml does not have",
            path=record.path,
            hint=f'add it to uv.toml: [[index]] name = "{index}", url = ..., explicit = true; or record anew: '
            f"{record.again}",
        )
    held = tuple(Pin(name=p.name, version=p.version) for p in record.on(platform).values())
    asked = replace(question, pins=held, source=Source(index=index))
    try:
        resolved = solve.resolve_backend(project, uv, project.overlay(record.backend), asked, platform=platform)
    except ResolutionError as error:
        if _is_gone(error, record) or ASKED_WITH in error.message:
            raise
        raise record.misfit(f"the record and the lock don't resolve together: {error.message}") from error
    if not question.alone:
        record.require_same((pin.name for pin in resolved.foundation), platform=platform)
    return resolved


def expired(project: Project, uv: Uv, overlay: Overlay, error: MlenvError) -> ResolutionError | None:
    """The error where a nightly pin is no longer on its index, which keeps only the newest; else None.

    ``error`` is why that is asked: the index lacks a release, or, where its page comes from a cache, a file of it.
    """
    if overlay.channel != "nightly" or overlay.torch_version is None or uv.offline:
        return None
    if not any(words in error.message for words in ("there is no version of", "was not found", "404 Not Found")):
        return None
    gone = [root for root in overlay.roots() if releases.is_gone(project, uv, overlay, root)]
    if not gone:
        return None
    nearest = releases.nearest(project, uv, overlay, torch=overlay.torch_version)
    near = f"torch {nearest} is the nearest that is still there" if nearest else "no nightly of torch is there any more"
    return ResolutionError(
        f"{gone[0]} of {overlay.path} has expired: a nightly index keeps the newest alone; {near}",
        hint=f"`mlenv foundation upgrade --nightly --backend {overlay.backend}` takes the newest",
    )


def _of_mixed_days(overlay: Overlay, error: MlenvError) -> ResolutionError | None:
    """The error where nightlies that were not built together may be why nothing goes together; else None."""
    if overlay.mixed_days is None or not isinstance(error, ResolutionError):
        return None
    return ResolutionError(
        f"{overlay.mixed_days}; those of one day belong together\n{error.message}",
        hint=f"`mlenv foundation upgrade --nightly --backend {overlay.backend}` takes the newest that do",
    )


def _is_gone(error: MlenvError, record: Record) -> bool:
    """Whether the index lacks a recorded release, rather than that something contradicts it."""
    return any(f"there is no version of {p.name}=" in error.message for p in record.packages)


def held_to_record(made: Plan, record: Record, platform: str) -> Plan:
    """The plan with only the recorded files of the foundation. Raises IntegrityError where one isn't in it."""
    packages: Iterable[plan.Planned] = (
        replace(package, table=record.held(package.name, package.table, platform=platform))
        if package.layer == plan.FOUNDATION
        else package
        for package in made.packages
    )
    return replace(made, packages=tuple(packages))


def pins_on(project: Project, platform: str) -> tuple[Pin, ...]:
    """The lock's pins that apply on a platform."""
    assert project.lock is not None
    return tuple(lockfile.applying(project.lock.pins, environment_of(project, platform)))


def environment_of(project: Project, platform: str) -> dict[str, str]:
    """PEP 508's variables of a platform of the lock."""
    return platforms.environment(platform, python_of(project))


def python_of(project: Project) -> str:
    """The Python that the lock is made for, ``3.11``."""
    header = project.lock.header if project.lock is not None else None
    return header.python if header else project.target_python[0]
