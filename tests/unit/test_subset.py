"""The part of one resolution that a member needs, on generated graphs with extras, compared with a search by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv import lockfile, platforms, subset
from mlenv.lockfile import Pin
from mlenv.overlay import parse_overlay
from mlenv.project import Project
from mlenv.resolution import Resolved, Source
from mlenv.settings import load
from mlenv.subset import Wanted

LINUX = platforms.environment("linux-x86_64", "3.11")
Asked = Sequence[tuple[str, str]]
"""Packages with an extra each; an empty one is none."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What packages require: (package, extra or nothing) → what it asks for. Root is what every member gets."""

    edges: Mapping[tuple[str, str], Asked]
    root: str = "torch"

    def needs(self, asked: Asked) -> dict[str, set[str]]:
        """name → its extras that are asked for: the search by hand."""
        found: dict[str, set[str]] = {}
        waiting = [*asked, (self.root, "")]
        while waiting:
            name, extra = waiting.pop()
            known = found.setdefault(name, set())
            for one in ("", extra):
                if one not in known:
                    known.add(one)
                    waiting += self.edges.get((name, one), ())
        return {name: extras - {""} for name, extras in found.items()}

    def answer(self, members: Mapping[str, Asked]) -> Resolved:
        """As uv tells it: pins with all extras, and who brings each, whatever it brings it for."""
        needs = self.needs([one for asked in members.values() for one in asked])
        via: dict[str, set[str]] = {name: set() for name in needs}
        for name, extras in needs.items():
            for extra in ("", *extras):
                for below, _ in self.edges.get((name, extra), ()):
                    via[below] |= {name} - {below}
        for member, asked in members.items():
            for name, _ in asked:
                via[name].add(f"-r {member}/requirements.in")
        pins = [
            Pin(name=name, version="1", extras=tuple(sorted(extras)), via=tuple(sorted(via[name])))
            for name, extras in sorted(needs.items())
        ]
        foundation = tuple(pin for pin in pins if pin.name == self.root)
        application = tuple(pin for pin in pins if pin.name != self.root)
        return Resolved(backend="cpu", source=Source(), foundation=foundation, application=application)


def wanted(member: str, asked: Asked, *, root: str = "torch") -> Wanted:
    extras: dict[str, frozenset[str]] = {root: frozenset()}
    for name, extra in asked:
        extras[name] = extras.get(name, frozenset()) | ({extra} if extra else frozenset())
    return Wanted(files=(f"{member}/requirements.in",), local={}, asked=extras, roots=frozenset({root}))


def everything(members: Mapping[str, Asked]) -> Wanted:
    return wanted("all", [one for asked in members.values() for one in asked])


def cut(graph: Graph, members: Mapping[str, Asked], name: str) -> tuple[Resolved, bool]:
    """The member's part, and whether it had to be resolved by itself."""
    asked_alone = []

    def alone() -> Mapping[str, Pin]:
        asked_alone.append(name)
        return graph.answer({name: members[name]}).pins

    part = subset.part_of(graph.answer(members), wanted(name, members[name]), of=everything(members), alone=alone)
    return part, bool(asked_alone)


def names(part: Resolved) -> set[str]:
    return set(part.pins)


# --------------------------------------------------------------------------------------------------------- by example

GRAPH = Graph(
    edges={
        ("torch", ""): [("fsspec", ""), ("cuda-toolkit", "cublas")],
        ("cuda-toolkit", "cublas"): [("nvidia-cublas", "")],
        ("datasets", ""): [("fsspec", "http"), ("pyarrow", "")],
        ("fsspec", "http"): [("aiohttp", "")],
        ("server", ""): [("starlette", "")],
        ("server", "fast"): [("uvloop", "")],
        ("app", ""): [("server", "fast")],
    }
)


def test_a_member_gets_what_it_asks_for_what_that_brings_and_the_foundation() -> None:
    part, by_itself = cut(GRAPH, {"a": [("server", "")], "b": [("pyarrow", "")]}, "a")
    assert names(part) == {"server", "starlette", "torch", "fsspec", "cuda-toolkit", "nvidia-cublas"}
    assert [pin.name for pin in part.foundation] == ["torch"]
    assert not by_itself  # torch alone asks for the extra of cuda-toolkit


def test_what_others_bring_is_not_in_the_annotations() -> None:
    part, _ = cut(GRAPH, {"a": [("starlette", "")], "b": [("server", "")]}, "a")
    assert part.pins["starlette"].via == ("-r a/requirements.in",)


def test_a_bound_stays_in_the_annotations() -> None:
    bounded = Pin(name="numpy", version="2", via=("-c limits.txt", "-r a/requirements.in", "-r b/requirements.in"))
    answer = Resolved(backend="cpu", source=Source(), foundation=(), application=(bounded,))
    mine = wanted("a", [("numpy", "")])
    part = subset.part_of(answer, mine, of=mine, alone=pytest.fail)
    assert part.pins["numpy"].via == ("-c limits.txt", "-r a/requirements.in")


def test_a_project_file_brings_what_it_states() -> None:
    pin = Pin(name="numpy", version="2", via=("rag (apps/rag/pyproject.toml)", "web (apps/web/pyproject.toml)"))
    answer = Resolved(backend="cpu", source=Source(), foundation=(), application=(pin,))
    mine = Wanted(files=("apps/rag/pyproject.toml",), local={}, asked={})
    part = subset.part_of(answer, mine, of=mine, alone=pytest.fail)
    assert part.pins["numpy"].via == ("rag (apps/rag/pyproject.toml)",)
    other = Wanted(files=("rag/pyproject.toml",), local={}, asked={})
    assert not subset.part_of(answer, other, of=mine, alone=pytest.fail).pins


@pytest.mark.parametrize(
    ("members", "by_itself"),
    [
        ({"a": [("server", "fast")], "b": []}, False),
        ({"a": [("server", "")], "b": [("server", "fast")]}, True),
        ({"a": [("app", "")], "b": []}, False),
        ({"a": [("app", "")], "b": [("server", "fast")]}, True),
        ({"a": [], "b": [("datasets", "")]}, True),  # torch brings fsspec, and may have asked for the extra
        ({"a": [("datasets", "")], "b": [("server", "")]}, False),
    ],
)
def test_it_is_resolved_by_itself_only_where_it_cannot_be_told_who_asks_for_an_extra(
    members: Mapping[str, Asked], by_itself: bool
) -> None:
    part, was = cut(GRAPH, members, "a")
    assert was == by_itself
    assert {name: set(pin.extras) for name, pin in part.pins.items()} == GRAPH.needs(members["a"])


def test_an_extra_that_only_what_it_brings_asks_for_is_none_of_the_members() -> None:
    """``r`` asks for ``p[x]``, which is what brings ``r``: a member that asks for ``p`` needs neither."""
    graph = Graph(edges={("r", ""): [("p", "x")], ("p", "x"): [("q", "")], ("q", ""): [("r", "")]})
    part, by_itself = cut(graph, {"a": [("p", "")], "b": [("r", "")]}, "a")
    assert by_itself
    assert names(part) == {"p", "torch"}


def local(**extras: Sequence[str]) -> dict[str, frozenset[str]]:
    return {name: frozenset(asked) for name, asked in extras.items()}


LOCAL_PINS = (Pin(name="numpy", version="2", via=("common",)), Pin(name="matplotlib", version="3", via=("common",)))


@pytest.mark.parametrize(
    ("mine", "all_of_them", "by_itself"),
    [
        (local(common=()), local(common=()), False),
        (local(common=["plots"]), local(common=["plots"]), False),
        (local(common=()), local(common=["plots"]), True),  # whose requirements would be taken for its own
        (local(), local(common=["plots"]), False),
        (local(), {"": frozenset()}, True),  # nothing says what uv calls it
    ],
)
def test_extras_of_a_local_project_that_another_member_asks_for(
    mine: dict[str, frozenset[str]], all_of_them: dict[str, frozenset[str]], by_itself: bool
) -> None:
    answer = Resolved(backend="cpu", source=Source(), foundation=(), application=LOCAL_PINS)
    alone = Resolved(backend="cpu", source=Source(), foundation=(), application=LOCAL_PINS[:1])
    start = Wanted(files=("a/requirements.in",), local=mine, asked={})
    part = subset.part_of(answer, start, of=Wanted(files=(), local=all_of_them, asked={}), alone=lambda: alone.pins)
    assert names(part) == ({"numpy"} if by_itself else {"numpy", "matplotlib"} if mine else set())


def test_by_itself_or_not_the_hashes_are_those_that_all_share() -> None:
    shared = Pin(name="server", version="1", extras=("fast",), hashes=("sha256:aa", "sha256:bb"), via=("-r b.in", "x"))
    answer = Resolved(backend="cpu", source=Source(), foundation=(), application=(shared,))
    own = Pin(name="server", version="1", hashes=("sha256:cc",), via=("-r a.in",))
    alone = Resolved(backend="cpu", source=Source(), foundation=(), application=(own,))
    mine = Wanted(files=("a.in",), local={}, asked={})
    whole = Wanted(files=("a.in", "b.in"), local={}, asked={"server": frozenset({"fast"})})
    answer_with_a = Resolved(
        backend="cpu",
        source=Source(),
        foundation=(),
        application=(Pin(name="server", version="1", extras=("fast",), hashes=shared.hashes, via=("-r a.in",)),),
    )
    part = subset.part_of(answer_with_a, mine, of=whole, alone=lambda: alone.pins)
    assert part.pins["server"] == Pin(name="server", version="1", hashes=shared.hashes, via=("-r a.in",))
    assert not subset.part_of(answer, mine, of=whole, alone=pytest.fail).pins


def test_what_a_member_starts_from_is_what_holds_on_the_target(tmp_path: Path) -> None:
    for path, text in {
        "pyproject.toml": "",
        "requirements.in": "foo[a,B_b]\nfoo[win]; os_name == 'nt'\nbar; os_name == 'nt'\n-r more.in\n-e ./lib[x]\n",
        "more.in": "baz[c]\n-c limits.txt\n",
        "limits.txt": "numpy<3\n",
        "lib/pyproject.toml": '[project]\nname = "My_Lib"\nversion = "1"\noptional-dependencies.x = []\n',
        "constraints/cpu.txt": "torch==2.14.1\nnumpy<3\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    project = Project(root=tmp_path, settings=load(tmp_path, environ={})[0], environ={})
    found = subset.wanted_by(project, parse_overlay(tmp_path, "constraints/cpu.txt"), environment=LINUX)
    assert found.files == ("requirements.in", "more.in")
    assert dict(found.local) == {"my-lib": frozenset({"x"})}
    assert dict(found.asked) == {
        "foo": frozenset({"a", "b-b"}),
        "baz": frozenset({"c"}),
        "torch": frozenset(),
    }
    assert found.roots == {"torch"}


# ----------------------------------------------------------------------------------------------------- on any workspace

NAMES = ("torch", *"abcdef")
EXTRAS = ("", "", "x", "y")
asked = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(EXTRAS)), max_size=3)
graphs = st.builds(
    Graph, edges=st.dictionaries(st.tuples(st.sampled_from(NAMES), st.sampled_from(EXTRAS)), asked, max_size=10)
)
workspaces = st.dictionaries(st.sampled_from(["one", "two", "three"]), asked, min_size=1)


@given(graphs, workspaces)
@settings(deadline=None, max_examples=300)
def test_each_member_gets_exactly_what_it_needs_and_members_share_pins(
    graph: Graph, members: Mapping[str, Asked]
) -> None:
    answer = graph.answer(members)
    parts = {name: cut(graph, members, name)[0].pins for name in members}
    for name, pins in parts.items():
        assert {one: set(pin.extras) for one, pin in pins.items()} == graph.needs(members[name])
        assert {one: set(pin.via) for one, pin in pins.items()} == {
            one: set(pin.via) for one, pin in graph.answer({name: members[name]}).pins.items()
        }
    shared = [(one, pins[one]) for pins in parts.values() for one in pins]
    assert all((pin.version, pin.hashes) == (answer.pins[one].version, answer.pins[one].hashes) for one, pin in shared)


def test_a_lock_of_a_part_reads_back() -> None:
    part, _ = cut(GRAPH, {"a": [("server", "fast")], "b": [("datasets", "")]}, "a")
    hashed = [Pin(name=pin.name, version=pin.version, extras=pin.extras, via=pin.via) for pin in part.application]
    assert lockfile.parse_pins(lockfile.render_pins(hashed)) == tuple(hashed)
