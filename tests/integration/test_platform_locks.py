"""One lock for several platforms, with the real uv against loopback indexes."""

from __future__ import annotations

import pytest

from mlenv import lockfile, platforms
from mlenv.lockfile import Lock
from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, make_world

BOTH = 'platforms = ["linux-x86_64", "windows-x86_64"]\n'
SHELL = Package("shell", "1.0", requires=('colours; sys_platform == "win32"', 'pty; sys_platform != "win32"'))


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    world = make_world(index, project, run_mlenv)
    world.publish(SHELL, Package("colours", "1.0"), Package("pty", "1.0"))
    world.publish(Package("only", "1.0"), Package("only", "2.0"))
    (world.root / "requirements.in").write_text("demo-app\nshell\n")
    world.configure(BOTH)
    return world


def locked(world: World, *words: str) -> Lock:
    done = world.run("lock", *words)
    assert done.code == 0, done
    assert world.run("lock", "--check", *words).code == 0
    return lockfile.parse((world.root / "requirements.txt").read_text(), path="requirements.txt")


def on(lock: Lock, platform: str) -> dict[str, str | None]:
    applying = lockfile.applying(lock.pins, platforms.environment(platform, "3.11"))
    return {pin.name: pin.version for pin in applying}


def test_what_one_platform_alone_needs_has_a_marker(world: World) -> None:
    lock = locked(world)
    marked = {pin.name: pin.marker for pin in lock.pins if pin.marker}
    assert marked == {"colours": 'sys_platform == "win32"', "pty": 'sys_platform == "linux"'}
    assert {"demo-app", "shell"} <= on(lock, "linux-x86_64").keys() & on(lock, "windows-x86_64").keys()


def test_it_is_proven_for_each_platform_and_backend(world: World) -> None:
    lock = locked(world)
    assert lock.header is not None
    assert set(lock.header.proven) == {f"{b}/{p}" for b in ("cpu", "cu130") for p in ("linux-x86_64", "windows-x86_64")}
    rows = world.run("lock").out.splitlines()[-5:]
    assert rows[0].split() == ["backend", "platform", "torch", "foundation", "from", "result", "seconds"]
    assert [row.split()[:2] for row in rows[1:]] == [
        ["cpu", "linux-x86_64"],
        ["cu130", "linux-x86_64"],
        ["cpu", "windows-x86_64"],
        ["cu130", "windows-x86_64"],
    ]


def test_a_second_run_changes_no_byte(world: World) -> None:
    locked(world)
    before = (world.root / "requirements.txt").read_bytes()
    locked(world)
    assert (world.root / "requirements.txt").read_bytes() == before


def test_platforms_differ_only_where_they_must(world: World) -> None:
    (world.root / "requirements.in").write_text('only<2 ; sys_platform == "win32"\nonly ; sys_platform == "linux"\n')
    lock = locked(world)
    assert (on(lock, "linux-x86_64")["only"], on(lock, "windows-x86_64")["only"]) == ("2.0", "1.0")
    world.publish(Package("only", "3.0"))
    locked(world)
    assert on(locked(world), "linux-x86_64")["only"] == "2.0"


def test_one_platforms_bound_moves_no_pin_of_the_other_that_was_there(world: World) -> None:
    (world.root / "requirements.in").write_text('only\nonly<2 ; sys_platform == "win32"\n')
    assert on(locked(world), "linux-x86_64")["only"] == "2.0"


def test_a_backend_without_a_build_for_a_platform_is_not_proven_there(world: World) -> None:
    world.configure('platforms = ["linux-x86_64", "macos-arm64"]\n')
    lock = locked(world)
    assert lock.header is not None
    assert set(lock.header.proven) == {"cpu/linux-x86_64", "cu130/linux-x86_64", "cpu/macos-arm64"}


def test_a_platform_that_no_backend_has_a_build_for_is_exit_3(world: World) -> None:
    world.configure('platforms = ["linux-x86_64", "macos-arm64"]\nbackends = ["cu130"]\n')
    done = world.run("lock")
    assert (done.code, "none of the backends cu130 has a build for macos-arm64" in done.err) == (3, True), done


def test_universal_means_every_platform(world: World) -> None:
    lock = locked(world, "--universal")
    assert lock.header is not None
    assert set(lock.header.platforms) == set(platforms.KNOWN)


def test_sync_takes_the_pins_of_its_platform(world: World) -> None:
    locked(world)
    world.sync()
    assert "pty" in world.installed
    assert "colours" not in world.installed


def test_sync_on_a_platform_that_the_lock_is_not_for_names_the_change(world: World) -> None:
    world.configure('platforms = ["windows-x86_64"]\n')
    locked(world)
    done = world.run("sync", "--cpu")
    assert done.code == 3, done
    assert 'platforms = ["linux-x86_64", "windows-x86_64"], then `mlenv lock`' in done.err


def test_a_missing_pin_of_one_platform_is_found_by_check(world: World) -> None:
    (world.root / "requirements.in").write_text('demo-app\nonly ; sys_platform == "win32"\n')
    locked(world)
    lock = world.root / "requirements.txt"
    text = lock.read_text().replace('only==2.0 ; sys_platform == "win32"', 'only==2.0 ; sys_platform == "darwin"')
    lock.write_text(text)
    said = world.run("lock", "--check").out
    assert 'requirements.in:2: only; sys_platform == "win32" is not satisfied' in said
