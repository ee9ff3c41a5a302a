"""What overlays keep far behind, with the real uv against loopback indexes."""

from __future__ import annotations

import json

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Build, Package
from support.world import World, make_world

OLD, NEW = "2023-01-10T00:00:00Z", "2026-03-01T00:00:00Z"
ENGINE = (
    Package("engine", "0.2.5", upload_time=OLD),
    Package("engine", "0.33.0", requires=("torch==2.13.0",), upload_time=NEW),
)


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    world = make_world(index, project, run_mlenv)
    world.publish(*ENGINE)
    (world.root / "requirements.in").write_text("engine\n")
    return world


def pins(world: World) -> str:
    return (world.root / "requirements.txt").read_text()


def test_a_package_kept_years_behind_is_exit_5_with_the_bound(world: World) -> None:
    before = pins(world)
    done = world.run("lock")
    assert (done.code, pins(world)) == (5, before), done
    assert "engine 0.2.5 instead of 0.33.0: " in done.err
    assert "cpu and cu130 pin torch==2.14.1, engine 0.33.0 needs torch==2.13.0" in done.err
    assert "(3.1 years behind)" in done.err
    assert 'held-back-allow = ["engine"]' in done.err


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('held-back = "warn"', True),
        ('held-back = "off"', False),
        ("held-back-days = 2000", False),
        ('held-back-allow = ["Engine"]', False),
    ],
)
def test_settings_make_it_a_warning_or_nothing(world: World, setting: str, told: bool) -> None:
    world.configure(f"{setting}\n")
    done = world.run("lock")
    assert (done.code, "engine==0.2.5" in pins(world)) == (0, True), done
    assert ("engine 0.2.5 instead of 0.33.0" in done.out + done.err) == told


def test_a_warning_is_a_finding_for_programs(world: World) -> None:
    world.configure('held-back = "warn"\n')
    done = world.run("lock", "--json")
    found = [finding for finding in json.loads(done.out)["findings"] if finding["kind"] == "held-back"]
    assert [(f["severity"], f["message"].partition(":")[0]) for f in found] == [
        ("warning", "engine 0.2.5 instead of 0.33.0")
    ]


def test_what_torch_itself_bounds_is_told_too(world: World) -> None:
    world.publish(Package("sympy", "3.0", upload_time=NEW), Package("sympy", "1.14.0", upload_time=OLD))
    for backend in ("cpu", "cu130"):
        overlay = world.root / f"constraints/{backend}.txt"
        overlay.write_text(overlay.read_text() + "sympy<2\n")
    (world.root / "requirements.in").write_text("demo-app\n")
    done = world.run("lock")
    assert done.code == 5, done
    assert "sympy 1.14.0 instead of 3.0: " in done.err
    assert "sympy<2" in done.err


def test_an_old_pin_that_an_upgrade_would_move_is_not_held_back(world: World) -> None:
    (world.root / "requirements.in").write_text("free==1.0\n")
    world.publish(Package("free", "1.0", upload_time=OLD))
    assert world.run("lock").code == 0
    world.publish(Package("free", "2.0", upload_time=NEW))
    (world.root / "requirements.in").write_text("free\n")
    done = world.run("lock")
    assert (done.code, "free==1.0" in pins(world)) == (0, True), done


def test_the_reason_why_an_old_source_distribution_was_tried(world: World) -> None:
    world.index.remove("pypi", "engine")
    world.publish(ENGINE[1], Package("engine", "0.1", kind="sdist", build=Build(static=False), upload_time=OLD))
    done = world.run("lock")
    assert done.code == 5, done
    assert "engine 0.33.0 can't be had: cpu pins torch==2.14.1, engine 0.33.0 needs torch==2.13.0" in done.err
    assert "an older release was tried instead: " in done.err
