"""Resolve one backend with uv: the foundation at its overlay's pins together with what the Application requires."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlenv import indexes as index_module
from mlenv import lockfile, platforms, resolution
from mlenv.errors import ConflictError, MlenvError, PackageIndexError, ProjectError, ResolutionError, UnreachableError
from mlenv.local_projects import LocalProject
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay, without_label
from mlenv.project import Project
from mlenv.requirement_lines import Named, WheelUrl
from mlenv.resolution import Resolved, Source
from mlenv.system import reach
from mlenv.system import uv as uv_module
from mlenv.system.uv import Compilation, Upgrade, Uv
from mlenv.system.uv_messages import GENERATED_PROJECT, missing_name
from mlenv.values import dataclass

NIGHTLY_FAMILY = {"triton"}
"""Built for a nightly torch, on its index, where the torch of the day needs such a build; else a release does."""
_ROUNDS = 8
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_URL = re.compile(r"(?:https?|file)://[^\s`'\")]+")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is put to uv for one backend, apart from the foundation.

    ``files`` are validated copies of the requirements files (path → text), ``sources`` and ``constraints`` name
    which of them are read.
    ``platform`` is None for the platform of ``interpreter`` itself. ``seed`` has pins that are preferred, ``bounds``
    are constraints of the search for common pins, ``pins`` what each package is held to where it is needed,
    ``excluded`` what is passed over as if nothing asked for it; ``alone`` asks for no dependencies. Without
    ``fall_back`` the first source that isn't known to be unreachable must do; ``source`` leaves no choice at all.
    ``unreachable`` collects the hosts that did not answer, and is shared. Without ``with_files`` the answer has
    versions alone. ``roots`` stand in place of the overlay's pins, ``lowest`` asks for their oldest releases.
    What an index says of the names in ``refresh`` is not taken from a cache.
    """

    files: Mapping[str, str]
    sources: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    python: str
    interpreter: Path
    platform: str | None
    seed: str = ""
    upgrade: Upgrade = field(default_factory=Upgrade)
    bounds: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()
    excluded: tuple[str, ...] = ()
    alone: bool = False
    with_files: bool = True
    stand_in: bool = False
    fall_back: bool = True
    direct: frozenset[str] = frozenset()
    unreachable: set[str] = field(default_factory=set)
    source: Source | None = None
    roots: tuple[Requirement, ...] | None = None
    lowest: bool = False
    refresh: tuple[str, ...] = ()


def sources_of(project: Project, overlay: Overlay, *, platform: str, stand_in: bool) -> tuple[Source, ...]:
    """The sources of one backend in the order they are tried.

    ``stand_in`` adds the default index at the end with the metadata of its own build: enough to resolve the
    Application, never to install.
    """
    if overlay.channel == "nightly":
        return (nightly_source(project, overlay.backend),)
    chosen = project.settings.per_backend.get(overlay.backend)
    order = resolution.source_order(
        overlay,
        equal_default=_default_is_equal(project, overlay, platform=platform),
        declared=chosen.sources if chosen else None,
        indexes=project.indexes.named,
    )
    if stand_in and Source() not in order:
        order = (*order, Source(equal=False))
    if not order:
        raise ProjectError(
            f"nothing says where the foundation of {overlay.backend} comes from",
            path="uv.toml",
            hint=f'`mlenv init` adds the index "pytorch-{overlay.backend}" to uv.toml',
        )
    return order


def nightly_source(project: Project, backend: str) -> Source:
    """Where the nightlies of a backend come from: its own index and no other. Raises ProjectError without one."""
    names = project.indexes.source_names(backend, channel="nightly")
    if not names:
        raise ProjectError(
            f'has no index "pytorch-nightly-{backend}", where the nightlies of {backend} come from',
            path="uv.toml",
            hint=f"`mlenv init --nightly --backend {backend}` adds it",
        )
    return Source(index=names[0])


def _default_is_equal(project: Project, overlay: Overlay, *, platform: str) -> bool:
    """Whether the default index's own torch *is* the backend's build, and so is the torchaudio beside it.

    torchaudio is numbered like the torch it was built with: 2.11.0, its last release, is a CUDA 13.0 build there and
    refuses to load beside a CUDA 13.2 torch.
    """
    versions = [
        next(iter(root.specifier)).version
        for root in overlay.roots()
        if canonicalize_name(root.name) in ("torch", "torchaudio")
    ]
    builds = {project.catalogue.default_index_build(version, platform) for version in versions}
    return builds == {overlay.backend}


def resolve_backend(project: Project, uv: Uv, overlay: Overlay, question: Question, *, platform: str) -> Resolved:
    """Resolve the foundation of one backend together with the question, from the first source that can serve it.

    Raises ResolutionError, PackageIndexError or ProjectError; with several sources, the error of the first one.
    """
    order = (
        (question.source,)
        if question.source is not None
        else sources_of(project, overlay, platform=platform, stand_in=question.stand_in)
    )
    first_error, first_source = None, Source()
    notes: list[str] = []
    for position, source in enumerate(order):
        following = order[position + 1] if position + 1 < len(order) else None
        if not source.equal:
            _require_known_builds(project, overlay)
        host = _host(project, source)
        try:
            if following is not None and host is not None and not _answers(host, question, uv):
                raise UnreachableError(f"{host} can't be reached")
            ask = _resolve_impatiently if following is not None and source.named else _resolve_from
            spare = _root_names(project, overlay, question) if following is not None else frozenset[str]()
            answer = replace(ask(project, uv, overlay, question, source, spare=spare), notes=tuple(notes))
            _require_pinned_roots(project, overlay, question, answer, platform=platform)
            return answer
        except (PackageIndexError, ResolutionError) as error:
            if not _source_failed(error, overlay, _url(project, source)):
                if first_error is None or source.equal:
                    raise
                raise _of_stand_in(error, first_error) from error
            if isinstance(error, UnreachableError) and host is not None:
                question.unreachable.add(host)
            elif not question.fall_back:
                raise
            if first_error is None:
                first_error, first_source = error, source
            if following is not None:
                notes.append(_fallback_note(overlay, source, following, error))
    assert first_error is not None
    told = _with_source_hint(first_error, overlay, first_source)
    raise told from (None if told is first_error else first_error)


def _require_known_builds(project: Project, overlay: Overlay) -> None:
    """Raise ProjectError where the metadata of another build would stand in for one that was never made."""
    for entry in overlay.constraints:
        if entry.pin is None or not project.catalogue.lacks(overlay.backend, entry.name, entry.pin):
            continue
        built = ", ".join(project.catalogue.builds(entry.name, entry.pin) or ())
        newest = project.catalogue.newest_release(overlay.backend) if entry.name == "torch" else None
        raise ProjectError(
            f"{entry.name} {entry.pin.partition('+')[0]} has no {overlay.backend} build, it has {built}",
            path=overlay.path,
            line=entry.line,
            hint=f"write torch=={newest.torch} there" if newest is not None else "take the line out",
        )


def _require_pinned_roots(
    project: Project, overlay: Overlay, question: Question, answer: Resolved, *, platform: str
) -> None:
    asked = overlay.roots(project.settings.foundation.roots) if question.roots is None else question.roots
    resolution.require_pinned_roots(
        overlay,
        answer.pins.values(),
        roots=asked,
        environment=platforms.environment(question.platform or platform, question.python),
        catalogue=project.catalogue,
    )


def _of_stand_in(error: MlenvError, first: MlenvError) -> MlenvError:
    """A conflict with the metadata of another build is told with the reason why that was asked."""
    if not isinstance(error, ResolutionError):
        return error
    return _retold(error, f"{error.message}\n{first.message.splitlines()[0]}: the default index stood in")


def _retold(error: ResolutionError, message: str, *, hint: str | None = None) -> ResolutionError:
    """The same error in other words."""
    told = type(error)(message, hint=hint or error.hint)
    told.detail = error.detail
    return told


def _host(project: Project, source: Source) -> str | None:
    """The host of a named index, None for the default one."""
    return urlsplit(project.indexes.named[source.index].url).hostname if source.named else None


def _answers(host: str, question: Question, uv: Uv) -> bool:
    """Whether it is worth asking a host that another source can stand in for."""
    return host not in question.unreachable and (uv.offline or reach.has_address(host, env=uv.env))


def _resolve_impatiently(
    project: Project, uv: Uv, overlay: Overlay, question: Question, source: Source, *, spare: Collection[str]
) -> Resolved:
    """From a named index that another source can stand in for: little patience with it, uv's own with all others."""
    hurried = replace(uv, env={"UV_HTTP_RETRIES": "0", "UV_HTTP_CONNECT_TIMEOUT": "2", **uv.env})
    try:
        return _resolve_from(project, hurried, overlay, question, source, spare=spare)
    except PackageIndexError as error:
        if _source_failed(error, overlay, _url(project, source)):
            raise
    return _resolve_from(project, uv, overlay, question, source, spare=spare)


def _url(project: Project, source: Source) -> str | None:
    """The URL of a named index, None for the default one."""
    return project.indexes.named[source.index].url if source.named else None


def _source_failed(error: MlenvError, overlay: Overlay, url: str | None) -> bool:
    """Whether the error is about where the foundation comes from, so that another source may do better."""
    if isinstance(error, PackageIndexError):
        if url is None and "answers 404 for every name" in error.message:
            return True  # the default index, which has none of it
        asked = _URL.search(error.message)
        return asked is None or _serves_foundation(asked[0], overlay, url)
    return any(
        f"{root.name} was not found" in error.message
        or f"there is no version of {root.name}=" in error.message
        or f"of {root.name}{root.specifier}" in error.message
        or f"{root.name}{root.specifier} has no wheels" in error.message
        or re.search(rf"only {re.escape(root.name)}\b[^ ]* is available", error.message) is not None
        for root in overlay.roots()
    )


def _serves_foundation(asked: str, overlay: Overlay, url: str | None) -> bool:
    """Whether the address that failed is the source's, or on whatever host a page or a file of the foundation."""
    if url is not None and asked.startswith(url.rstrip("/")):
        return True
    page_or_file = urlsplit(asked).path.rstrip("/").rpartition("/")[2]
    name = canonicalize_name(page_or_file.split("-")[0] if ".whl" in page_or_file else page_or_file)
    return name in resolution.TORCH_FAMILY | {canonicalize_name(root.name) for root in overlay.roots()}


def _fallback_note(overlay: Overlay, source: Source, following: Source, error: MlenvError) -> str:
    reason = error.message.splitlines()[0].removeprefix(f"{overlay.backend}: ")
    if not following.equal:
        found = "resolved with the default index's metadata of the same release"
    else:
        found = f"the whole foundation comes from {following.index}"
    return f"{overlay.backend}: {found}, as {source.index} can't serve it: {reason}"


def _with_source_hint(error: MlenvError, overlay: Overlay, source: Source) -> MlenvError:
    if error.hint is not None and "without --offline" in error.hint:
        return error  # whatever is missing, the network is what brings it
    if "has no wheels with a matching" in error.message:
        return ResolutionError(error.message, hint=f"change the Python, or the pins in {overlay.path}")
    if isinstance(error, ConflictError) and "there is no version of" in error.message:
        return _retold(
            error,
            f"the foundation of {overlay.backend} can't be had: {error.message}",
            hint=f"change the pin in {overlay.path}, or move exclude-newer in uv.toml where it hides the release",
        )
    if overlay.backend == "cpu" and overlay.channel == "stable":
        hint = "the default index has no CPU build for Linux; a CUDA backend also runs without a GPU: try --cuda13"
    elif source.named:
        hint = f"check the index in uv.toml, or name a mirror: {index_module.mirror_variable(source.index)}=<URL>"
    else:
        hint = "check the default index (UV_DEFAULT_INDEX), or name a mirror: MLENV_INDEX_URL_DEFAULT=<URL>"
    return PackageIndexError(f"the foundation of {overlay.backend} can't be had: {error.message}", hint=hint)


def _root_names(project: Project, overlay: Overlay, question: Question) -> frozenset[str]:
    asked = overlay.roots(project.settings.foundation.roots) if question.roots is None else question.roots
    return frozenset(canonicalize_name(root.name) for root in asked)


def _resolve_from(
    project: Project, uv: Uv, overlay: Overlay, question: Question, source: Source, *, spare: Collection[str]
) -> Resolved:
    """From one source; ``spare`` are names that another source serves where this one lacks them."""
    task, pins = _compiled(project, uv, overlay, question, source, spare=spare)
    roots = _root_names(project, overlay, question)
    return _resolved(project, uv, overlay, source, task, pins, roots=roots, with_files=question.with_files)


def resolve_without_foundation(project: Project, uv: Uv, question: Question, *, without: Collection[str]) -> Resolved:
    """What the requirements would get if no overlay pinned a foundation: packages ``without`` bound nothing.

    Raises as ``resolve_backend``.
    """
    nothing = Overlay(backend="without an overlay", path="constraints", constraints=())
    asked = replace(question, excluded=tuple(sorted(without)))
    task, pins = _compiled(project, uv, nothing, asked, Source())
    return _resolved(project, uv, nothing, Source(), task, pins, roots=frozenset(), with_files=question.with_files)


def listed_hashes(
    project: Project, uv: Uv, pins: Sequence[Pin], *, python: str, platform: str
) -> dict[str, frozenset[str]]:
    """name → every hash that its index lists now for the pinned release. Raises PackageIndexError, ResolutionError."""
    _, found = _alone(project, uv, _exact(pins), python=python, platform=platform)
    return {pin.name: frozenset(pin.hashes) for pin in found}


def listed_files(
    project: Project, uv: Uv, pins: Sequence[Pin], *, python: str, platform: str
) -> dict[str, Mapping[str, object]]:
    """name → the files of the pinned release, as a PEP 751 table. Raises PackageIndexError, ResolutionError."""
    task, found = _alone(project, uv, _exact(pins), python=python, platform=platform)
    return _files(uv, task, found)


def _exact(pins: Sequence[Pin]) -> dict[str, str]:
    return {pin.name: f"{pin.name}=={pin.version}" for pin in pins}


def newest(
    project: Project, uv: Uv, names: Iterable[str], *, python: str, platform: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The newest release of each name that its index has for the target, whatever else is required.

    Beside it, for names whose newest can't be told: why. Raises PackageIndexError, ResolutionError.
    """
    asked, untold = {name: name for name in names}, dict[str, str]()
    while True:
        try:
            _, found = _alone(project, uv, asked, python=python, platform=platform)
        except (ResolutionError, PackageIndexError) as error:
            name = missing_name(error) or error.message.split(" ")[0]
            if asked.pop(name, None) is None:
                raise
            untold[name] = error.message.splitlines()[0]
            continue
        return {pin.name: pin.version for pin in found if pin.version is not None}, untold


def _alone(
    project: Project, uv: Uv, asked: Mapping[str, str], *, python: str, platform: str
) -> tuple[Compilation, tuple[Pin, ...]]:
    """What uv takes for these requirements, by name, as if nothing required anything."""
    question = Question(
        files={resolution.PINS_FILE: "".join(f"{line}\n" for line in asked.values())},
        sources=(resolution.PINS_FILE,),
        python=python,
        interpreter=uv_module.base_interpreter(),
        platform=platform,
        direct=frozenset(asked),
        alone=True,
    )
    nothing = Overlay(backend="the lock", path="constraints", constraints=())
    return _compiled(project, uv, nothing, question, Source())


def _compiled(
    project: Project, uv: Uv, overlay: Overlay, question: Question, source: Source, *, spare: Collection[str] = ()
) -> tuple[Compilation, tuple[Pin, ...]]:
    """What uv was asked in the end, and its answer: every name that it met is bound to its own index."""
    own_roots = project.settings.foundation.roots if overlay.constraints else ()
    asked = overlay.roots(own_roots) if question.roots is None else question.roots
    root_names = {canonicalize_name(root.name) for root in asked}
    expected = {pin.name for pin in (*lockfile.parse_pins(question.seed), *question.pins)}
    known = root_names | set(question.direct) | expected
    lacking: set[str] = set()

    def binding(name: str) -> str | None:
        return None if name in lacking else _binding(project, source, name)

    bindings = {name: index for name in known if (index := binding(name)) is not None}

    def elsewhere(name: str) -> bool:
        return name in spare or (name not in bindings and binding(name) is not None)

    for _ in range(_ROUNDS):
        task = _compilation(project, overlay, question, source, bindings)
        try:
            pins = _own_annotations_removed(lockfile.parse_pins(uv_module.compile_(uv, task, expected=elsewhere)))
        except (ResolutionError, PackageIndexError) as error:
            more = _unbound(error, binding, bindings)
            if more:
                bindings |= more
                continue
            if (missing := missing_name(error)) in NIGHTLY_FAMILY & bindings.keys():
                lacking.add(str(missing))  # a nightly that needs a release of the default index
                del bindings[str(missing)]
                continue
            if isinstance(error, PackageIndexError):
                raise
            raise _in_words(_of_local_project(error, project), project, overlay) from error
        wanted = {p.name: i for p in pins if p.via or p.name in root_names if (i := binding(p.name))}
        needed = {name: index for name, index in wanted.items() if name in {p.name for p in pins}}
        needed |= {name: i for name in root_names if (i := binding(name))}
        if needed == bindings:
            return task, pins
        bindings = needed
    raise ResolutionError(f"the index bindings of {overlay.backend} do not settle", hint="look at [tool.mlenv.index]")


def _unbound(error: MlenvError, binding: Callable[[str], str | None], bindings: Mapping[str, str]) -> dict[str, str]:
    """Names in uv's explanation that belong to an index of their own and were asked elsewhere, with that index."""
    words = {canonicalize_name(word) for word in _NAME.findall(f"{error.message}\n{error.detail or ''}")}
    missing = missing_name(error)
    candidates = words | ({missing} if missing else set())
    return {name: index for name in candidates - bindings.keys() if (index := binding(name)) is not None}


def _binding(project: Project, source: Source, name: str) -> str | None:
    """The named index that a package comes from, or None for the default one."""
    own = index_module.bind(project.settings.index, name, project.indexes)
    if own is not None:
        return own
    family = resolution.TORCH_FAMILY | (NIGHTLY_FAMILY if source.nightly else set())
    return source.index if source.named and name in family else None


def _compilation(
    project: Project, overlay: Overlay, question: Question, source: Source, bindings: Mapping[str, str]
) -> Compilation:
    strip = not source.named
    own_roots = project.settings.foundation.roots if overlay.constraints else ()
    asked = overlay.roots(own_roots) if question.roots is None else question.roots
    roots = [without_label(r) if strip else r for r in asked]
    bounds = [without_label(b) if strip else b for b in overlay.bounds]
    generated = resolution.foundation_project(
        roots, bindings=bindings, indexes=project.indexes.named, python=question.python
    )
    held = [f"{pin.name} @ {pin.url}" if pin.url else f"{pin.name}=={pin.version}" for pin in question.pins]
    constraints = {
        overlay.path: [str(bound) for bound in bounds],
        resolution.BOUNDS_FILE: list(question.bounds),
        resolution.HELD_FILE: held,
    }
    written = {path: "".join(f"{line}\n" for line in lines) for path, lines in constraints.items() if lines}
    return Compilation(
        files={**question.files, resolution.FOUNDATION_FILE: generated, **written},
        sources=(resolution.FOUNDATION_FILE, *question.sources),
        constraints=(*question.constraints, *written),
        config=index_module.to_uv_toml(project.indexes, names=set(bindings.values())),
        python=question.python,
        interpreter=question.interpreter,
        platform=question.platform,
        excluded=question.excluded,
        alone=question.alone,
        lowest=question.lowest,
        refresh=question.refresh,
        seed=question.seed,
        upgrade=question.upgrade,
        allowed_builds=_allowed_builds(project),
    )


def _allowed_builds(project: Project) -> tuple[str, ...]:
    """The names in ``build``, and the folders of the local projects that are named there."""
    named = tuple(canonicalize_name(name) for name in project.settings.build)
    local = tuple(str(p.path.resolve()) for p in project.requirements.local_projects if _build_name(p) in named)
    return named + local


def _build_name(local: LocalProject) -> str:
    """What a local project is called in ``build``: its name, its folder's where only its build knows the name."""
    return local.name or canonicalize_name(local.path.resolve().name)


def _of_local_project(error: ResolutionError, project: Project) -> ResolutionError:
    """The same error; where the build of a local project was refused, with its folder and name for the path."""
    for local in project.requirements.local_projects:
        if error.message.startswith(f"{local.path.resolve()} "):
            return ResolutionError(
                f"./{local.relative} does not say statically what it requires: "
                "its build code would have to run at lock time",
                hint=f'if you trust it, name it: [tool.mlenv] build = ["{_build_name(local)}"]; '
                "or write its dependencies into [project] of its pyproject.toml",
            )
    return error


def _own_annotations_removed(pins: Sequence[Pin]) -> tuple[Pin, ...]:
    own = (f"{GENERATED_PROJECT} ", f"-c {resolution.OWN_FOLDER}/")
    return tuple(replace(pin, via=tuple(via for via in pin.via if not via.startswith(own))) for pin in pins)


def _resolved(
    project: Project,
    uv: Uv,
    overlay: Overlay,
    source: Source,
    task: Compilation,
    pins: Sequence[Pin],
    *,
    roots: Collection[str],
    with_files: bool,
) -> Resolved:
    foundation, application = resolution.split_layers(pins, names=project.names, roots=roots)
    return Resolved(
        backend=overlay.backend,
        source=source,
        foundation=tuple(foundation),
        application=tuple(application),
        files=_files(uv, task, pins) if with_files else {},
    )


def _files(uv: Uv, task: Compilation, pins: Sequence[Pin]) -> dict[str, Mapping[str, object]]:
    """The files of what was chosen, as PEP 751 tables by name."""
    exact = "".join(f"{pin.name}=={pin.version}\n" for pin in pins if pin.version)
    again = replace(
        task,
        files={**task.files, resolution.PINS_FILE: exact},
        constraints=(*task.constraints, resolution.PINS_FILE),
        seed="",
        upgrade=Upgrade(),
        output="pylock.toml",
    )
    packages = tomllib.loads(_offline_first(uv, again)).get("packages", [])
    return {canonicalize_name(package["name"]): package for package in packages}


def _offline_first(uv: Uv, task: Compilation) -> str:
    """Exact pins whose metadata was just read need no network; where the cache lacks something, ask again."""
    try:
        return uv_module.compile_(replace(uv, offline=True), task)
    except MlenvError:
        if uv.offline:
            raise
        return uv_module.compile_(uv, task)


def _in_words(error: ResolutionError, project: Project, overlay: Overlay) -> ResolutionError:
    """The same error, with the overlay's own pins named as such, and the lines that say each side."""
    message = error.message
    for root in overlay.roots():
        for pin in {str(root), str(without_label(root))}:
            message = message.replace(f"this project requires {pin}", f"{overlay.path} pins {pin}")
            message = message.replace(f" and {pin}.", f", and {overlay.path} pins {pin}.")
    for path, line, requirement, bounds in _said_where(project, overlay):
        said = rf"\b{re.escape(path)} (?P<verb>requires|allows|pins) (?={re.escape(requirement)}(?:[\s,;]|\.?$|\.\s))"
        verb = "allows" if bounds else r"\g<verb>"
        message = re.sub(said, rf"{path}:{line} {verb} ", message, flags=re.MULTILINE)
    return _retold(error, f"{overlay.backend}: {message}")


def _said_where(project: Project, overlay: Overlay) -> Iterator[tuple[str, int, str, bool]]:
    """(file, line, requirement as uv writes it, whether it only bounds) for everything that was read."""
    for file in project.requirements.files:
        for entry in file.entries:
            if isinstance(entry, Named | WheelUrl):
                yield file.path, entry.line, _plain(entry.requirement), file.kind == "constraint"
    for constraint in overlay.constraints:
        yield from ((overlay.path, constraint.line, text, False) for text in _spellings(constraint.requirement))


def _spellings(requirement: Requirement) -> set[str]:
    return {_plain(requirement), _plain(without_label(requirement))}


def _plain(requirement: Requirement) -> str:
    return f"{canonicalize_name(requirement.name)}{requirement.specifier}"
