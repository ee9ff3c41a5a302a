"""Declared against locked: whether the lock is current. Offline, without uv, nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlenv import freshness, lockfile, platforms
from mlenv.errors import FindingError, ProjectError
from mlenv.lockfile import Header, Lock, Pin, digest
from mlenv.project import Project
from mlenv.report import Finding

RELOCK = "run `mlenv lock`"


def inputs(project: Project) -> dict[str, str]:
    """path → digest of the meaning of every requirements file and of every local project's dependencies."""
    from mlenv.requirements import WORKSPACE_FILE, meaning

    files = (file for file in project.requirements.files if file.path != WORKSPACE_FILE)
    found = {file.path: digest(meaning(file)) for file in files}
    for local in project.requirements.local_projects:
        found[local.metadata_path] = digest(local.dependency_text)
    return found


def overlays(project: Project) -> dict[str, str]:
    """path → digest of the meaning of every overlay that the lock is proven on."""
    from mlenv.overlay import meaning

    return {
        o.path: digest(meaning(o))
        for name, o in project.locked_overlays.items()
        if name not in project.settings.unproven
    }


def settings(project: Project) -> str:
    """The digest of the settings that shape the lock, uv.toml's bounds among them."""
    from mlenv.settings import lock_meaning

    return digest(lock_meaning(project.settings) + project.of_all.upload_bounds)


def plugins(project: Project) -> dict[str, str]:
    """Backend and the package that brings it → digest of the names that it adds, as in the header."""
    found = project.plugin_names.items()
    return {f"{backend} {package}": digest("\n".join(sorted(names))) for (backend, package), names in found}


def lacking_plugins(project: Project) -> tuple[Finding, ...]:
    """The plugins that the lock was made with, for overlays that are still there, and that can't be used here."""
    lock = project.lock
    if lock is None or lock.header is None or not lock.header.plugins:
        return ()
    there = {plugin.project for plugin in project.plugins.usable}
    brought = {who: who.split(" ", 1) for who in sorted(lock.header.plugins)}
    return tuple(
        _lacking(project, backend, package, line=lock.lines.get(f"plugin:{who}"))
        for who, (backend, package) in brought.items()
        if package not in there and backend in project.locked_overlays
    )


def _lacking(project: Project, backend: str, package: str, *, line: int | None) -> Finding:
    path, broken = project.settings.lock, project.plugins.broken(package)
    if broken is not None:
        return replace(broken, kind="lock-plugin-missing", path=path, line=line, severity="error")
    message = f"{backend} is brought by {package}, which isn't installed here"
    hint = (
        f"install it beside mlenv (`uv tool install mlenv --with {package}`, or `pip install {package}`); where it is "
        f"wanted no more, take this line out of {path} and run `mlenv lock`"
    )
    return Finding(kind="lock-plugin-missing", message=message, path=path, line=line, hint=hint)


def require_current(project: Project) -> None:
    """Raise FindingError where the lock is missing or not current, with the reasons."""
    if is_current(project):
        return
    findings = check_lock(project)
    told = "\n".join(f"  {finding}" for finding in findings[:6])
    state = "missing" if findings[0].kind == "lock-missing" else "not current"
    raise FindingError(f"{project.settings.lock} is {state}:\n{told}", hint=findings[0].hint or RELOCK)


def is_current(project: Project) -> bool:
    """Whether there is a lock that is current."""
    return _quick_yes(project) or not check_lock(project)


def _quick_yes(project: Project) -> bool:
    """Whether no byte changed since the lock was made (docs/adr/0009); where one did, its meaning is looked at."""
    tried = project.tried or project.bare or project.alone is not None
    found = None if tried else freshness.unchanged(project.root, {})
    return found is not None and found[0] == project.settings.lock


def check_lock(project: Project) -> tuple[Finding, ...]:
    """Everything that makes the lock not current, most telling first; empty where it is current."""
    path = project.settings.lock
    if project.lock_text is None:
        return (Finding(kind="lock-missing", message="there is no lock", path=path, hint=RELOCK),)
    lock = project.lock
    assert lock is not None
    if lock.conflicts:
        return _conflict_in_inputs(project) + tuple(
            Finding(
                kind="lock-conflict", message="a conflict marker of git was left", path=path, line=line, hint=RELOCK
            )
            for line in lock.conflicts
        )
    if lock.torn is not None:
        return (Finding(kind="lock-torn", message=lock.torn.message, path=path, hint=lock.torn.hint),)
    if lock.header is None:
        message = "this lock was not written by mlenv: nothing says what it was made from"
        return (Finding(kind="lock-foreign", message=message, path=path, hint=f"{RELOCK}; it keeps the pins"),)
    if lock.header.scheme > lockfile.SCHEME:
        message = (
            f"this lock was written by a newer mlenv (scheme {lock.header.scheme}; this one knows {lockfile.SCHEME})"
        )
        return (Finding(kind="lock-newer", message=message, path=path, hint="upgrade mlenv"),)
    if lacking := lacking_plugins(project):
        return (*_body(project, lock), *lacking)  # what else there is to say depends on them
    return (
        *_body(project, lock),
        *_changed(project, lock, "input", *_comparable(project, lock.header)),
        *_changed(project, lock, "overlay", overlays(project), lock.header.overlays),
        *_plugins(project, lock, lock.header),
        *_target(project, lock, lock.header),
        *_contents(project, lock),
        *_beside(project, lock.header),
    )


def _beside(project: Project, header: Header) -> tuple[Finding, ...]:
    """At a workspace's root: members that came or went. In a member: whether its lock is the one that was made there.

    That each member's lock is as it was made is asked when that lock is looked at.
    """
    if project.member is None:
        views = (project.of_member(member) for member in project.workspace.together)
        there = {(view if project.alone is None else view.of_lock(project.alone)).settings.lock for view in views}
        told = [f"{lock} is a new member's" for lock in sorted(there - header.members.keys())]
        told += [f"{lock} is no member's any more" for lock in sorted(header.members.keys() - there)]
        where = project.settings.lock
        return tuple(Finding(kind="lock-member", message=text, path=where, hint=RELOCK) for text in told)
    whole = project.of_all
    beside = (whole if project.alone is None else whole.of_lock(project.alone)).lock
    made = beside.header.members.get(project.settings.lock) if beside is not None and beside.header else None
    if project.settings.isolated or made == lockfile.digest(lockfile.body_of(project.lock_text or "")):
        return ()
    message = f"was not made together with {whole.settings.lock}, the lock of the whole workspace"
    return (Finding(kind="lock-member", message=message, path=project.settings.lock, hint=RELOCK),)


def check_body(project: Project) -> tuple[Finding, ...]:
    """Whether there is a lock whose body is as mlenv wrote it; nothing else of ``check_lock``."""
    spoiled = ("lock-missing", "lock-conflict", "lock-torn", "lock-foreign", "lock-newer", "lock-edited")
    return tuple(finding for finding in check_lock(project) if finding.kind in spoiled)


def _body(project: Project, lock: Lock) -> tuple[Finding, ...]:
    if lock.as_written:
        return ()
    message = "the pins were changed outside mlenv (by hand, by a bot or by another tool)"
    hint = "run `mlenv lock`; it keeps the pins that fit"
    line = lock.lines.get("body")
    return (Finding(kind="lock-edited", message=message, path=project.settings.lock, line=line, hint=hint),)


def _conflict_in_inputs(project: Project) -> tuple[Finding, ...]:
    """What has to be resolved by hand before `mlenv lock` can mend the lock."""
    try:
        _ = project.requirements
    except ProjectError as error:
        path = str(error.path) if error.path else None
        return (Finding(kind="input-unusable", message=error.message, path=path, line=error.line, hint=error.hint),)
    return ()


def _comparable(project: Project, header: Header) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The digests of the inputs, now and then.

    Which extras and groups of a pyproject.toml count is a setting: where that changed, its digest says nothing more.
    """
    now, then = inputs(project), header.inputs
    if settings(project) == header.settings:
        return now, then
    chosen = {file.path for file in project.requirements.files if file.project is not None}
    return tuple({k: v for k, v in each.items() if k not in chosen} for each in (now, then))  # type: ignore[return-value]


def _changed(
    project: Project, lock: Lock, kind: str, now: Mapping[str, str], then: Mapping[str, str]
) -> tuple[Finding, ...]:
    found = []
    for name in sorted({*now, *then}):
        if now.get(name) == then.get(name):
            continue
        line = lock.lines.get(f"{kind}:{name}")
        message = f"{name} {_what_changed(project, name, now, then)}"
        where = project.settings.lock
        found.append(Finding(kind=f"lock-{kind}-changed", message=message, path=where, line=line, hint=RELOCK))
    return tuple(found)


def _plugins(project: Project, lock: Lock, header: Header) -> tuple[Finding, ...]:
    now, found = plugins(project), []
    for who in sorted(now.keys() | header.plugins.keys()):
        backend, package = who.split(" ", 1)
        if now.get(who) == header.plugins.get(who) or backend not in project.locked_overlays:
            continue
        told = "owns other names" if who in header.plugins else f"brings {backend} and is new"
        message, line = f"{package} {told} since the lock was made", lock.lines.get(f"plugin:{who}")
        where = project.settings.lock
        found.append(Finding(kind="lock-plugin-changed", message=message, path=where, line=line, hint=RELOCK))
    return tuple(found)


def _what_changed(project: Project, name: str, now: Mapping[str, str], then: Mapping[str, str]) -> str:
    if name in now and name in then:
        return "was changed since the lock was made"
    if name in now:
        return "is new since the lock was made"
    if (project.root / name).is_file():
        return "counts no more for this lock, by the settings or the command line"
    return "is gone since the lock was made"


def _target(project: Project, lock: Lock, header: Header) -> tuple[Finding, ...]:
    wanted = {
        "settings": (settings(project), header.settings, "the settings that shape the lock were changed"),
        "platform": (
            project.settings.platforms,
            header.platforms,
            f"the lock is for {', '.join(header.platforms)}, the settings want {', '.join(project.settings.platforms)}",
        ),
        "python": (
            project.settings.python or header.python,
            header.python,
            f"the lock is for Python {header.python}, the settings want {project.settings.python}",
        ),
    }
    return tuple(
        Finding(kind=f"lock-{k}-changed", message=text, path=project.settings.lock, line=lock.lines.get(k), hint=RELOCK)
        for k, (now, then, text) in wanted.items()
        if now != then
    )


def _contents(project: Project, lock: Lock) -> tuple[Finding, ...]:
    path = project.settings.lock
    found = []
    for pin in lock.pins:
        if project.names.owns(pin.name):
            message = f"{pin.name} is foundation and does not belong into the lock"
            found.append(Finding(kind="lock-foundation", message=message, path=path, line=pin.line, hint=RELOCK))
        elif not lockfile.are_strong(pin.hashes):
            message = f"{pin.name} has {'a weak' if pin.hashes else 'no'} hash"
            found.append(Finding(kind="lock-hash", message=message, path=path, line=pin.line, hint=RELOCK))
    return (*found, *_direct(project, lock))


def _direct(project: Project, lock: Lock) -> tuple[Finding, ...]:
    """Each direct requirement has a pin that satisfies it, on every platform that it is for."""
    header = lock.header
    assert header is not None
    targets = [platforms.environment(platform, header.python) for platform in header.platforms]
    pinned = [{pin.name: pin for pin in lockfile.applying(lock.pins, target)} for target in targets]
    found = []
    for file, entry in project.requirements.direct:
        name = canonicalize_name(entry.requirement.name)
        if project.names.owns(name):
            continue
        marker = entry.requirement.marker
        wanted = [pins for target, pins in zip(targets, pinned, strict=True) if _applies(marker, target)]
        unmet = next((pins for pins in wanted if not _satisfied(pins.get(name), entry.requirement)), None)
        if unmet is not None:
            have = f"the lock has {unmet[name].version}" if name in unmet else "the lock does not have it"
            message = f"{entry.requirement} is not satisfied: {have}"
            found.append(
                Finding(kind="lock-unsatisfied", message=message, path=file.path, line=entry.line, hint=RELOCK)
            )
    return tuple(found)


def _satisfied(pin: Pin | None, requirement: Requirement) -> bool:
    if pin is None:
        return False
    return pin.version is None or requirement.specifier.contains(pin.version, prereleases=True)


def _applies(marker: Marker | None, target: Mapping[str, str]) -> bool:
    return marker is None or marker.evaluate({**target, "extra": ""})
