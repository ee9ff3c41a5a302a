"""Make the lock: requirements and overlays in, the text of ``requirements.txt`` out."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field, replace
from functools import cached_property, partial

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import agreement, drift, freshness, heldback, lockfile, plan, platforms, resolution, solve, subset
from mlenv.errors import (
    ConflictError,
    FindingError,
    MlenvError,
    NoWheelError,
    ProjectError,
    ResolutionError,
    UsageError,
)
from mlenv.foundation import ROOT_NAMES
from mlenv.location import CONSTRAINTS, PROJECT_FILE
from mlenv.lockfile import Header, Pin, Style
from mlenv.overlay import Overlay, contradictions
from mlenv.project import Project
from mlenv.proof import Prover
from mlenv.report import Finding
from mlenv.requirement_lines import canonical
from mlenv.resolution import Change, Resolved, Source
from mlenv.solve import Question
from mlenv.system import process
from mlenv.system import uv as uv_module
from mlenv.system.uv import Upgrade, Uv
from mlenv.system.uv_messages import MOVE_THE_OTHER
from mlenv.values import dataclass

Progress = Callable[[str], None]
_AT_ONCE = 2
_TELLS_WHICH = "`mlenv lock --verify-hashes` tells which"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How one backend was proven on one platform: its torch, where its foundation came from, the seconds it took."""

    backend: str
    platform: str
    torch: str | None
    source: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What ``mlenv lock`` is asked to do with what is there: which pins may move, whether hashes are fetched anew.

    ``overrides`` are the settings of the command line.
    """

    upgrade: Upgrade = field(default_factory=Upgrade)
    refresh_hashes: bool = False
    style: Style = field(default_factory=Style)
    command: str = "mlenv lock"
    overrides: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NewLock:
    """A lock that was made and not yet written; ``pins`` are what it holds."""

    text: str
    pins: tuple[Pin, ...]
    changes: tuple[Change, ...]
    proofs: tuple[Proof, ...]
    unproven: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class _OnPlatform:
    """One platform's part: its prover, and the resolution of each backend. ``roots`` are those of its roots alone."""

    prover: Prover
    found: Mapping[str, Resolved]
    overlays: Sequence[Overlay]
    roots: dict[str, Resolved] = field(default_factory=dict)

    @cached_property
    def wanted(self) -> subset.Wanted:
        """What all of it was asked for by."""
        target = platforms.environment(self.prover.platform, self.prover.question.python)
        return subset.wanted_by(self.prover.project, environment=target)


@dataclass(frozen=True, kw_only=True)
class _Resolution:
    """Everything that a lock is written from. ``before`` is a digest of the bytes that were read."""

    python: str
    parts: Mapping[str, _OnPlatform]
    findings: tuple[Finding, ...]
    before: str


def make_all(project: Project, uv: Uv, wish: Wish, *, progress: Progress) -> list[tuple[Project, NewLock]]:
    """Every lock of the project, the main one first; its pins are preferred in those of backends apart.

    In a workspace each lock of the root is followed by the members', and those that are isolated come last.
    Each with the project as that lock sees it. Raises as ``make``.
    """
    made: list[tuple[Project, NewLock]] = []
    for part in project.locks:
        alone = part.alone is not None
        preferred = made[0][1].pins if alone and made else ()
        asked = wish if not alone else replace(wish, upgrade=_where_locked(part, wish.upgrade))
        views = _views(part)
        _require_one_python(part, views)
        everything = replace(part, resolving=True) if views else part
        for view in (part, *views):
            _ = view.requirements  # as they are now: what is saved while this resolves is not in these locks
        members: list[tuple[Project, NewLock]] = []
        cut = partial(_add_members, members, views, uv, asked)
        with _members_named(everything):
            whole = _resolve(everything, uv, asked, progress=progress, preferred=preferred, meanwhile=cut)
        if views and part.workspace.groups:  # they are in a lock of their own
            whole = replace(_cut(part, uv, whole), findings=whole.findings)
        made += [(part, _rendered(part, asked, whole, members=members)), *members]
    for member in project.workspace.members if project.member is None else ():
        if member.isolated:
            apart = project.of_member(member)
            asked = replace(wish, upgrade=_for_isolated(_where_locked(apart, wish.upgrade)))
            progress(f"{member.name} is isolated: resolving it by itself")
            made += make_all(apart, uv, asked, progress=progress)
    return made


@contextmanager
def _members_named(project: Project) -> Iterator[None]:
    """A conflict is told with the lines of the members that say what is in it."""
    try:
        yield
    except ConflictError as error:
        if project.workspace.members and project.member is None:
            lines = dict(_lines_in(error.message, project))
            error.message = "\n".join([error.message, *(f"  {line}" for line in lines)])
            if len(lines) > 1 and error.hint:  # no pin is in the way that could move
                error.hint = error.hint.replace(MOVE_THE_OTHER, "")
            error.hint = f"{error.hint}; {_apart(project, lines.values())}"
        raise


def _apart(project: Project, paths: Iterable[str]) -> str:
    """Where it is written that one of the members which these files belong to is resolved by itself."""
    members = [project.workspace.holding(posixpath.dirname(path)) for path in paths]
    files = dict.fromkeys(f"{member.folder}/{PROJECT_FILE}" for member in members if member is not None)
    where = " or ".join(files) or f"its {PROJECT_FILE}"
    return f"a member that can't agree is resolved by itself: isolated = true in [tool.mlenv] of {where}"


def _lines_in(message: str, project: Project) -> Iterator[tuple[str, str]]:
    """The direct requirements that a message speaks of, with file and line, and the file alone."""
    for file, entry in project.requirements.direct:
        text = canonical(entry.requirement).partition(" ;")[0]
        if re.search(rf"(?<![\w.-]){re.escape(text)}(?![\w.,<>=!~\[-]*[\w\]])", message):
            yield f"{file.path}:{entry.line} requires {entry.requirement}", file.path


def _require_one_python(part: Project, views: Sequence[Project]) -> None:
    """A member may be for a patch release of the Python that all are locked for. Raises ProjectError for another."""
    whole = part.target_python[0]
    for view in views:
        own = view.settings.python
        if own is not None and not f"{own}.".startswith(f"{whole}."):
            assert view.member is not None
            raise ProjectError(
                f"python is {own}, and the workspace is locked for {whole}",
                path=f"{view.member.folder}/{PROJECT_FILE}",
                hint="one resolution is for one Python: write isolated = true to resolve this member by itself",
            )


def _views(part: Project) -> list[Project]:
    """A workspace as each of the members sees it that are resolved together; of one member, and without any, none."""
    if part.member is not None:
        return []
    views = [part.of_member(member) for member in part.workspace.together]
    return views if part.alone is None else [view.of_lock(part.alone) for view in views]


def _add_members(
    members: list[tuple[Project, NewLock]], views: Sequence[Project], uv: Uv, wish: Wish, whole: _Resolution
) -> None:
    members += _members(views, uv, wish, whole)


def _members(views: Sequence[Project], uv: Uv, wish: Wish, whole: _Resolution) -> list[tuple[Project, NewLock]]:
    """The lock of each member that is resolved with the others: what it needs of the whole."""
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        cut = list(pool.map(lambda view: _cut(view, uv, whole), views))
    return [(view, _rendered(view, wish, mine)) for view, mine in zip(views, cut, strict=True)]


def _cut(view: Project, uv: Uv, whole: _Resolution) -> _Resolution:
    """The part of a resolution that one member needs, for the backends that it is proven on."""
    parts = {}
    for platform, part in whole.parts.items():
        target = platforms.environment(platform, whole.python)
        overlays = [overlay for overlay in part.overlays if overlay.backend in view.locked_overlays]
        alone = _Alone(view=view, uv=uv, part=part)
        found = {}
        for overlay in overlays:
            wanted = subset.wanted_by(view, overlay, environment=target)
            answer = part.found[overlay.backend]
            found[overlay.backend] = subset.part_of(answer, wanted, of=part.wanted, alone=partial(alone.on, overlay))
        parts[platform] = _OnPlatform(prover=part.prover, found=found, overlays=overlays)
    narrower = view.settings.python or whole.python  # 3.11.7 where all are locked for 3.11
    return replace(whole, python=narrower, parts=parts, findings=(), before="")


@dataclass(frozen=True, kw_only=True)
class _Alone:
    """One member resolved by itself on one platform, at the pins of all.

    What it asks for is the same on every backend, what the roots bring is the same for every member: each is resolved
    once, and a member needs both.
    """

    view: Project
    uv: Uv
    part: _OnPlatform

    def on(self, overlay: Overlay) -> Mapping[str, Pin]:
        """Every package that it needs on one backend, and who of the member brings it."""
        pins = self.part.found[overlay.backend].pins
        roots = overlay.roots(self.view.settings.foundation.roots)
        if any(not {*pins[name].extras} <= extras for name, extras in _extras(roots).items() if name in pins):
            return self._with_roots(self.view, overlay).pins  # what an extra of a root brings is one member's alone
        if overlay.backend not in self.part.roots:
            nothing = replace(self.view, bare=True)
            self.part.roots[overlay.backend] = self._with_roots(nothing, overlay)
        return resolution.union(self._asked.pins, self.part.roots[overlay.backend].pins)

    @cached_property
    def _asked(self) -> Resolved:
        """What it asks for, as if nothing asked for a root."""
        without = {name for overlay in self.part.overlays for name in _extras(overlay.roots())}
        question = self._question(self.view, next(iter(self.part.found.values())))
        return self._offline_first(
            lambda uv: solve.resolve_without_foundation(self.view, uv, question, without=without)
        )

    def _with_roots(self, project: Project, overlay: Overlay) -> Resolved:
        question = self._question(project, self.part.found[overlay.backend])
        platform = self.part.prover.platform
        return self._offline_first(lambda uv: solve.resolve_backend(project, uv, overlay, question, platform=platform))

    def _question(self, project: Project, answer: Resolved) -> Question:
        held = tuple(answer.pins.values())
        prover = self.part.prover
        asked = question_of(project, python=prover.question.python, platform=prover.platform, seed="")
        return replace(asked, pins=held, with_files=False, source=answer.source)

    def _offline_first(self, resolve: Callable[[Uv], Resolved]) -> Resolved:
        """From the cache, which has just seen all of it, unless it keeps nothing."""
        try:
            return resolve(replace(self.uv, offline=True))
        except MlenvError:
            if self.uv.offline:
                raise
        return resolve(self.uv)


def _extras(requirements: Iterable[Requirement]) -> dict[str, set[str]]:
    return {canonicalize_name(one.name): set(one.extras) for one in requirements}


def _for_isolated(upgrade: Upgrade) -> Upgrade:
    """A release that was asked for is one for the members that agree; who is isolated moves as far as it can."""
    return replace(upgrade, packages=tuple(map(upgraded_name, upgrade.packages)))


def _where_locked(part: Project, upgrade: Upgrade) -> Upgrade:
    """The upgrade as far as it is about packages that this lock has."""
    there = {pin.name for pin in part.lock.pins} if part.lock is not None else set()
    packages = tuple(text for text in upgrade.packages if upgraded_name(text) in there)
    return replace(upgrade, packages=packages)


def make(project: Project, uv: Uv, wish: Wish, *, progress: Progress, preferred: Iterable[Pin] = ()) -> NewLock:
    """Resolve the Application against every overlay on every platform, and render the lock.

    Existing pins are kept unless the wish lets them move; ``preferred`` are pins that are taken before those.
    Raises UsageError for an upgrade of a name that isn't there, ProjectError for files that can't be used,
    ResolutionError, PackageIndexError.
    """
    return _rendered(project, wish, _resolve(project, uv, wish, progress=progress, preferred=preferred))


def _resolve(
    project: Project,
    uv: Uv,
    wish: Wish,
    *,
    progress: Progress,
    preferred: Iterable[Pin] = (),
    meanwhile: Callable[[_Resolution], None] = lambda _: None,
) -> _Resolution:
    """``meanwhile`` is called with what is resolved while what would be without the overlays is still asked for."""
    _require_plugins(project)
    overlays = _proven_overlays(project)
    before = freshness.seen(project.root, drift.inputs(project), wish.overrides)
    for line in _rootless(project, overlays):
        progress(f"note: {line}")
    old = _adoptable(project, wish)
    _check_upgrade(project, wish.upgrade, old)
    python, origin = project.target_python
    if project.lock is None and not project.settings.python:
        progress(f"the lock is for Python {python} (from {origin})")
    with _beside(project, uv, python=python, names=[pin.name for pin in old]) as free:
        parts: dict[str, _OnPlatform] = {}
        for platform in project.settings.platforms:
            earlier = [pin for part in parts.values() for pin in _preferable(part)]
            seed = _seed((*preferred, *old, *earlier), platforms.environment(platform, python))
            question = question_of(project, python=python, platform=platform, seed=seed)
            parts[platform] = _on_platform(project, uv, wish, overlays, question, progress=progress)
        _application(project, parts)  # each release has a wheel, or may be built
        found = _Resolution(python=python, parts=parts, findings=tuple(_notes(parts.values())), before=before)
        meanwhile(found)
        held_back = _held_back(project, parts, free=free, progress=progress)
    return replace(found, findings=(*found.findings, *held_back))


def _rendered(
    project: Project, wish: Wish, made: _Resolution, *, members: Sequence[tuple[Project, NewLock]] = ()
) -> NewLock:
    """The text of a lock; a workspace's says of each member's lock what it holds."""
    parts = made.parts
    pins = _application(project, parts)
    if wish.style.strip_extras:
        pins = [replace(pin, extras=()) for pin in pins]
    body = lockfile.render(
        header=_header(project, made.python, parts, members=members),
        pins=pins,
        excluded=_left_out(project, parts.values()),
        command=wish.command,
        style=wish.style,
    )
    text = body
    if made.before and not members:
        text = freshness.stamped(body, project.root, drift.inputs(project), wish.overrides, before=made.before)
    if project.lock_text not in (None, body) and freshness.unstamped(project.lock_text or "") == body:
        text = project.lock_text  # a comment in an input is no reason to write the lock
    return NewLock(
        text=text,
        pins=tuple(pins),
        changes=resolution.changes(project.lock.pins if project.lock else (), pins),
        proofs=tuple(_proofs(parts)),
        unproven=project.settings.unproven,
        findings=(*made.findings, *_other_files(project, wish, pins)),
    )


@contextmanager
def _beside(project: Project, uv: Uv, *, python: str, names: Sequence[str]) -> Iterator[Callable[[], Resolved]]:
    """What would be without the overlays, resolved while the body resolves with them; the call waits for it."""
    if project.settings.held_back == "off" or not names:  # a first lock doesn't know yet what only torch brings
        yield lambda: Resolved(backend="", source=Source(), foundation=(), application=())
        return
    question = question_of(project, python=python, platform=project.settings.platforms[0], seed="")
    foundation = project.lock.excluded if project.lock else ()
    with ThreadPoolExecutor(max_workers=1) as pool:
        started = pool.submit(heldback.without_foundation, project, uv, question, names=names, foundation=foundation)
        try:
            yield started.result
        except BaseException as error:
            if not isinstance(error, Exception):
                process.stop()
            raise


def _on_platform(
    project: Project, uv: Uv, wish: Wish, overlays: Sequence[Overlay], question: Question, *, progress: Progress
) -> _OnPlatform:
    platform = question.platform or ""
    there = [overlay for overlay in overlays if project.catalogue.builds_for(overlay.backend, platform)]
    if not there:
        raise ProjectError(
            f"none of the backends {', '.join(o.backend for o in overlays)} has a build for {platform}",
            hint=f"add an overlay that has one (`mlenv init --backend cpu`), or take {platform} out of platforms",
        )
    prover = Prover(
        project=project, uv=uv, platform=platform, question=question, upgrade=wish.upgrade, progress=progress
    )
    try:
        with _explained(project, wish.upgrade, project.lock.pins if project.lock else ()):
            found = prover.agree(there)
    except NoWheelError as error:
        raise heldback.instead_of(error, prover, there, sorted(question.direct)) from error
    _refuse_collisions(found)
    return _OnPlatform(prover=prover, found=found, overlays=there)


def _header(
    project: Project,
    python: str,
    parts: Mapping[str, _OnPlatform],
    *,
    members: Sequence[tuple[Project, NewLock]],
) -> Header:
    several = len(parts) > 1
    proven = {
        f"{overlay.backend}/{platform}" if several else overlay.backend: _proof_line(part.found[overlay.backend])
        for platform, part in parts.items()
        for overlay in part.overlays
    }
    return Header(
        python=python,
        platforms=project.settings.platforms,
        inputs=drift.inputs(project),
        overlays=drift.overlays(project),
        settings=drift.settings(project),
        proven=proven,
        plugins=drift.plugins(project),
        members={view.settings.lock: lockfile.digest(lockfile.body_of(new.text)) for view, new in members},
    )


def _notes(parts: Iterable[_OnPlatform]) -> Iterable[Finding]:
    told = (note for part in parts for answer in part.found.values() for note in answer.notes)
    return (Finding(kind="source-note", message=note, severity="note") for note in dict.fromkeys(told))


def _other_files(project: Project, wish: Wish, pins: Iterable[Pin]) -> Iterable[Finding]:
    """Releases that have other files than when they were locked: an index may add one, and should never replace one.

    With an upgrade uv keeps the hashes of a release that stays, and adds what the index lists now.
    """
    lock = project.lock
    locked = {(pin.name, pin.version): set(pin.hashes) for pin in lock.pins} if lock and lock.as_written else {}
    for pin in pins:
        before = locked.get((pin.name, pin.version), set())
        gone, new = before - set(pin.hashes), set(pin.hashes) - before
        if not before or not new or (wish.refresh_hashes and not gone):
            continue
        what = "the index replaced a file of this release" if gone else "a file of this release is new, or replaced one"
        told = f"{pin.name} {pin.version}: {what} since it was locked" + ("" if gone else f"; {_TELLS_WHICH}")
        yield Finding(kind="other-files", message=told, severity="warning", package=pin.name)


def _held_back(
    project: Project, parts: Mapping[str, _OnPlatform], *, free: Callable[[], Resolved], progress: Progress
) -> tuple[Finding, ...]:
    """What the overlays keep far behind, as warnings. Raises ResolutionError where the settings make it an error."""
    if project.settings.held_back == "off":
        return ()
    part = next(iter(parts.values()))
    found = heldback.find(part.prover, part.found, part.overlays, free=free, progress=progress)
    if project.settings.held_back == "error":
        heldback.refuse(found)
    return tuple(one.warning for one in found)


def _preferable(part: _OnPlatform) -> Iterable[Pin]:
    return (pin for answer in part.found.values() for pin in answer.application)


def _seed(pins: Iterable[Pin], environment: Mapping[str, str]) -> str:
    """Pins as text that uv prefers, for one target; the first one for a name counts."""
    chosen: dict[str, Pin] = {}
    for pin in lockfile.applying(pins, environment):
        chosen.setdefault(pin.name, replace(pin, via=(), marker=None))
    return lockfile.render_pins(chosen.values())


def _proven_overlays(project: Project) -> list[Overlay]:
    chosen = [overlay for name, overlay in project.locked_overlays.items() if name not in project.settings.unproven]
    if not chosen and project.locked_overlays:
        raise ProjectError(
            "unproven leaves no backend that the lock could be proven on",
            path="pyproject.toml",
            hint="take one of them out of [tool.mlenv] unproven",
        )
    if not chosen:
        raise ProjectError(
            "there is no overlay to resolve against",
            path=CONSTRAINTS,
            hint="`mlenv init` writes overlays for the usual backends",
        )
    if told := contradictions(chosen, shared=lambda name: not project.names.owns(name)):
        raise ConflictError(
            "the overlays contradict each other: no lock can serve both\n" + "\n".join(f"  {line}" for line in told),
            hint=f"change one of the lines, or give a backend its own lock: {agreement.own_lock(chosen[0].backend)}",
        )
    return chosen


def _require_plugins(project: Project) -> None:
    """A lock that was made with a plugin's names is not made anew without them. Raises ProjectError."""
    for found in drift.lacking_plugins(project):
        raise ProjectError(found.message, path=found.path, line=found.line, hint=found.hint)


def _rootless(project: Project, overlays: Sequence[Overlay]) -> Iterable[str]:
    """Overlays that prove nothing, because they pin no root: an emptied file, or one that is no overlay."""
    for overlay in overlays:
        if not overlay.roots(project.settings.foundation.roots):
            yield f"{overlay.path} pins no root (torch, tensorflow...): {overlay.backend} gets no foundation"


def _adoptable(project: Project, wish: Wish) -> tuple[Pin, ...]:
    """The old lock's pins, foundation that leaked into it left out; of a merge conflict those of both sides.

    Hashes are kept only where the body is as mlenv wrote it: uv carries any hash on, even one that belongs to another
    release (FACTS, uv 6), so those of an edited or a foreign lock are fetched anew.
    """
    if project.lock_text is None or project.lock is None:
        return _of_members(project, wish)
    header = project.lock.header
    if header is not None and header.scheme > lockfile.SCHEME:
        raise FindingError(
            f"this lock was written by a newer mlenv (scheme {header.scheme}; this one knows {lockfile.SCHEME})",
            path=project.settings.lock,
            hint="upgrade mlenv",
        )
    trusted = project.lock.as_written and not wish.refresh_hashes
    pins = [pin for pin in project.lock.pins if not project.names.owns(pin.name)]
    return (*_kept(pins, trusted=trusted), *_of_members(project, wish))


def _of_members(project: Project, wish: Wish) -> tuple[Pin, ...]:
    """What the workspace's lock does not hold: the pins of development lists; without that lock, of every member."""
    if not project.resolving:
        return ()
    members = [member for member in project.workspace.together if member.group or project.lock_text is None]
    return tuple(pin for member in members for pin in _adoptable(project.of_member(member), wish))


def _kept(pins: Iterable[Pin], *, trusted: bool) -> tuple[Pin, ...]:
    return tuple(lockfile.without_weak_hashes(pin) if trusted or pin.url else replace(pin, hashes=()) for pin in pins)


def _check_upgrade(project: Project, upgrade: Upgrade, old: Iterable[Pin]) -> None:
    """uv passes over an upgrade of a name it never meets (FACTS, uv 6); a typo must not look like success."""
    locked = {pin.name for pin in old}
    direct = {canonicalize_name(entry.requirement.name) for _, entry in project.requirements.direct}
    for text in upgrade.packages:
        name = upgraded_name(text)
        if project.names.owns(name):
            raise UsageError(
                f"{name} is foundation: it is pinned in {CONSTRAINTS}/, not in the lock",
                hint=f"change its pin in {CONSTRAINTS}/<backend>.txt, then run `mlenv lock`",
            )
        if name not in locked | direct:
            raise UsageError(f"{name} is not in the lock", hint=_nearest(name, locked | direct))


def upgraded_name(text: str) -> str:
    """The name in ``NAME`` or ``NAME==V``. Raises UsageError."""
    try:
        asked = Requirement(text)
    except InvalidRequirement:
        asked = None
    if asked is None or asked.url or asked.marker or asked.extras:
        raise UsageError(
            f"{text!r} is neither a name nor name==version", hint="for example: mlenv lock -P transformers==5.0.0"
        )
    return canonicalize_name(asked.name)


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {close[0]}?" if close else "add it to requirements.in first"


def question_of(project: Project, *, python: str, platform: str, seed: str) -> Question:
    """What is put to uv for one platform: the requirements; ``seed`` has the pins that are preferred."""
    requirements = project.requirements
    return Question(
        files=requirements.mirror(),
        sources=requirements.roots,
        constraints=requirements.constraints,
        python=python,
        interpreter=uv_module.base_interpreter(),
        platform=platform,
        seed=seed,
        stand_in=True,
        direct=frozenset(canonicalize_name(entry.requirement.name) for _, entry in requirements.direct),
    )


def _application(project: Project, parts: Mapping[str, _OnPlatform]) -> list[Pin]:
    """The union of every backend's Application on every platform; each release has a wheel or may be built."""
    by_platform = {}
    for platform, part in parts.items():
        pins = (pin for answer in part.found.values() for pin in answer.pins.values())
        with _explained(project, part.prover.upgrade, pins):
            by_platform[platform] = _merged(project, part.found)
    return resolution.joined(by_platform, _direct_markers(project))


@contextmanager
def _explained(project: Project, upgrade: Upgrade, pins: Iterable[Pin]) -> Iterator[None]:
    """A release without wheel is told with who brings it, and where the old lock pins it, how it may move."""
    try:
        yield
    except NoWheelError as error:
        found = {pin.name: pin for pin in pins}
        told = re.search(r"(?P<name>[\w.-]+)(?:==| )(?P<version>\S+) has no wheel", error.message)
        if told is None or told["name"] not in found:
            raise
        name = told["name"]
        way = _way_to(name, found)
        error.message += f"\n  {' → '.join(way)}" if len(way) > 2 else ""
        old = {pin.name: pin.version for pin in project.lock.pins} if project.lock else {}
        moving = {package.partition("==")[0] for package in upgrade.packages}
        if old.get(name) == told["version"] and not upgrade.everything and name not in moving:
            error.hint = f"`mlenv lock -P {name}` lets the old lock's pin move; {error.hint}"
        raise


def _way_to(name: str, pins: Mapping[str, Pin]) -> list[str]:
    """One way from a file to a package: ``-r requirements.in``, what it requires, ..., the package."""
    way = [name]
    while (pin := pins.get(way[0])) is not None and not resolution.is_file(way[0]):
        above = [via for via in resolution.parents(pin) if via not in way]
        if not above:
            break
        way.insert(0, next((via for via in above if resolution.is_file(via)), above[0]))
    return way


def _merged(project: Project, found: Mapping[str, Resolved]) -> dict[str, Pin]:
    merged: dict[str, Pin] = {}
    built = {canonicalize_name(n) for n in (*project.settings.build, *project.settings.build_against_foundation)}
    local = {entry.name for entry in project.requirements.local_projects}
    for answer in found.values():
        for pin in answer.application:
            if pin.name in local:
                continue
            if pin.name in answer.files:
                plan.require_wheel(pin.name, pin.version or "", answer.files[pin.name], built=built)
            merged[pin.name] = resolution.merge_pin(merged[pin.name], pin) if pin.name in merged else pin
    return merged


def _direct_markers(project: Project) -> dict[str, list[Marker | None]]:
    found: dict[str, list[Marker | None]] = {}
    for _, entry in project.requirements.direct:
        found.setdefault(canonicalize_name(entry.requirement.name), []).append(entry.requirement.marker)
    return found


def _left_out(project: Project, parts: Iterable[_OnPlatform]) -> tuple[str, ...]:
    """The foundation packages the footer names.

    Where an index could not be reached its build's own libraries are not known; what the old lock said of them is kept.
    """
    names: set[str] = set()
    partial = False
    for answer in (answer for part in parts for answer in part.found.values()):
        wanted = {pin.name for pin in answer.foundation}
        if not answer.source.equal:
            partial = True
            wanted &= resolution.TORCH_FAMILY | set(resolution.brought_beside_torch(answer.foundation))
        names |= wanted
    if partial and project.lock is not None:
        libraries = set(project.lock.excluded) - resolution.TORCH_FAMILY - set(ROOT_NAMES)
        names |= {name for name in libraries if project.names.owns(name)}
    return tuple(sorted(names))


def _refuse_collisions(found: Mapping[str, Resolved]) -> None:
    """Two CUDA families of one library overwrite each other's files (FACTS, CUDA 8): refused before anything is built.

    Raises ResolutionError.
    """
    for backend, answer in found.items():
        clash = resolution.collision(answer)
        if clash is not None:
            first, second = clash
            pins = {**answer.pins, first.name: first, second.name: second}
            raise ResolutionError(
                f"{backend}: {first.name} and {second.name} are two CUDA families of one library and overwrite "
                f"each other's files\n  {resolution.chain(first.name, pins)}\n  {resolution.chain(second.name, pins)}",
                hint="drop one of the two (plain `tensorflow` runs on the CPU beside a CUDA torch), require a release "
                "that brings the other family (it may need a newer Python: `mlenv lock --python-version`), "
                f'or leave the backend out: [tool.mlenv] unproven = ["{backend}"]',
            )


def _proof_line(answer: Resolved) -> str:
    torch = _torch(answer)
    return f"torch=={torch}" if torch else "no-torch"


def _torch(answer: Resolved) -> str | None:
    """The public version of the torch that it was proven with; of several pins with markers that of this target."""
    pin = answer.pins.get("torch")
    return Version(pin.version).public if pin is not None and pin.version is not None else None


def _proofs(parts: Mapping[str, _OnPlatform]) -> Iterable[Proof]:
    for platform, part in parts.items():
        for overlay in sorted(part.overlays, key=lambda overlay: overlay.backend):
            source = part.found[overlay.backend].source
            yield Proof(
                backend=overlay.backend,
                platform=platform,
                torch=_torch(part.found[overlay.backend]),
                source=source.index if source.equal else "default (stand-in)",
                seconds=round(part.prover.seconds[overlay.backend], 2),
            )
