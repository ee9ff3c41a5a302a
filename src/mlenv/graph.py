"""Who brings what: the packages of one backend's environment and the edges between them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Literal

from mlenv.lockfile import Pin
from mlenv.report import Finding
from mlenv.values import dataclass

Layer = Literal["application", "foundation", "local project"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A line that asks for a package, or pins it as a root of the foundation."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        """``requirements.in:3``."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One package. ``origins`` are the lines that ask for it; where others bring it alone, there is none."""

    name: str
    version: str | None
    layer: Layer
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Packages by name, and for each of them the names of those that ask for it.

    ``findings`` say what of it is not known, and where its foundation was looked up if that is worth saying; it is
    ``whole`` where all is known.
    """

    backend: str
    platform: str
    nodes: Mapping[str, Node]
    required_by: Mapping[str, tuple[str, ...]]
    findings: tuple[Finding, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every package and every edge is known."""
        return all(finding.severity == "note" for finding in self.findings)

    @cached_property
    def requires(self) -> Mapping[str, tuple[str, ...]]:
        """For each package the names of those that it asks for."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, parents in self.required_by.items():
            for parent in parents:
                found[parent].append(name)
        return {name: tuple(sorted(below)) for name, below in found.items()}

    @property
    def tops(self) -> list[str]:
        """What the project itself asks for, in the order of its files, the roots of the foundation last."""
        placed = [(origin, node) for node in self.nodes.values() for origin in node.origins]
        files = {origin.path: None for origin, _ in placed}  # as they were read
        order = {path: number for number, path in enumerate(files)}
        placed.sort(key=lambda pair: (order[pair[0].path], pair[0].line))
        return list(dict.fromkeys(node.name for _, node in placed))

    @property
    def leaves(self) -> list[str]:
        """What asks for nothing."""
        return sorted(name for name, below in self.requires.items() if not below)

    def chains(self, name: str) -> Iterator[tuple[str, ...]]:
        """Every way from a line of the project down to a package, the shortest first."""
        waiting: list[tuple[str, ...]] = [(name,)]
        while waiting:
            following: list[tuple[str, ...]] = []
            for path in waiting:
                if self.nodes[path[0]].origins:
                    yield path
                following += [(above, *path) for above in self.required_by.get(path[0], ()) if above not in path]
            waiting = sorted(following)


def made_of(
    pins: Iterable[Pin],
    *,
    backend: str,
    platform: str,
    layers: Mapping[str, Layer],
    origins: Mapping[str, tuple[Origin, ...]],
    findings: tuple[Finding, ...] = (),
) -> Graph:
    """The graph that the annotations of pins (``# via``) tell.

    ``layers`` has the layer of what is no Application; names that bring something and have no pin are nodes as well.
    """
    found = {pin.name: pin for pin in pins}
    names = {name for pin in found.values() for name in _packages(pin)} | found.keys() | origins.keys()
    nodes = {
        name: Node(
            name=name,
            version=(found[name].version or found[name].url) if name in found else None,
            layer=layers.get(name, "application"),
            origins=origins.get(name, ()),
        )
        for name in [*origins, *sorted(names - origins.keys())]
    }
    required_by = {name: tuple(sorted(_packages(pin))) for name, pin in found.items()}
    return Graph(backend=backend, platform=platform, nodes=nodes, required_by=required_by, findings=findings)


def _packages(pin: Pin) -> set[str]:
    """The packages among what brings it: no files (``-r requirements.in``, ``name (pyproject.toml)``), no bounds."""
    return {via for via in pin.via if not via.startswith("-") and not via.endswith(")")} - {pin.name}
