"""Caches and homes that can't be written to, and a cache on another file system."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.disks import remount, small_disk
from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.whole import damage, leftovers
from support.world import World, make_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


def _refused(world: World, env: Mapping[str, str | None]) -> None:
    """Exit 8 with a place and a hint, and what stood there stands."""
    old, lock = world.generation, (world.root / "requirements.txt").read_bytes()
    for words in (("sync", "--cpu", "--rebuild"), ("lock", "-U")):
        done = world.run(*words, env=env)
        assert (done.code, "Read-only file system" in done.err, "\nhint: " in done.err) == (8, True, True), done
    assert (world.generation, (world.root / "requirements.txt").read_bytes()) == (old, lock)
    assert damage(world.environment) == []
    assert leftovers(world.root) == []


def test_a_cache_elsewhere_and_then_one_that_is_read_only(world: World, tmp_path: Path) -> None:
    with small_disk(tmp_path / "cache", kilobytes=65536) as cache:
        env = {"UV_CACHE_DIR": str(cache)}
        world.sync(env=env)
        assert damage(world.environment) == []
        remount(cache, "ro")
        _refused(world, env)
        assert "nothing to do" in world.sync(env=env)
        assert world.run("check", env=env).code == 0
        assert world.run("run", "--", "demo", env=env).code == 0
        remount(cache, "rw")
        world.sync("--rebuild", env=env)
        assert damage(world.environment) == []


def test_a_home_that_is_read_only_matters_where_the_cache_is_in_it(world: World, tmp_path: Path) -> None:
    with small_disk(tmp_path / "nobody", kilobytes=1024) as home:
        remount(home, "ro")
        env = {"HOME": str(home), **{f"XDG_{name}_HOME": None for name in ("CONFIG", "CACHE", "DATA", "STATE")}}
        world.sync(env=env)
        assert world.run("lock", env=env).code == 0
        assert damage(world.environment) == []
        _refused(world, {**env, "UV_CACHE_DIR": None})
