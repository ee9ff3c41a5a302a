from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from mlenv import agreement
from mlenv.errors import ConflictError
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay, parse_overlay
from mlenv.resolution import Resolved, Source

Needs = Mapping[str, str]
"""What a release requires: name → specifier; ``torch`` is the foundation."""

NONE: Needs = MappingProxyType({})


@dataclass
class World:
    """Stands for uv and an index: ``releases`` are (name, version) → needs, ``torches`` backend → torch → needs.

    Complete, as uv is: every assignment is tried, the newest releases first.
    """

    releases: Mapping[tuple[str, str], Needs]
    torches: Mapping[str, tuple[str, Needs]]
    direct: Needs
    preferred: Mapping[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def resolve(self, overlay: Overlay, *, bounds: tuple[str, ...]) -> Resolved:
        self.asked.append(f"resolve {overlay.backend}")
        return self._first(overlay.backend, bounds, {}, self.preferred)

    def announce(self, overlays: Sequence[Overlay]) -> None:
        self.asked += [f"prove {overlay.backend}" for overlay in overlays]

    def prove(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...]) -> Resolved:
        return self._first(overlay.backend, bounds, {pin.name: pin.version or "" for pin in pins}, self.preferred)

    def probe(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...] = ()) -> Resolved:
        self.asked.append(f"probe {overlay.backend}")
        return self._first(overlay.backend, bounds, {pin.name: pin.version or "" for pin in pins}, {})

    def objection(self, overlay: Overlay, requirement: str) -> str | None:
        name, _, version = requirement.partition("==")
        try:
            self._first(overlay.backend, (f"{name}=={version}",), {}, {})
        except ConflictError:
            return f"{overlay.backend} can't have {requirement}"
        return None

    def solutions(
        self, backend: str, bounds: Sequence[str] = (), held: Needs = NONE, preferred: Needs = NONE
    ) -> Iterator[dict[str, str]]:
        torch, needs = self.torches[backend]
        limits = dict.fromkeys({name for name, _ in self.releases}, "")
        for bound in bounds:
            name = agreement._name_of(bound)
            limits[name] = ",".join(filter(None, [limits.get(name), bound[len(name) :]]))
        pending = [*self.direct.items(), *needs.items()]
        yield from self._choose(pending, {"torch": torch}, limits, held, preferred)

    def _choose(
        self, pending: list[tuple[str, str]], chosen: dict[str, str], limits: Needs, held: Needs, preferred: Needs
    ) -> Iterator[dict[str, str]]:
        if not pending:
            yield chosen
            return
        (name, specifier), *rest = pending
        if name in chosen:
            if chosen[name] in SpecifierSet(specifier):
                yield from self._choose(rest, chosen, limits, held, preferred)
            return
        newest_first = sorted((v for n, v in self.releases if n == name), key=float, reverse=True)
        versions = sorted(newest_first, key=lambda version: version != preferred.get(name))
        for version in versions:
            fits = version in SpecifierSet(specifier) and version in SpecifierSet(limits[name])
            if fits and held.get(name, version) == version:
                more = [*rest, *self.releases[name, version].items()]
                yield from self._choose(more, {**chosen, name: version}, limits, held, preferred)

    def _first(self, backend: str, bounds: Sequence[str], held: Needs, preferred: Needs) -> Resolved:
        found = next(self.solutions(backend, bounds, held, preferred), None)
        if found is None:
            raise ConflictError(f"{backend} has no solution")
        pins = tuple(Pin(name=name, version=version) for name, version in sorted(found.items()) if name != "torch")
        return Resolved(backend=backend, source=Source(), foundation=(), application=pins)


def overlays(folder: Path, world: World) -> list[Overlay]:
    (folder / "constraints").mkdir(exist_ok=True)
    for backend, (torch, _) in world.torches.items():
        (folder / f"constraints/{backend}.txt").write_text(f"torch=={torch}\n")
    return [parse_overlay(folder, f"constraints/{backend}.txt") for backend in world.torches]


def common(world: World) -> bool:
    """Whether there is a common solution, by looking at all of them."""
    every = [list(world.solutions(backend)) for backend in world.torches]
    without_torch = [[{n: v for n, v in found.items() if n != "torch"} for found in each] for each in every]
    return any(
        all(one.get(name, version) == version for one in chosen for other in chosen for name, version in other.items())
        for chosen in product(*without_torch)
    )


def pins_of(found: Mapping[str, Resolved]) -> dict[str, str | None]:
    merged: dict[str, str | None] = {}
    for answer in found.values():
        for pin in answer.application:
            assert merged.setdefault(pin.name, pin.version) == pin.version
    return merged


# --- by example ------------------------------------------------------------------------------------------------------

SHARED: Mapping[tuple[str, str], Needs] = {("shared", version): {} for version in ("1.0", "1.5", "2.0")}


def on(*bounds: tuple[str, str], preferred: Needs = NONE) -> World:
    """A world of torches that each bound ``shared``."""
    torches = {f"cu{n}": (torch, {"shared": bound}) for n, (torch, bound) in enumerate(bounds)}
    return World(releases=SHARED, torches=torches, direct={"shared": ""}, preferred=preferred)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([("2.9", "<3"), ("2.10", "<3"), ("2.14", "<3")], "2.0"),
        ([("2.9", "<2"), ("2.10", "<3"), ("2.14", "<3")], "1.5"),
        ([("2.9", "<3"), ("2.10", "<2"), ("2.14", "<3")], "1.5"),
        ([("2.9", "<3"), ("2.10", "<2"), ("2.14", "<1.5")], "1.0"),
    ],
)
def test_every_backend_has_the_same_pins(tmp_path: Path, bounds: list[tuple[str, str]], expected: str) -> None:
    world = on(*bounds)
    found = agreement.agree(overlays(tmp_path, world), solver=world)
    assert pins_of(found) == {"shared": expected}


def test_the_oldest_torch_leads_and_agreement_needs_one_turn(tmp_path: Path) -> None:
    world = on(("2.14.1", "<3"), ("2.9.1", "<3"))
    agreement.agree(overlays(tmp_path, world), solver=world)
    assert world.asked == ["resolve cu1", "prove cu0"]


def test_existing_pins_are_kept(tmp_path: Path) -> None:
    world = on(("2.9", "<3"), ("2.10", "<3"), preferred={"shared": "1.0"})
    assert pins_of(agreement.agree(overlays(tmp_path, world), solver=world)) == {"shared": "1.0"}


def test_an_older_release_of_something_else_is_found(tmp_path: Path) -> None:
    """Preferences alone never get there: each overlay alone is content with what the other can't have."""
    releases = {
        ("app", "2.0"): {"lib": ">=2"},
        ("app", "1.0"): {"lib": ""},
        ("lib", "2.0"): {"torch": ">=2.10"},
        ("lib", "1.0"): {},
    }
    world = World(releases=releases, torches={"old": ("2.9", {}), "new": ("2.14", {})}, direct={"app": ""})
    assert pins_of(agreement.agree(overlays(tmp_path, world), solver=world)) == {"app": "1.0", "lib": "1.0"}


def test_fifty_releases_for_other_torches_are_ruled_out_in_bulk(tmp_path: Path) -> None:
    """As vllm: each release wants one torch, those of two torches take turns, and an old one takes all."""
    releases: dict[tuple[str, str], Needs] = {("v", f"{n}.0"): {"torch": "==2.9"} for n in range(30, 55)}
    releases |= {("v", f"{n}.0"): {"torch": "==2.14"} for n in range(5, 30)} | {("v", "1.0"): {}}
    world = World(releases=releases, torches={"old": ("2.9", {}), "new": ("2.14", {})}, direct={"v": ""})
    assert pins_of(agreement.agree(overlays(tmp_path, world), solver=world)) == {"v": "1.0"}
    assert len(world.asked) < 40


def test_backends_that_cannot_agree_are_told_with_both_reasons(tmp_path: Path) -> None:
    world = on(("2.6", "==1.0"), ("2.7", ">=1.5"))
    with pytest.raises(ConflictError) as caught:
        agreement.agree(overlays(tmp_path, world), solver=world)
    assert caught.value.message.splitlines() == [
        "no single set of pins fits every backend: of shared, cu0 takes 1.0, cu1 takes 2.0",
        "cu0 can't have shared==2.0",
        "cu1 can't have shared==1.0",
    ]
    for way_out in ("unproven = [", "[tool.mlenv.backends.cu0] lock", "constraints/"):
        assert way_out in (caught.value.hint or "")


def test_one_overlay_without_a_solution_of_its_own_is_told_as_such(tmp_path: Path) -> None:
    world = on(("2.6", "<3"), ("2.7", ">=9"))
    with pytest.raises(ConflictError, match="cu1 has no solution"):
        agreement.agree(overlays(tmp_path, world), solver=world)


# --- against brute force ---------------------------------------------------------------------------------------------

_NAMES = ("a", "b", "c")
_VERSIONS = ("1.0", "2.0", "3.0")
_SPECIFIERS = st.sampled_from(["", "==1.0", ">=2", "<3", "!=2.0", "==3.0"])
_TORCH = st.sampled_from(["", "", "<2.10", ">=2.10", "==2.14"])
_NEEDS = st.dictionaries(st.sampled_from(_NAMES), _SPECIFIERS, max_size=2)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    releases = {}
    for name, version in product(_NAMES, _VERSIONS):
        needs = {n: s for n, s in draw(_NEEDS).items() if n != name}
        releases[name, version] = {**needs, "torch": draw(_TORCH)}
    torches = {backend: (torch, draw(_NEEDS)) for backend, torch in (("x", "2.9"), ("y", "2.11"), ("z", "2.14"))}
    direct = draw(st.dictionaries(st.sampled_from(_NAMES), _SPECIFIERS, min_size=1, max_size=3))
    preferred = draw(st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(_VERSIONS)))
    return World(releases=releases, torches=torches, direct=direct, preferred=preferred)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds")


@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_a_common_solution_is_found_exactly_where_there_is_one(folder: Path, world: World) -> None:
    try:
        found = agreement.agree(overlays(folder, world), solver=world)
    except ConflictError:
        assert not common(world)
        return
    pins = pins_of(found)
    for backend, answer in found.items():
        mine = {pin.name: pin.version for pin in answer.application}
        assert any({n: v for n, v in s.items() if n != "torch"} == mine for s in world.solutions(backend))
        assert mine.items() <= pins.items()


@given(pins=st.sets(st.integers(0, 40), min_size=1), core=st.sets(st.integers(0, 40), min_size=1))
def test_the_smallest_part_is_the_core(pins: set[int], core: set[int]) -> None:
    numbered = [Pin(name=f"p{n}", version="1") for n in sorted(pins | core)]
    wanted = {f"p{n}" for n in core}
    found = agreement.smallest(lambda chosen: wanted <= {pin.name for pin in chosen}, numbered)
    assert {pin.name for pin in found} == wanted
