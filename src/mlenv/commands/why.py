"""``mlenv why``: every way a package comes in, and the lines that hold it where it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from packaging.utils import canonicalize_name

from mlenv import planning
from mlenv.errors import FindingError, did_you_mean
from mlenv.graph import Graph, Origin
from mlenv.project import Project
from mlenv.report import Outcome
from mlenv.requirement_lines import Named

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
    chains = list(islice(graph.chains(name), _MOST_SHOWN + 1))
    pinned, bounds = _pin(part, graph, name), list(_bounds(part, graph, name))
    layer = f"foundation of {graph.backend}" if node.layer == "foundation" else node.layer
    lines = [f"{name}{f' {node.version}' if node.version else ''}: {layer}{f', pinned by {pinned}' if pinned else ''}"]
    lines += [f"  bounded by {origin} ({origin.text})" for origin in bounds]
    lines += [f"  {_in_words(graph, chain)}" for chain in chains[:_MOST_SHOWN]]
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
        "chains": [_data(graph, chain) for chain in chains[:_MOST_SHOWN]],
        "more": len(chains) > _MOST_SHOWN,
        "whole": graph.whole,
    }
    findings = (finding for finding in graph.findings if finding.kind != "libraries-unknown")  # this package is known
    return Outcome(text="\n".join(lines), data=data, findings=tuple(findings))


def _not_there(part: Project, graph: Graph, name: str) -> FindingError:
    missing = next((finding for finding in graph.findings if finding.severity == "warning"), None)
    if missing is not None and (part.names.owns(name) or (part.lock is not None and name in part.lock.excluded)):
        return FindingError(f"{name} is foundation, and {missing.message}", hint=missing.hint)
    message = f"{name} is not in the environment of {graph.backend}"
    if part.lock is not None and name in part.lock.excluded:
        others = [backend for backend in part.locked_overlays if backend != graph.backend]
        hint = f"another backend's foundation has it: `mlenv why --backend {others[0] if others else 'B'} {name}`"
        return FindingError(message, hint=hint)
    return FindingError(message, hint=did_you_mean(name, graph.nodes, otherwise="`mlenv tree` shows what is there"))


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


def _in_words(graph: Graph, chain: tuple[str, ...]) -> str:
    """``requirements.in:3 demo-app → torch → sympy``."""
    first = graph.nodes[chain[0]]
    return f"{', '.join(map(str, first.origins))} {' → '.join(chain)}"


def _data(graph: Graph, chain: tuple[str, ...]) -> dict[str, Any]:
    return {"from": [vars(origin) for origin in graph.nodes[chain[0]].origins], "packages": list(chain)}
