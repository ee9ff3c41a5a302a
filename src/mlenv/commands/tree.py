"""``mlenv tree``: who brings what, foundation included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packaging.utils import canonicalize_name

from mlenv.errors import FindingError, did_you_mean
from mlenv.graph import Graph, Node
from mlenv.report import Outcome


def tree(graph: Graph, *, packages: Sequence[str], invert: bool, depth: int | None) -> Outcome:
    """The tree of what the project asks for, or of ``packages``; with ``invert`` of who asks for them.

    ``depth`` is how many levels below the top are shown. Raises FindingError for a package that isn't there.
    """
    below = graph.required_by if invert else graph.requires
    tops = [_named(graph, name) for name in packages] or (graph.leaves if invert else graph.tops)
    lines = list(_lines(graph, tops, below, depth=depth))
    if any(line.endswith(" (*)") for line in lines):
        lines += ["", f"(*) {'who needs it' if invert else 'what it brings'} is shown above"]
    return Outcome(text="\n".join(lines), data=_data(graph), findings=graph.findings)


def _named(graph: Graph, text: str) -> str:
    name = canonicalize_name(text)
    if name not in graph.nodes:
        hint = did_you_mean(name, graph.nodes, otherwise="`mlenv tree` shows what is there")
        raise FindingError(f"{name} is not in the environment of {graph.backend}", hint=hint)
    return name


def _lines(
    graph: Graph, tops: Sequence[str], below: Mapping[str, Sequence[str]], *, depth: int | None
) -> Iterator[str]:
    """The lines of the tree; what a package brings is shown where that is first possible."""
    met: set[str] = set()
    opened: set[str] = set()

    def lines(name: str, *, first: str, then: str, level: int) -> Iterator[str]:
        children = below.get(name, ()) if depth is None or level < depth else ()
        again = name in opened and bool(children)
        yield f"{first}{_in_words(graph.nodes[name], graph.backend)}{' (*)' if again else ''}"
        met.add(name)
        opened.update([name] if children else [])
        for child in () if again else children:
            last = child == children[-1]
            corner, bar = ("└── ", "    ") if last else ("├── ", "│   ")
            yield from lines(child, first=then + corner, then=then + bar, level=level + 1)

    for top in tops:
        if top not in met:
            yield from lines(top, first="", then="", level=0)


def _in_words(node: Node, backend: str) -> str:
    """``torch 2.14.1+cpu [foundation cpu] (constraints/cpu.txt:1)``."""
    layer = {"foundation": f" [foundation {backend}]", "local project": " [local project]"}.get(node.layer, "")
    where = f" ({', '.join(map(str, node.origins))})" if node.origins else ""
    return f"{node.name}{f' {node.version}' if node.version else ''}{layer}{where}"


def _data(graph: Graph) -> dict[str, Any]:
    return {
        "backend": graph.backend,
        "platform": graph.platform,
        "whole": graph.whole,
        "packages": [
            {
                "name": node.name,
                "version": node.version,
                "layer": node.layer,
                "asked_for": [vars(origin) for origin in node.origins],
                "requires": list(graph.requires[node.name]),
                "required_by": list(graph.required_by.get(node.name, ())),
            }
            for node in sorted(graph.nodes.values(), key=lambda node: node.name)
        ],
    }
