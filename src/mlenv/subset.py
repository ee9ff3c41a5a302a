"""The part of a resolution that one member of a workspace needs: exactly that, at the pins that all share. Pure.

uv tells who brings a package and not for which extra. Where it can't be told who asked for the extras of a package that
the member needs, the member is resolved by itself at the same pins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlenv.lockfile import Pin
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.resolution import Resolved, is_file, parents
from mlenv.values import dataclass

Alone = Callable[[], Mapping[str, Pin]]
Extras = Mapping[str, frozenset[str]]
"""The extras that are asked for of each package; names without any are there as well."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a member starts from: its files as uv names them, local projects, and names with the extras asked for.

    ``roots`` are the foundation's, which every member gets. ``local`` are local projects with their extras; a name is
    empty where only the build knows it.
    """

    files: tuple[str, ...]
    local: Extras
    asked: Extras
    roots: frozenset[str] = frozenset()

    def brings(self, via: str) -> bool:
        """Whether a parent in uv's annotation is one of the member's own files."""
        return any(via == f"-r {path}" or via.endswith(f"({path})") for path in self.files)


def wanted_by(project: Project, overlay: Overlay | None = None, *, environment: Mapping[str, str]) -> Wanted:
    """What a member, or all of them, starts from, beside the foundation of one overlay.

    ``environment`` has PEP 508's variables of the target.
    """
    requirements = project.requirements
    roots = overlay.roots(project.settings.foundation.roots) if overlay is not None else ()
    direct = [entry.requirement for _, entry in requirements.direct]
    there = [asked for asked in (*direct, *roots) if _holds(asked, environment)]
    return Wanted(
        files=tuple(file.path for file in requirements.files if file.kind == "requirement"),
        local=_joined((local.name or "", local.extras) for local in requirements.local_projects),
        asked=_joined((canonicalize_name(asked.name), asked.extras) for asked in there),
        roots=frozenset(canonicalize_name(root.name) for root in roots),
    )


def part_of(answer: Resolved, wanted: Wanted, *, of: Wanted, alone: Alone) -> Resolved:
    """The part of ``answer`` that a member needs, where it is the answer to what all of them want (``of``).

    ``alone`` resolves the member by itself at the same pins, and returns these by name.
    """
    pins = answer.pins
    needed = _closure(pins, wanted, of)
    if needed is None:
        return _as_in(answer, alone())
    return _as_in(answer, {name: _narrowed(pins[name], needed, wanted) for name in needed})


def _joined(listed: Iterable[tuple[str, Iterable[str]]]) -> Extras:
    found: dict[str, frozenset[str]] = {}
    for name, extras in listed:
        found[name] = found.get(name, frozenset()) | frozenset(map(canonicalize_name, extras))
    return found


def _holds(requirement: Requirement, environment: Mapping[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})


def _closure(pins: Mapping[str, Pin], wanted: Wanted, of: Wanted) -> set[str] | None:
    """The names that the roots and the member's own files bring, however deep; None where that can't be told.

    What a package brings counts once every extra of it is known to be asked for by the member, or by what that brings.
    """
    if "" in of.local or any(of.local.get(name) != extras for name, extras in wanted.local.items()):
        return None
    found = {name for name in pins if name in wanted.roots or any(map(wanted.brings, parents(pins[name])))}
    known = set(wanted.local)
    ready = set(known)
    while True:
        found |= {name for name, pin in pins.items() if not ready.isdisjoint(parents(pin))}
        ready = {name for name in found - known if _is_known(pins[name], known, wanted, of)}
        if not ready:
            return found if found <= known else None
        known |= ready


def _is_known(pin: Pin, known: Collection[str], wanted: Wanted, of: Wanted) -> bool:
    """Whether all extras of a package are asked for by the member's files, or by packages that it is known to need."""
    more = frozenset(pin.extras) - wanted.asked.get(pin.name, frozenset())
    if not more:
        return True
    return not more & of.asked.get(pin.name, frozenset()) and all(
        via in known for via in parents(pin) if not is_file(via)
    )


def _narrowed(pin: Pin, needed: Collection[str], wanted: Wanted) -> Pin:
    """The pin as this member's lock has it: brought by its own files and packages alone."""
    via = tuple(via for via in pin.via if via in needed or via in wanted.local or wanted.brings(via) or _bounds(via))
    return replace(pin, via=via)


def _bounds(via: str) -> bool:
    return via.startswith("-c ")


def _as_in(answer: Resolved, needed: Mapping[str, Pin]) -> Resolved:
    """The layers of ``answer``, cut down to what is needed; hashes are those that all share."""

    def layer(pins: Iterable[Pin]) -> tuple[Pin, ...]:
        there = (pin for pin in pins if pin.name in needed)
        return tuple(replace(pin, extras=needed[pin.name].extras, via=needed[pin.name].via) for pin in there)

    return replace(answer, foundation=layer(answer.foundation), application=layer(answer.application), files={})
