"""Packages that need a certain torch or CUDA and don't say so in their metadata, or dictate it. Pure.

What each needs is data/coupled.toml, a source per row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cache
from typing import Any

from packaging.specifiers import SpecifierSet

from mlenv.catalogue import cuda_of
from mlenv.overlay import Overlay
from mlenv.report import Finding, Severity
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A package of the Application: its locked version (None where there is no lock), the extras asked for."""

    name: str
    version: str | None = None
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """One row of data/coupled.toml: what some packages need.

    ``read`` is the version it was read from; ``versions`` are those it is true of, all where it is empty. ``torch`` is
    a specifier, ``cuda_major`` and ``cuda`` are the CUDA that it is built for, ``against`` what it can't be beside.
    With ``compiled`` it is built against the installed torch. Where its metadata is not ``declared`` to say which torch
    it needs, a lock can be proven with another one.
    """

    names: tuple[str, ...]
    read: str
    why: str
    source: str
    versions: SpecifierSet = field(default_factory=SpecifierSet)
    torch: SpecifierSet | None = None
    declared: bool = True
    cuda_major: int | None = None
    cuda: tuple[tuple[int, int], ...] = ()
    extra: str | None = None
    against: str | None = None
    compiled: bool = False
    instead: str | None = None
    severity: Severity = "warning"


@cache
def load() -> tuple[Coupling, ...]:
    """The rows that come with mlenv."""
    import pkgutil
    import tomllib

    text = pkgutil.get_data("mlenv.data", "coupled.toml")
    assert text is not None
    return tuple(_coupling(row) for row in tomllib.loads(text.decode("utf-8"))["package"])


def _coupling(row: Mapping[str, Any]) -> Coupling:
    return Coupling(
        names=tuple(row["names"]),
        read=row["read"],
        why=row["why"],
        source=row["source"],
        versions=SpecifierSet(row.get("versions", "")),
        torch=SpecifierSet(row["torch"]) if "torch" in row else None,
        declared=row.get("declared", True),
        cuda_major=row.get("cuda_major"),
        cuda=tuple((int(a), int(b)) for a, b in (text.split(".") for text in row.get("cuda", ()))),
        extra=row.get("extra"),
        against=row.get("against"),
        compiled=row.get("compiled", False),
        instead=row.get("instead"),
        severity=row.get("severity", "warning"),
    )


def known_names() -> frozenset[str]:
    """Every package that a row is about."""
    return frozenset(name for row in load() for name in row.names)


def judge(
    wanted: Sequence[Wanted],
    overlays: Sequence[Overlay],
    *,
    proven: Collection[str] = (),
    built_against: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """What doesn't fit the overlays that these packages are locked with.

    ``proven`` are the backends whose torch the lock was resolved with: that knows what the packages declare better than
    a row does. ``built_against`` are the names in build-against-foundation.
    """
    have = {package.name for package in wanted}
    unproven = [one for one in overlays if one.backend not in proven]
    found: list[Finding] = []
    for package in wanted:
        for row in (row for row in load() if package.name in row.names and _applies(row, package)):
            found += _beside(row, package, have)
            if row.compiled and package.name not in built_against:
                message = f"{_called(package)} is compiled against torch"
                found.append(_finding("coupled-compiled", message, row, package, hint=_BUILD))
            found += _torch(row, package, unproven if row.declared else overlays)
            found += _cuda(row, package, overlays)
    return tuple(found)


def _applies(row: Coupling, package: Wanted) -> bool:
    if row.extra is not None and row.extra not in package.extras:
        return False
    return package.version is None or row.versions.contains(package.version, prereleases=True)


def _beside(row: Coupling, package: Wanted, have: Collection[str]) -> Iterator[Finding]:
    if row.against in have:
        message = f"{package.name} and {row.against} are both required"
        yield _finding("coupled-both", message, row, package, hint=_ONE_OF_THEM)


def _torch(row: Coupling, package: Wanted, overlays: Sequence[Overlay]) -> Iterator[Finding]:
    if row.torch is None:
        return
    unfit = [one for one in overlays if one.torch_version and not row.torch.contains(one.torch_version)]
    if unfit:
        message = f"{_called(package)} needs torch{row.torch}; {_pinned(unfit)}"
        hint = row.instead or "`mlenv foundation upgrade --fit` takes the newest torch that fits, then `mlenv lock`"
        yield _finding("coupled-torch", message, row, package, hint=hint)


_ONE_OF_THEM = (
    "take one of the two, or what brings it (`# via` in the lock says what), out of the requirements; then `mlenv lock`"
)
_BUILD = "require a release with a wheel for this torch, or build a wheel once and require it by its URL"


def _cuda(row: Coupling, package: Wanted, overlays: Sequence[Overlay]) -> Iterator[Finding]:
    versions = {one.backend: version for one in overlays if (version := cuda_of(one.backend)) is not None}
    if row.cuda_major is not None:
        unfit = [name for name, version in versions.items() if version[0] != row.cuda_major]
        fits = f"CUDA {row.cuda_major}"
    elif row.cuda:
        unfit = [name for name, version in versions.items() if version not in row.cuda]
        fits = ", ".join(f"{a}.{b}" for a, b in row.cuda)
    else:
        return
    if unfit:
        what = f"{package.name}[{row.extra}]" if row.extra else _called(package)
        message = f"{what} is built for {fits}, and not for {', '.join(unfit)}"
        left = ", ".join(f'"{name}"' for name in unfit)
        hint = f"leave those backends out of this lock: [tool.mlenv] unproven = [{left}]"
        hint = f"{row.instead}, or {hint}" if row.instead else hint
        yield _finding("coupled-cuda", message, row, package, hint=hint)


def _finding(kind: str, message: str, row: Coupling, package: Wanted, *, hint: str) -> Finding:
    """With the version it was read from, where that is not the one that is locked."""
    read = "" if package.version == row.read or row.against else f" (as of {package.name} {row.read})"
    return Finding(
        kind=kind, message=message + read, why=row.why, hint=hint, severity=row.severity, package=package.name
    )


def _called(package: Wanted) -> str:
    return f"{package.name} {package.version}" if package.version else package.name


def _pinned(overlays: Sequence[Overlay]) -> str:
    return ", ".join(f"{one.backend} pins {one.torch_version}" for one in overlays)
