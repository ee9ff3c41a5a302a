"""``mlenv why``: every way a package comes in, and the lines that hold it where it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from packaging.utils import canonicalize_name

from mlenv import planning
from mlenv.errors import FindingError, did_you_mean
from mlenv.graph import Graph, Origin
from mlenv.project import Project
from mlenv.report import Outcome
from mlenv.requirement_lines import Named
from mlenv.values import dataclass
from mlenv.workspace import Member

_MOST_SHOWN = 20


def why(project: Project, graph: Graph, name: str) -> Outcome:
    """Every chain from a line of the project down to the package, its layer, and what pins and bounds it.

    Raises FindingError where it isn't there.
    """
    name = canonicalize_name(name)
    part = project.of_lock(graph.backend)
    if name not in graph.nodes:
        raise _not_there(part, graph, name)
    node = graph.nodes[name]
    members = _members(part, graph, name)
    chains = list(islice(_ways(graph, name, members), _MOST_SHOWN + 1))
    pinned, bounds = _pin(part, graph, name), list(_bounds(part, graph, name))
    layer = f"foundation of {graph.backend}" if node.layer == "foundation" else node.layer
    lines = [f"{name}{f' {node.version}' if node.version else ''}: {layer}{f', pinned by {pinned}' if pinned else ''}"]
    holding = [member.name for member in members if member.has]
    lines += [f"  in the lock of {', '.join(holding)}"] if holding else []
    lines += [f"  bounded by {origin} ({origin.text})" for origin in bounds]
    lines += [f"  {', '.join(map(str, origins))} {' → '.join(chain)}" for origins, chain in chains[:_MOST_SHOWN]]
    if len(chains) > _MOST_SHOWN:
        lines.append(f"  and more: `mlenv tree --backend {graph.backend} --invert --package {name}`")
    data = {
        "name": name,
        "version": node.version,
        "layer": node.layer,
        "backend": graph.backend,
        "platform": graph.platform,
        "pinned_by": vars(pinned) if pinned else None,
        "bounds": [vars(origin) for origin in bounds],
        "members": holding,
        "chains": [_data(origins, chain) for origins, chain in chains[:_MOST_SHOWN]],
        "more": len(chains) > _MOST_SHOWN,
        "whole": graph.whole,
    }
    findings = (finding for finding in graph.findings if finding.kind != "libraries-unknown")  # this package is known
    return Outcome(text="\n".join(lines), data=data, findings=tuple(findings))


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """A member, the files that it requires from, and whether its lock has the package."""

    name: str
    files: frozenset[str]
    has: bool


def _members(part: Project, graph: Graph, name: str) -> list[_Holder]:
    """At a workspace's root, of a package that locks have: the members that are resolved as one."""
    if part.member is not None or graph.nodes[name].layer != "application":
        return []
    views = {member.name: part.of_member(member).of_lock(graph.backend) for member in part.workspace.together}
    return [
        _Holder(
            name=member,
            files=frozenset(file.path for file in view.requirements.files),
            has=view.lock is None or name in {pin.name for pin in view.lock.pins},
        )
        for member, view in views.items()
    ]


def _ways(graph: Graph, name: str, members: Sequence[_Holder]) -> Iterator[tuple[tuple[Origin, ...], tuple[str, ...]]]:
    """Every chain, and the lines that it starts from: none of a member that gets along without the package.

    What a package's own file asks for comes from that line, and not once more by way of the package.
    """
    known = {path for member in members for path in member.files}
    holding = {path for member in members if member.has for path in member.files}
    for chain in graph.chains(name):
        told = {origin.path for origin in graph.nodes[chain[1]].origins} if len(chain) > 1 else set()
        own = told if graph.nodes[chain[0]].layer == "local project" else set()
        origins = tuple(
            origin
            for origin in graph.nodes[chain[0]].origins
            if origin.path not in own and (origin.path in holding or origin.path not in known)
        )
        if origins:
            yield origins, chain


def _not_there(part: Project, graph: Graph, name: str) -> FindingError:
    missing = next((finding for finding in graph.findings if finding.severity == "warning"), None)
    if missing is not None and (part.names.owns(name) or (part.lock is not None and name in part.lock.excluded)):
        return FindingError(f"{name} is foundation, and {missing.message}", hint=missing.hint)
    message = f"{name} is not in the environment of {graph.backend}"
    if (apart := _apart(part, name)) is not None:
        told = f"{message}; {apart.name}, which is {'a development list' if apart.group else 'isolated'}, has it"
        return FindingError(told, hint=f"`mlenv why --member {shlex.quote(apart.name)} {name}`")
    if part.lock is not None and name in part.lock.excluded:
        others = [backend for backend in part.locked_overlays if backend != graph.backend]
        hint = f"another backend's foundation has it: `mlenv why --backend {others[0] if others else 'B'} {name}`"
        return FindingError(message, hint=hint)
    return FindingError(message, hint=did_you_mean(name, graph.nodes, otherwise="`mlenv tree` shows what is there"))


def _apart(part: Project, name: str) -> Member | None:
    """At a workspace's root: a member with a lock of its own that has the package."""
    apart = [one for one in part.workspace.members if one.isolated or one.group] if part.member is None else []
    locks = ((member, part.of_member(member).lock) for member in apart)
    return next((member for member, lock in locks if lock is not None and name in {p.name for p in lock.pins}), None)


def _pin(part: Project, graph: Graph, name: str) -> Origin | None:
    """The line of the overlay or of the lock that holds its version."""
    overlay = part.overlay(graph.backend).on([planning.environment_of(part, graph.platform)])
    for constraint in overlay.constraints:
        if constraint.name == name and constraint.pin is not None:
            return Origin(path=overlay.path, line=constraint.line, text=str(constraint.requirement))
    for pin in planning.pins_on(part, graph.platform):
        if pin.name == name:
            return Origin(path=part.settings.lock, line=pin.line, text=pin.requirement)
    return None


def _bounds(part: Project, graph: Graph, name: str) -> Iterator[Origin]:
    """Lines that bring nothing and bound it: of the overlay, and of constraints files."""
    overlay = part.overlay(graph.backend).on([planning.environment_of(part, graph.platform)])
    for constraint in overlay.constraints:
        if constraint.name == name and constraint.pin is None:
            yield Origin(path=overlay.path, line=constraint.line, text=str(constraint.requirement))
    for file in part.requirements.files:
        for entry in file.entries if file.kind == "constraint" else ():
            if isinstance(entry, Named) and canonicalize_name(entry.requirement.name) == name:
                yield Origin(path=file.path, line=entry.line, text=str(entry.requirement))


def _data(origins: tuple[Origin, ...], chain: tuple[str, ...]) -> dict[str, Any]:
    return {"from": [vars(origin) for origin in origins], "packages": list(chain)}
