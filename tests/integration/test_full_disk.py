"""A disk that fills up somewhere in a sync: exit 8 and the old environment; after making room all is as asked."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support.disks import remount, small_disk, used
from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.states import remove_unused, two_states
from support.whole import damage, installed, leftovers
from support.world import make_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")

SIZES = 14
ROOMY = "size=64m"


def test_a_disk_that_fills_up_at_any_size(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram, tmp_path: Path
) -> None:
    """uv's cache is on another file system, so every file is copied and takes its room."""
    made = make_world(index, project, run_mlenv)
    states = two_states(made)
    with small_disk(tmp_path / "disk", kilobytes=65536) as disk:
        world = replace(made, root=disk / "project")
        shutil.copytree(made.root, world.root, ignore=shutil.ignore_patterns(".venv", ".mlenv"))
        before = used(disk)
        world.sync()
        needed, codes, told = used(disk) - before, [], []
        old = states[1]
        for number in range(SIZES):
            new = states[number % 2]
            remove_unused(world)
            new.write(world.root)
            remount(disk, f"size={used(disk) + needed * number // (SIZES - 2)}k")
            done = world.run("sync", "--cpu", "--verify", "metadata")
            codes.append(done.code)
            assert done.code in (0, 8), (number, done)
            assert done.code == 0 or ("space" in done.err and "\nhint: " in done.err), (number, done)
            told.append(f"make room for the environment on {disk}: " in done.err)
            assert "UV_LINK_MODE" not in done.err.partition("error: ")[2]
            assert damage(world.environment) == []
            assert installed(world.environment) == (new if done.code == 0 else old).expected
            remount(disk, ROOMY)
            world.sync()
            assert damage(world.environment) == []
            assert installed(world.environment) == new.expected
            assert leftovers(world.root) == []
            old = new
        assert codes.count(8) > SIZES // 2
        assert any(told)
        assert codes[-1] == 0
