"""The part of a resolution that one member of a workspace needs: exactly that, at the pins that all share. Pure.

uv tells who brings a package and not for which extra. Where a package got extras that the member does not ask for
itself, who needs what can't be told from that, and the member is resolved by itself at the same pins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from packaging.utils import canonicalize_name

from mlenv.lockfile import Pin
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.resolution import Resolved, parents
from mlenv.values import dataclass

Alone = Callable[[], Resolved]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a member starts from: its files as uv names them, local projects, and names with the extras asked for.

    ``roots`` are the foundation's, which every member gets.
    """

    files: tuple[str, ...]
    local: frozenset[str]
    asked: Mapping[str, frozenset[str]]
    roots: frozenset[str]

    def brings(self, via: str) -> bool:
        """Whether a parent in uv's annotation is one of the member's own files."""
        return any(via == f"-r {path}" or via.endswith(f"({path})") for path in self.files)


def wanted_by(member: Project, overlay: Overlay) -> Wanted:
    """What a member starts from, beside the foundation of one overlay."""
    requirements = member.requirements
    roots = overlay.roots(member.settings.foundation.roots)
    asked: dict[str, frozenset[str]] = {}
    for requirement in (*(entry.requirement for _, entry in requirements.direct), *roots):
        name = canonicalize_name(requirement.name)
        asked[name] = asked.get(name, frozenset()) | requirement.extras
    return Wanted(
        files=tuple(file.path for file in requirements.files if file.kind == "requirement"),
        local=frozenset(local.name for local in requirements.local_projects if local.name),
        asked=asked,
        roots=frozenset(canonicalize_name(root.name) for root in roots),
    )


def part_of(answer: Resolved, wanted: Wanted, *, alone: Alone) -> Resolved:
    """The part of ``answer`` that a member needs; ``alone`` resolves it by itself at the same pins."""
    pins = answer.pins
    needed = _closure(pins.values(), wanted)
    if any(not set(pins[name].extras) <= wanted.asked.get(name, frozenset()) for name in needed):
        return _as_in(answer, alone().pins)
    return _as_in(answer, {name: _narrowed(pins[name], needed, wanted) for name in needed})


def _closure(pins: Iterable[Pin], wanted: Wanted) -> set[str]:
    """The names that the roots and the member's own files bring, however deep."""
    listed = list(pins)
    found = {pin.name for pin in listed if pin.name in wanted.roots or any(map(wanted.brings, parents(pin)))}
    while True:
        known = found | wanted.local
        more = {pin.name for pin in listed if pin.name not in found and any(via in known for via in parents(pin))}
        if not more:
            return found
        found |= more


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
