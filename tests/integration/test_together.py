"""Several mlenv in one project at once, and an editor beside them: nothing is wrong, at any time, for anybody."""

from __future__ import annotations

import pytest
from filelock import FileLock

from support.index import LoopbackIndex, Slow
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.whole import damage, installed, leftovers, pinned
from support.world import World, make_world, wait_until


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    made = make_world(index, project, run_mlenv)
    made.publish(Package("other", "1.0"), Package("third", "1.0"))
    return made


# What each may answer where the requirements were changed and not locked yet.
COMMANDS: tuple[tuple[tuple[str, ...], set[int]], ...] = (
    (("lock",), {0}),
    (("sync", "--cpu", "--verify", "metadata"), {0, 1}),
    (("check",), {0}),
    (("sync", "--cuda13", "--verify", "metadata"), {0, 1}),
    (("rollback",), {0, 1}),
    (("sync", "--cpu", "--verify", "metadata", "--wait", "0"), {0, 1, 9}),
    (("run", "--", "demo"), {0}),
    (("sync", "--cpu", "--verify", "metadata", "--rebuild"), {0, 1}),
)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_whoever_comes_first(world: World, count: int) -> None:
    world.sync()
    (world.root / "requirements.in").write_text("demo-app\nother\n")
    started = [(world.start(*words), allowed) for words, allowed in COMMANDS[:count]]
    for process, allowed in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode in allowed, (process.args, process.returncode, out, err)
        refused = ("requirements.txt is not current", "has no earlier generation")
        assert process.returncode != 1 or any(words in err for words in refused), (process.args, out, err)
        assert damage(world.environment) == []
    lock = (world.root / "requirements.txt").read_text()
    assert "other" in pinned(lock)
    assert world.run("lock", "--check").code == 0
    world.sync()
    assert damage(world.environment) == []
    family = {package.name: package.version for package in world.foundations["cpu"].family}
    assert installed(world.environment) == {**pinned(lock), **family}
    assert leftovers(world.root) == []


def test_who_waited_takes_the_lock_that_was_written_meanwhile(world: World) -> None:
    """The lock was read before, to know its Python."""
    world.sync()
    (world.root / "requirements.in").write_text("demo-app\nother\n")
    old = (world.root / "requirements.txt").read_text()
    world.lock()
    new = (world.root / "requirements.txt").read_text()
    (world.root / "requirements.txt").write_text(old)
    with FileLock(world.root / ".mlenv" / "lock"):
        process = world.start("sync", "--cpu", "--verify", "metadata")
        assert process.stderr is not None
        assert "another mlenv holds this project" in process.stderr.readline()
        (world.root / "requirements.txt").write_text(new)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 0, err
    assert "other" in installed(world.environment)


def test_who_waited_takes_the_settings_that_were_saved_meanwhile(world: World) -> None:
    world.lock()
    commands = {"lock": ("lock",), "record": ("foundation", "record")}
    with FileLock(world.root / ".mlenv" / "lock"):
        started = {name: world.start(*words) for name, words in commands.items()}
        for process in started.values():
            assert process.stderr is not None
            assert "another mlenv holds this project" in process.stderr.readline()
        world.configure('lock = "other.txt"\nbackends = ["cpu"]\n')
        (world.root / "requirements.txt").rename(world.root / "other.txt")
    said = {name: process.communicate(timeout=60) for name, process in started.items()}
    assert (world.root / "other.txt").read_text().count("mlenv proven: ") == 1, said
    assert not (world.root / "requirements.txt").exists()
    assert not (world.root / "constraints" / "pylock.cu130.toml").exists()


def test_what_is_saved_while_the_lock_is_made_is_not_called_current(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\nother\n")
    world.index.fail("pypi", Slow(0.4), package="other", part="page")
    process = world.start("lock")
    wait_until(lambda: world.index.count("/other"), what="the resolution")
    (world.root / "requirements.in").write_text("demo-app\nother\nthird\n")
    assert process.wait(60) == 0, process.communicate()
    process.communicate()
    done = world.run("lock", "--check")
    assert (done.code, "requirements.in was changed since the lock was made" in done.out) == (1, True), done
    assert world.run("lock").code == 0
    assert world.run("lock", "--check").code == 0
