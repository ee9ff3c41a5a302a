"""Overlays against the catalogue: dead releases, companions that don't belong to them, Pythons without wheels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from packaging.version import Version

from mlenv.catalogue import Catalogue, Release
from mlenv.overlay import Constraint, Overlay, contradictions
from mlenv.report import Area, Finding

UPGRADE = "`mlenv foundation upgrade` rewrites the overlays to what exists"


def judge(
    catalogue: Catalogue,
    overlays: Mapping[str, Overlay],
    *,
    python: str,
    together: Sequence[str],
    shared: Callable[[str], bool],
    roots: Sequence[str] = (),
) -> Area:
    """What is wrong with the overlays themselves. ``together`` are the backends that one lock serves.

    ``python`` is the target, ``shared`` says whether a name is pinned once for all backends, ``roots`` are the
    settings' own. Raises ProjectError for an extra root that isn't pinned.
    """
    found = [one for overlay in overlays.values() for one in _judge_one(catalogue, overlay, python, roots)]
    clashes = contradictions([overlays[name] for name in together], shared=shared)
    found += [_contradiction(line) for line in clashes]
    pins = ", ".join(f"{name} {overlay.torch_version or '-'}" for name, overlay in overlays.items())
    if not overlays:
        found.append(_no_overlays())
    return Area(name="overlays", seen=f"torch: {pins}" if pins else "none", findings=tuple(found))


def _judge_one(catalogue: Catalogue, overlay: Overlay, python: str, roots: Sequence[str]) -> Iterator[Finding]:
    if not overlay.roots(roots):
        yield Finding(
            kind="overlay-rootless",
            message="pins no root (torch, tensorflow...)",
            path=overlay.path,
            why=f"{overlay.backend} gets no foundation",
            hint=f"add a line to {overlay.path}: torch==VERSION",
            severity="warning",
        )
    torch = overlay.torch_version
    if torch is None or Version(torch).is_prerelease:
        return
    release = catalogue.release(torch)
    if release is None:
        yield _unknown(catalogue, overlay, torch)
        return
    yield from _built(catalogue, overlay, release, python=_minor(python))
    yield from _companions(catalogue, overlay, release)
    yield from _python(overlay, release, _minor(python))


def _unknown(catalogue: Catalogue, overlay: Overlay, torch: str) -> Finding:
    known = catalogue.releases
    return Finding(
        kind="overlay-unknown-release",
        message=f"torch {torch} is not in mlenv's catalogue ({known[-1].torch} to {known[0].torch})",
        path=overlay.path,
        line=_line(overlay, "torch"),
        why="whether it exists for this backend, and what belongs to it, only the index can say",
        severity="note",
    )


def _built(catalogue: Catalogue, overlay: Overlay, release: Release, *, python: str) -> Iterator[Finding]:
    """Whether that release was ever built for the backend, and whether a newer one will be."""
    backend = overlay.backend
    last = catalogue.newest_release(backend)
    if backend not in catalogue.backends or last is None:
        return  # a build of somebody's own, or one that is known from nightlies alone
    newest = catalogue.newest_release(backend, python=python)
    place = {"path": overlay.path, "line": _line(overlay, "torch")}
    if backend not in (*release.backends, *release.unconfirmed):
        offered = newest or last
        yield Finding(
            kind="overlay-dead-release",
            message=f"torch {release.torch} was never built for {backend}; its newest is {offered.torch}",
            why=f"`mlenv sync --backend {backend}` can't find it",
            hint=f"pin torch=={offered.torch} there, or let {UPGRADE}",
            **place,  # type: ignore[arg-type]
        )
    elif backend in release.unconfirmed:
        message = f"nobody has confirmed that torch {release.torch} was built for {backend}"
        yield Finding(kind="overlay-unconfirmed", message=message, severity="note", **place)  # type: ignore[arg-type]
    elif release.torch == last.torch and catalogue.releases[0].torch != last.torch:
        message = f"{backend} is at its end: {last.torch} is the newest torch that has it, and torch is at "
        message += catalogue.releases[0].torch
        yield Finding(kind="overlay-at-its-end", message=message, severity="note", **place)  # type: ignore[arg-type]
    elif newest is not None and Version(newest.torch) > Version(release.torch):
        message = f"torch {newest.torch} is out for {backend}; this overlay pins {release.torch}"
        yield Finding(kind="overlay-behind", message=message, hint=UPGRADE, severity="note", **place)  # type: ignore[arg-type]


def _companions(catalogue: Catalogue, overlay: Overlay, release: Release) -> Iterator[Finding]:
    for entry in overlay.constraints:
        right = {"torchvision": release.torchvision, "torchaudio": release.torchaudio}.get(entry.name)
        if right is None or entry.pin is None:
            continue
        built_with = catalogue.release(right) if entry.name == "torchaudio" else None
        if built_with is not None and _never_built(catalogue, overlay.backend, built_with):
            yield _no_audio(overlay, entry, built_with)
        elif Version(entry.pin).public != right:
            yield _mismatch(overlay, entry, release, right)


def _never_built(catalogue: Catalogue, backend: str, built_with: Release) -> bool:
    """Whether a torchaudio lacks the backend: it is numbered like its torch, and has the backends of that one alone."""
    known = catalogue.backends.get(backend)
    theirs = (*built_with.backends, *built_with.unconfirmed)
    return known is not None and known.brought_by is None and backend not in theirs


def _mismatch(overlay: Overlay, entry: Constraint, release: Release, right: str) -> Finding:
    declares = "its metadata names another torch" if entry.name == "torchvision" else "its metadata may name no torch"
    return Finding(
        kind="overlay-companion",
        message=f"{entry.requirement} does not belong to torch {release.torch}; {entry.name} {right} does",
        path=overlay.path,
        line=entry.line,
        why=f"it calls torch's C++ interface, which differs between releases; {declares}",
        hint=f"write {entry.name}=={right} there, then `mlenv lock`",
    )


def _no_audio(overlay: Overlay, entry: Constraint, built_with: Release) -> Finding:
    backend = overlay.backend
    return Finding(
        kind="overlay-torchaudio",
        message=f"torchaudio has no {backend} build: {built_with.torch} is its last release, "
        f"and was built for {', '.join(built_with.backends)}",
        path=overlay.path,
        line=entry.line,
        why="a torchaudio of another CUDA refuses to load beside torch",
        hint=f"take the line out of {overlay.path}, then `mlenv lock`; where the application needs torchaudio, "
        f'leave the backend out of its lock: [tool.mlenv] unproven = ["{backend}"]',
    )


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _python(overlay: Overlay, release: Release, minor: str) -> Iterator[Finding]:
    if minor in release.python:
        return
    yield Finding(
        kind="overlay-python",
        message=f"torch {release.torch} has no wheels for Python {minor}; it has for {', '.join(release.python)}",
        path=overlay.path,
        line=_line(overlay, "torch"),
        why=f"{overlay.backend} can't be installed for the target Python",
        hint=f"`mlenv lock --python-version {_nearest(release.python, minor)}` and the same in [tool.mlenv] python, "
        "or pin another torch there",
    )


def _nearest(pythons: Sequence[str], wanted: str) -> str:
    """The newest one below the wanted one, else the oldest."""
    ordered = sorted(pythons, key=Version)
    return next((one for one in reversed(ordered) if Version(one) < Version(wanted)), ordered[0])


def _contradiction(line: str) -> Finding:
    return Finding(
        kind="overlay-contradiction",
        message=line,
        why="one set of pins serves every overlay: no lock can satisfy both",
        hint='change one of the two lines, or leave a backend out: [tool.mlenv] unproven = ["BACKEND"]',
    )


def _no_overlays() -> Finding:
    return Finding(
        kind="overlay-missing",
        message="there is no overlay",
        path="constraints",
        why="an overlay says which foundation a backend gets; without one nothing can be locked",
        hint="`mlenv init` writes them",
    )


def _line(overlay: Overlay, name: str) -> int | None:
    return next((entry.line for entry in overlay.constraints if entry.name == name), None)
