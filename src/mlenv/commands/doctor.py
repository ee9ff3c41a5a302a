"""``mlenv doctor``: everything that could be wrong here, each finding with the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import drift, lockfile, platforms, selection
from mlenv.backend import Named
from mlenv.catalogue import load
from mlenv.diagnosis import coupled, disks, driver, environment, overlays, records, sources, variables
from mlenv.diagnosis.coupled import Wanted
from mlenv.diagnosis.driver import Judged
from mlenv.diagnosis.sources import Asked
from mlenv.errors import MlenvError, ProjectError
from mlenv.indexes import to_uv_toml
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Area, Finding, Outcome
from mlenv.system import disks as disk_module
from mlenv.system import files
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv
from mlenv.values import dataclass

OLDEST_UV = Version("0.13.9")
ELSEWHERE = "not looked at: --machine judges another machine"
_FAULT = "this is a fault of mlenv; report it with what it says"
Check = Callable[[], Area]


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is looked at. ``load`` reads the project's settings, and is None outside a project.

    ``find_uv`` and ``observe`` may fail like any check. ``elsewhere`` says that the machine is not this one.
    """

    root: Path
    load: Callable[[], Project] | None
    find_uv: Callable[[], Uv]
    observe: Callable[[], Machine]
    environ: Mapping[str, str]
    elsewhere: bool = False

    @cached_property
    def project(self) -> Project | None:
        """The project, or None outside one; what its files say is told below their area. Raises ProjectError."""
        return None if self.load is None else replace(self.load(), tell=lambda _: None)

    @cached_property
    def inside(self) -> Project:
        """The project, for checks of it."""
        assert self.project is not None
        return self.project

    @cached_property
    def machine(self) -> Machine:
        """The machine that is judged."""
        return self.observe()

    @cached_property
    def uv(self) -> Uv:
        """uv. Raises FaultError."""
        return self.find_uv()

    @property
    def readable(self) -> Project | None:
        """The project, or None outside one or where its settings can't be read: that is told in its own area."""
        try:
            return self.project
        except MlenvError:
            return None

    @cached_property
    def gets(self) -> Judged:
        """How the backend of a machine is judged here; only mlenv's own catalogue where the project has no other."""
        project, judged = self.readable, Judged(catalogue=load())
        if project is not None:
            with suppress(MlenvError):  # each told in its own area
                judged = replace(judged, catalogue=project.usable_catalogue)
            with suppress(MlenvError):
                judged = replace(judged, python=project.target_python[0])
            with suppress(MlenvError):
                judged = replace(judged, declared=selection.declared(project))
            chosen = project.settings.backend
            if chosen in judged.declared:
                judged = replace(judged, chosen=chosen, said_by=project.settings.origins.get("backend"))
        return judged

    @cached_property
    def backend(self) -> str | None:
        """The backend that this machine gets without being told, or None."""
        return driver.backend_of(self.gets, self.machine)


def doctor(patient: Patient) -> Outcome:
    """Look at every area, each apart from the others: one that can't be looked at is a finding of its own.

    The exit status is 1 where there is an error or a warning; notes don't count.
    """
    asked = _ask(patient)
    try:
        areas = list(_examined(_checks(patient)))
        areas.append(_indexes(patient, asked, areas))
    except BaseException:
        if isinstance(asked, Asked):
            sources.abandon(asked)
        raise
    areas = _once(areas)
    findings = tuple(finding for area in areas for finding in area.findings)
    wrong = [finding for finding in findings if finding.severity != "note"]
    data = {"healthy": not wrong, "project": str(patient.root) if patient.load else None}
    data |= {"areas": [area.as_json() for area in areas]}  # type: ignore[dict-item]
    return Outcome(
        text=_summary(patient, wrong), data=data, findings=findings, areas=tuple(areas), exit_code=1 if wrong else 0
    )


def _summary(patient: Patient, wrong: list[Finding]) -> str:
    outside = "" if patient.load else f"; {patient.root} is no project of mlenv's, so only the machine was looked at"
    if not wrong:
        return f"nothing is wrong{outside}"
    return f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong{outside}"


def _checks(patient: Patient) -> Iterator[tuple[str, Check]]:
    """The areas in the order they are shown; the indexes come last, as they take longest."""
    yield "driver", lambda: _driver(patient)
    yield "uv", lambda: _here(patient, "uv", _uv)
    yield "disks", lambda: _here(patient, "disks", _disks)
    yield "variables", lambda: _here(patient, "variables", _variables)
    if patient.load is not None:
        yield "project", lambda: _project(patient)
        yield "overlays", lambda: _overlays(patient)
        yield "lock", lambda: _lock(patient)
        yield "packages", lambda: _packages(patient)
        yield "environment", lambda: _here(patient, "environment", _environment)


def _examined(checks: Iterator[tuple[str, Check]]) -> Iterator[Area]:
    for name, check in checks:
        yield _guarded(name, check)


def _guarded(name: str, check: Check) -> Area:
    """The area; what keeps it from being looked at is a finding, and the others are still looked at."""
    try:
        return check()
    except Exception as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Area:
    if isinstance(error, MlenvError):
        path = str(error.path) if error.path else None
        finding = Finding(kind="unusable", message=error.message, path=path, line=error.line, hint=error.hint)
    else:
        reason = f"{type(error).__name__}: {error}"
        finding = Finding(kind="check-failed", message=f"could not be looked at: {reason}", hint=_FAULT)
    return Area(name=name, seen="could not be looked at", findings=(finding,), skipped=True)


def _once(areas: list[Area]) -> list[Area]:
    """A file that can't be used keeps several areas from being looked at, and is told once."""
    seen: set[str] = set()
    told = []
    for area in areas:
        if area.skipped and area.findings and all(str(finding) in seen for finding in area.findings):
            where = area.findings[0].path or "the above"
            area = Area(name=area.name, seen=f"not looked at: {where} comes first", skipped=True)
        seen |= {str(finding) for finding in area.findings}
        told.append(area)
    return told


def _here(patient: Patient, name: str, check: Callable[[Patient], Area]) -> Area:
    """An area that is about this machine alone."""
    return Area(name=name, seen=ELSEWHERE, skipped=True) if patient.elsewhere else check(patient)


def _driver(patient: Patient) -> Area:
    return driver.judge(patient.gets, patient.machine, linux_drivers=_linux_drivers(patient))


def _linux_drivers(patient: Patient) -> tuple[str, ...]:
    return () if patient.elsewhere or not patient.machine.wsl else disk_module.linux_drivers()


def _uv(patient: Patient) -> Area:
    version = uv_module.version(patient.uv)
    findings: tuple[Finding, ...] = ()
    if Version(version) < OLDEST_UV:
        message = f"uv {version} is older than {OLDEST_UV}"
        why = "mlenv reads what newer ones say, and older ones have known holes in how they unpack archives"
        findings = (Finding(kind="uv-old", message=message, why=why, hint="`pip install -U uv` beside mlenv"),)
    return Area(name="uv", seen=f"{version}, {patient.uv.binary}", findings=(*findings, *_python(patient)))


def _python(patient: Patient) -> Iterator[Finding]:
    """Whether uv finds the target Python here."""
    if patient.gets.python is None:
        return
    try:
        uv_module.find_python(patient.uv, patient.gets.python)
    except ProjectError as error:
        why = "`mlenv sync` builds environments with the Python that the lock is made for"
        yield Finding(kind="python-missing", message=error.message, why=why, hint=error.hint)


def _disks(patient: Patient) -> Area:
    config, said = "", None
    with suppress(MlenvError):  # told in its own area; uv's defaults are judged
        if patient.project is not None:
            config, said = to_uv_toml(patient.project.indexes), patient.project.indexes.forwarded.get("link-mode")
    link_mode = patient.environ.get("UV_LINK_MODE") or said
    cache = disk_module.look(uv_module.cache_folder(patient.uv, config=config))
    project = disk_module.look(patient.root) if patient.load else None
    return disks.judge(patient.machine, project, cache, link_mode=None if link_mode is None else str(link_mode).lower())


def _variables(patient: Patient) -> Area:
    try:
        project, backend = patient.project, patient.backend
        place = selection.environment(project, backend, asked=None).path if project else None
    except MlenvError:
        backend, place = None, None
    return variables.judge(
        patient.environ,
        dropped=uv_module.dropped(patient.environ),
        backend=backend,
        environment=place,
        names=files.names_in,
        resolve=Path.resolve,
    )


def _project(patient: Patient) -> Area:
    """Whether its files can be used; what uv.toml says and mlenv drops."""
    project = patient.inside
    requirements, indexes = project.requirements, project.indexes
    python, origin = project.target_python
    direct = len(requirements.direct)
    seen = f"{direct} direct requirement{'' if direct == 1 else 's'}, Python {python} (from {origin})"
    return Area(name="project", seen=seen, findings=(*indexes.notes, *_backend_of_settings(project)))


def _backend_of_settings(project: Project) -> Iterator[Finding]:
    """The backend of the settings, where no overlay declares it."""
    chosen = selection.request(project, backend=None, flag=None)
    if not isinstance(chosen, Named) or chosen.backend in project.overlays:
        return
    yield Finding(
        kind="backend-undeclared",
        message=f"{chosen.said_by} asks for backend {chosen.backend}, and there is no overlay of it",
        why="`mlenv sync` and `mlenv detect` stop unless they are told another",
        hint=f"change {chosen.said_by}; or {project.catalogue.overlay_hint(chosen.backend)}",
    )


def _overlays(patient: Patient) -> Area:
    project = patient.inside
    together = [name for name in project.locked_overlays if name not in project.settings.unproven]
    judged = overlays.judge(
        project.catalogue,
        project.overlays,
        python=project.target_python[0],
        together=together,
        shared=lambda name: not project.names.owns(name),
        roots=project.settings.foundation.roots,
    )
    return replace(judged, findings=(*judged.findings, *records.examine(project)))


def _lock(patient: Patient) -> Area:
    locks = patient.inside.locks
    findings = tuple(finding for seen in locks for finding in (*drift.check_lock(seen), *_made_for(seen, patient)))
    told = (f"{one.settings.lock} ({len(one.lock.pins)} packages)" if one.lock else one.settings.lock for one in locks)
    return Area(name="lock", seen=", ".join(told), findings=findings)


def _made_for(seen: Project, patient: Patient) -> Iterator[Finding]:
    """Whether the lock is made for the machine's platform; a lock that is not there is told elsewhere."""
    header, platform = seen.lock.header if seen.lock else None, patient.machine.platform
    if header is None or platform in header.platforms:
        return
    machine = "that machine" if patient.elsewhere else "this machine"
    yield Finding(
        kind="lock-platform",
        message=f"the lock is made for {', '.join(header.platforms)}; {machine} is {platform}",
        path=seen.settings.lock,
        why=f"`mlenv sync` refuses it on {machine}",
        hint=platforms.adding(platform, to=header.platforms),
    )


def _packages(patient: Patient) -> Area:
    project = patient.inside
    built = [canonicalize_name(name) for name in project.settings.build_against_foundation]
    findings: dict[str, Finding] = {}
    coupled_here: set[str] = set()
    for seen, platform in product(project.locks, project.settings.platforms):
        wanted = _wanted(project, seen, platform)
        coupled_here |= {package.name for package in wanted} & coupled.known_names()
        overlays_ = [o for name, o in seen.locked_overlays.items() if name not in project.settings.unproven]
        for finding in coupled.judge(wanted, overlays_, proven=_proven(seen), built_against=built):
            findings.setdefault(finding.message, finding)
    names = ", ".join(sorted(coupled_here))
    seen_words = f"coupled to torch or CUDA: {names}" if names else "none is coupled to torch or CUDA"
    return Area(name="packages", seen=seen_words, findings=tuple(findings.values()))


def _proven(seen: Project) -> Collection[str]:
    """The backends that the lock is proven on as they are now: a lock that isn't current proves nothing of them."""
    header = seen.lock.header if seen.lock else None
    return () if header is None or drift.check_lock(seen) else header.proven


def _wanted(project: Project, seen: Project, platform: str) -> list[Wanted]:
    """What a platform gets of the lock, and what the requirements files ask for beside it: foundation, or all."""
    target = {**platforms.environment(platform, seen.target_python[0]), "extra": ""}
    pins = lockfile.applying(seen.lock.pins if seen.lock else (), target)
    found = {pin.name: Wanted(name=pin.name, version=pin.version) for pin in pins}
    for _, entry in project.requirements.direct:
        asked = entry.requirement
        if asked.marker is None or asked.marker.evaluate(target):
            name = canonicalize_name(asked.name)
            version = found[name].version if name in found else None
            found[name] = Wanted(name=name, version=version, extras=frozenset(asked.extras))
    return list(found.values())


def _environment(patient: Patient) -> Area:
    project = patient.inside
    place = selection.environment(project, patient.backend, asked=None)
    return environment.examine(project, patient.machine, place)


def _ask(patient: Patient) -> Asked | Area:
    """Start to ask the indexes, so that they answer while the rest is looked at; the area where none is asked."""
    if patient.load is None:
        return Area(name="indexes", seen="not looked at: there is no overlay to look for", skipped=True)
    try:
        if patient.uv.offline:
            return Area(name="indexes", seen="not looked at: --offline", skipped=True)
        return sources.ask(patient.inside, patient.uv, platform=patient.machine.platform)
    except Exception as error:
        return _failed("indexes", error)


def _indexes(patient: Patient, asked: Asked | Area, before: list[Area]) -> Area:
    if isinstance(asked, Area):
        return asked
    if any(found.kind == disks.CACHE_NOT_WRITABLE for area in before for found in area.findings):
        sources.abandon(asked)
        return Area(name="indexes", seen="not looked at: uv's cache comes first", skipped=True)
    return _guarded("indexes", lambda: sources.finish(asked, needed=patient.backend))
