from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from mlenv import lockfile, solve
from mlenv.errors import ResolutionError
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay, parse_overlay
from mlenv.resolution import Resolved, Source
from mlenv.system.uv import Upgrade

VERSIONS = ("2.0", "1.5", "1.0")


def overlays(tmp_path: Path, **torch: str) -> list[Overlay]:
    (tmp_path / "constraints").mkdir()
    for backend, version in torch.items():
        (tmp_path / f"constraints/{backend}.txt").write_text(f"torch=={version}\n")
    return [parse_overlay(tmp_path, f"constraints/{backend}.txt") for backend in torch]


def answer(backend: str, *pins: Pin) -> Resolved:
    return Resolved(backend=backend, source=Source(), foundation=(), application=pins)


class Solver:
    """Stands for uv: each backend bounds one package, a preferred release is taken where the bound allows it."""

    def __init__(self, bounds: Mapping[str, str]):
        self.bounds = bounds
        self.asked: list[str] = []

    def lead(self, overlay: Overlay, seed: str, upgrade: Upgrade | None) -> Resolved:
        self.asked.append(f"lead {overlay.backend}")
        return self._answer(overlay, "" if upgrade is not None and upgrade.everything else seed)

    def follow(self, overlay: Overlay, seed: str) -> Resolved:
        self.asked.append(f"follow {overlay.backend}")
        return self._answer(overlay, seed)

    def objection(self, overlay: Overlay, requirement: str) -> str | None:
        bound = self.bounds[overlay.backend]
        return (
            None if requirement.removeprefix("shared==") in SpecifierSet(bound) else f"{overlay.backend}: shared{bound}"
        )

    def _answer(self, overlay: Overlay, seed: str) -> Resolved:
        preferred = {pin.name: pin.version for pin in lockfile.parse_pins(seed)}
        fitting = [version for version in VERSIONS if version in SpecifierSet(self.bounds[overlay.backend])]
        wanted = preferred.get("shared")
        return answer(overlay.backend, Pin(name="shared", version=wanted if wanted in fitting else fitting[0]))


def agree(
    solver: Solver, chosen: list[Overlay], *, seed: str = "", upgrade: Upgrade | None = None
) -> Mapping[str, Resolved]:
    return solve.agree(
        chosen,
        lead=solver.lead,
        follow=solver.follow,
        objection=solver.objection,
        seed=seed,
        upgrade=upgrade or Upgrade(),
    )


def versions(found: Mapping[str, Resolved]) -> set[str | None]:
    return {pin.version for resolved in found.values() for pin in resolved.application}


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"cpu": "<3", "cu126": "<3", "cu130": "<3"}, "2.0"),
        ({"cpu": "<2", "cu126": "<3", "cu130": "<3"}, "1.5"),
        ({"cpu": "<3", "cu126": "<2", "cu130": "<3"}, "1.5"),
        ({"cpu": "<3", "cu126": "<2", "cu130": "<1.5"}, "1.0"),
    ],
)
def test_every_backend_arrives_at_the_same_pins(tmp_path: Path, bounds: dict[str, str], expected: str) -> None:
    solver = Solver(bounds)
    found = agree(solver, overlays(tmp_path, cpu="2.9.1", cu126="2.10.0", cu130="2.14.1"))
    assert (set(found), versions(found)) == ({"cpu", "cu126", "cu130"}, {expected})


def test_the_oldest_torch_leads_and_agreement_needs_one_turn(tmp_path: Path) -> None:
    solver = Solver({"cu130": "<3", "cpu": "<3"})
    agree(solver, overlays(tmp_path, cu130="2.14.1", cpu="2.9.1"))
    assert solver.asked == ["lead cpu", "follow cu130"]


def test_existing_pins_are_preferred(tmp_path: Path) -> None:
    found = agree(Solver({"cpu": "<3", "cu130": "<3"}), overlays(tmp_path, cpu="2", cu130="2"), seed="shared==1.0\n")
    assert versions(found) == {"1.0"}


def test_an_upgrade_is_for_the_first_turn_only(tmp_path: Path) -> None:
    """In a later turn it would undo what the others made of it."""
    solver = Solver({"cpu": "<3", "cu130": "<2"})
    found = agree(
        solver, overlays(tmp_path, cpu="1", cu130="2"), seed="shared==1.0\n", upgrade=Upgrade(everything=True)
    )
    assert versions(found) == {"1.5"}


def test_backends_that_cannot_agree_are_told_with_both_reasons(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError) as caught:
        agree(Solver({"cpu": "==1.0", "cu130": ">=1.5"}), overlays(tmp_path, cpu="1", cu130="2"))
    assert caught.value.message.splitlines() == [
        "no single set of pins was found for every backend: of shared, cpu takes 1.0, cu130 takes 2.0",
        "cpu: shared==1.0",
        "cu130: shared>=1.5",
    ]
    assert 'unproven = ["cpu"]' in (caught.value.hint or "")


def test_the_older_of_two_releases_is_preferred() -> None:
    pins = [Pin(name="a", version="2.0"), Pin(name="a", version="1.10"), Pin(name="b", version="1")]
    assert lockfile.parse_pins(solve.preferences(pins, "c==3\n"))[0].version == "1.10"
    assert [pin.name for pin in lockfile.parse_pins(solve.preferences(pins, "c==3\n"))] == ["a", "b", "c"]


def test_disagreements_are_of_the_application_alone() -> None:
    found = {
        "cpu": Resolved(backend="cpu", source=Source(), foundation=(Pin(name="torch", version="1"),), application=()),
        "cu130": Resolved(
            backend="cu130", source=Source(), foundation=(Pin(name="torch", version="2"),), application=()
        ),
    }
    assert solve.disagreements(found) == {}


def test_a_package_that_one_backend_alone_needs_is_no_disagreement() -> None:
    assert solve.disagreements({"cpu": answer("cpu"), "cu130": answer("cu130", Pin(name="a", version="1"))}) == {}
