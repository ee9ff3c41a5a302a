"""An index that fails in every way: the right exit code, nothing changed, and a healthy one is all that is needed.

The faults come one after another in one project, each with an empty cache of its own, which the healthy run then uses:
a bad answer must not stay in it. What is told of each is in ``test_errors``.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.index import (
    REDIRECT_LOOP,
    CaptivePortal,
    Dropped,
    Fault,
    LoopbackIndex,
    Slow,
    Stalled,
    Status,
    Truncated,
    WrongHash,
)
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.whole import damage, leftovers
from support.world import World, make_world

LIMIT_SECONDS = 60.0
FAULTS: dict[str, Fault] = {
    "truncated": Truncated(),
    "stalled": Stalled(),
    "silent": Slow(30),
    "dropped": Dropped(),
    "429": Status(429, {"Retry-After": "1"}),
    "500": Status(500),
    "portal": CaptivePortal(),
    "redirects": REDIRECT_LOOP,
}
SYNC = ("sync", "--cpu", "--verify", "metadata", "--rebuild")


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    made = make_world(index, project, run_mlenv)
    made.sync()
    return made


def _kept(world: World) -> tuple[bytes, Path, list[str]]:
    return (world.root / "requirements.txt").read_bytes(), world.generation, world.generations


def _fails(world: World, words: tuple[str, ...], code: int, cache: Path) -> None:
    """It ends with the code, in time, says what to do and leaves everything as it was."""
    before, begun = _kept(world), time.monotonic()
    done = world.run(*words, env={"UV_CACHE_DIR": str(cache), "UV_HTTP_TIMEOUT": "1"})
    assert time.monotonic() - begun < LIMIT_SECONDS
    assert done.code == code, (cache.name, done)
    assert "\nhint: " in done.err + done.out, (cache.name, done)
    assert "Traceback" not in done.err
    assert _kept(world) == before
    assert damage(world.environment) == []


def _works(world: World, words: tuple[str, ...], cache: Path) -> None:
    done = world.run(*words, env={"UV_CACHE_DIR": str(cache)})
    assert done.code == 0, (cache.name, done)
    assert damage(world.environment) == []
    assert leftovers(world.root) == []


def test_a_file_of_a_sync_fails(world: World, tmp_path: Path) -> None:
    for name, fault in FAULTS.items():
        world.index.fail("pytorch-cpu", fault, package="torchvision", part="file")
        _fails(world, SYNC, 6, tmp_path / name)
        world.index.mend("pytorch-cpu")
        _works(world, SYNC, tmp_path / name)


def test_the_pages_of_a_sync_fail(world: World, tmp_path: Path) -> None:
    """The plans are taken away, so that the foundation is resolved; a hash is wrong from its page on."""
    chosen = {name: FAULTS[name] for name in ("truncated", "stalled", "429", "redirects")}
    for name, fault in {**chosen, "wrong hash": WrongHash()}.items():
        for path in (world.root / ".mlenv" / "gen").glob("*/pylock.plan.toml"):
            path.unlink()
        world.index.fail("pytorch-cpu", fault, package="torchvision", part="page")
        _fails(world, SYNC, 7 if name == "wrong hash" else 6, tmp_path / name)
        world.index.mend("pytorch-cpu")
        _works(world, SYNC, tmp_path / name)


def test_a_page_of_a_lock_fails(world: World, tmp_path: Path) -> None:
    old, lock = (world.root / "requirements.txt").read_bytes(), world.root / "requirements.txt"
    world.publish(Package("other", "1.0"))
    (world.root / "requirements.in").write_text("demo-app\nother\n")
    for name, fault in FAULTS.items():
        lock.write_bytes(old)
        world.index.fail("pypi", fault, package="other")
        _fails(world, ("lock",), 6, tmp_path / name)
        world.index.mend("pypi")
        _works(world, ("lock",), tmp_path / name)
        assert b"\nother==1.0 " in lock.read_bytes()


def test_a_file_that_was_uploaded_again(world: World, tmp_path: Path) -> None:
    """The lock has the hash of the first one, and the index offers another under its name."""
    first = Package("other", "1.0")
    world.publish(first)
    world.require("demo-app", "other")
    world.index.add("pypi", Package("other", "1.0", files={"other/__init__.py": "EVIL = True\n"}))
    _fails(world, SYNC, 7, tmp_path / "cache")
    _fails(world, ("lock", "--verify-hashes"), 1, tmp_path / "cache")
    before = _kept(world)
    _works(world, ("lock",), tmp_path / "cache")
    assert _kept(world) == before
    world.index.add("pypi", first)
    _works(world, SYNC, tmp_path / "cache")
