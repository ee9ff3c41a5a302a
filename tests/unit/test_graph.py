"""Who brings what, as a graph and as a tree."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv import graph
from mlenv.commands.tree import tree
from mlenv.errors import FindingError
from mlenv.graph import Graph, Origin
from mlenv.lockfile import Pin

EDGES = {"torch": ["app"], "sympy": ["torch"], "mpmath": ["sympy", "lib"], "triton": ["torch"], "app": [], "lib": []}


def made(edges: dict[str, list[str]], *origins: str) -> Graph:
    return graph.made_of(
        [Pin(name=name, version="1", via=("-r requirements.in", "-c limits.txt", *via)) for name, via in edges.items()],
        backend="cpu",
        platform="linux-x86_64",
        layers={"torch": "foundation"},
        origins={name: (Origin(path="requirements.in", line=n, text=name),) for n, name in enumerate(origins, 1)},
    )


def test_chains_are_all_ways_down_the_shortest_first() -> None:
    found = made(EDGES, "app", "lib", "torch")
    assert list(found.chains("mpmath")) == [
        ("lib", "mpmath"),
        ("torch", "sympy", "mpmath"),
        ("app", "torch", "sympy", "mpmath"),
    ]
    assert list(found.chains("app")) == [("app",)]


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)))
@settings(deadline=None)
def test_chains_end_and_follow_edges_whatever_the_graph(edges: dict[str, list[str]]) -> None:
    found = made(edges, "a", "b")
    for name in found.nodes:
        chains = list(found.chains(name))
        assert len(set(chains)) == len(chains)
        assert [len(chain) for chain in chains] == sorted(len(chain) for chain in chains)
        for chain in chains:
            assert found.nodes[chain[0]].origins
            assert all(above in found.required_by[below] for above, below in pairwise(chain))
    shown = tree(found, packages=(), invert=False, depth=None).text
    reached = {name for name in found.nodes if any(found.chains(name))}
    assert {line.strip("│├└─ ").split(" ")[0] for line in shown.splitlines() if line and "(*) w" not in line} == reached


def test_a_tree_shows_what_a_package_brings_once() -> None:
    found = made({**EDGES, "sympy": ["torch", "lib"]}, "app", "lib")
    assert (
        tree(found, packages=(), invert=False, depth=None).text
        == """\
app 1 (requirements.in:1)
└── torch 1 [foundation cpu]
    ├── sympy 1
    │   └── mpmath 1
    └── triton 1
lib 1 (requirements.in:2)
├── mpmath 1
└── sympy 1 (*)

(*) what it brings is shown above"""
    )
    assert (
        tree(found, packages=(), invert=False, depth=1).text
        == """\
app 1 (requirements.in:1)
└── torch 1 [foundation cpu]
lib 1 (requirements.in:2)
├── mpmath 1
└── sympy 1"""
    )
    assert (
        tree(found, packages=("SymPy",), invert=True, depth=None).text
        == """\
sympy 1
├── lib 1 (requirements.in:2)
└── torch 1 [foundation cpu]
    └── app 1 (requirements.in:1)"""
    )
    with pytest.raises(FindingError, match="sympi is not in the environment of cpu") as caught:
        tree(found, packages=("sympi",), invert=False, depth=None)
    assert caught.value.hint == "did you mean sympy?"
