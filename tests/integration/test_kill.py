"""SIGKILL at any moment: ``.venv`` is the old environment or the new one, whole; the lock its old bytes or its new.

Whether it is whole is found out without mlenv (``support.whole``). The signal goes to the process group at moments that
are spread over a whole run, and as soon as a step is seen from outside. ``pytest --kills 400`` kills that often.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.states import APPLICATIONS, Inputs, remove_unused, two_states
from support.whole import damage, installed, leftovers, pinned
from support.world import World, alive_below, make_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process groups, and the kernel ends the children")

BATCHES = 2
SYNC = ("sync", "--cpu", "--verify", "metadata")


@dataclass
class Target:
    """A project with two locks, both built before, so that uv's cache is warm."""

    world: World
    inputs: tuple[Inputs, Inputs]
    kills: int = 0
    alive: int = 0

    def kill(self, words: tuple[str, ...], until: Callable[[subprocess.Popen[str]], object]) -> None:
        """Start mlenv, end its whole group when ``until`` returns, and count whether it still ran."""
        process = self.world.start(*words, start_new_session=True)
        until(process)
        self.kills += 1
        self.alive += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def require_most_alive(self) -> None:
        assert self.alive >= 0.7 * self.kills, f"only {self.alive} of {self.kills} kills hit a live process"

    def require_whole(self, *allowed: Inputs) -> None:
        environment = self.world.environment
        assert damage(environment) == []
        assert installed(environment) in [inputs.expected for inputs in allowed]

    def require_clean(self) -> None:
        assert leftovers(self.world.root) == []
        assert alive_below(self.world.root) == []


@pytest.fixture
def target(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> Target:
    world = make_world(index, project, run_mlenv)
    return Target(world, two_states(world))


def _rebuilt_each_time(target: Target) -> Iterator[tuple[Inputs, Inputs]]:
    """(old, new) without end; what isn't in use is removed first, so that each sync builds."""
    first, second = target.inputs
    for old, new in cycle([(second, first), (first, second)]):
        remove_unused(target.world)
        new.write(target.world.root)
        yield old, new


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The kills that no step decides are shared out, so that several processes can run them."""
    if "moments" in metafunc.fixturenames:
        kills = max(metafunc.config.getoption("kills") - len(STEPS), BATCHES)
        spread = [(number + 0.5) / kills for number in range(kills)]
        metafunc.parametrize("moments", [spread[batch::BATCHES] for batch in range(BATCHES)], ids=range(BATCHES))


def _after(seconds: float) -> Callable[[subprocess.Popen[str]], None]:
    def wait(process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)

    return wait


def test_a_sync_killed_at_any_time(target: Target, moments: list[float]) -> None:
    takes = 0.8
    for moment, (old, new) in zip(moments, _rebuilt_each_time(target), strict=False):
        target.kill(SYNC, _after(moment * takes))
        target.require_whole(old, new)
        begun = time.monotonic()
        target.world.sync()
        takes = time.monotonic() - begun
        target.require_whole(new)
        target.require_clean()
    target.require_most_alive()


def test_a_lock_killed_at_any_time(target: Target, moments: list[float]) -> None:
    """Every third moment, as the lock has fewer things that could be half done."""
    lock, takes = target.world.root / "requirements.txt", 0.5
    for moment, (old, new) in zip(moments[::3], cycle([target.inputs, target.inputs[::-1]]), strict=False):
        old.write(target.world.root)
        (target.world.root / "requirements.in").write_text(new.requirements)
        target.kill(("lock",), _after(moment * takes))
        assert lock.read_text() in (old.lock, new.lock)
        begun = time.monotonic()
        done = target.world.run("lock")
        takes = time.monotonic() - begun
        assert (done.code, lock.read_text()) == (0, new.lock), done
        target.require_clean()
    target.require_most_alive()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a build looks like from outside: the new generation, or where it will be, and the project."""

    root: Path
    new: Path
    old: Path

    @property
    def packages(self) -> int:
        return sum(1 for _ in self.new.glob("lib/*/site-packages/*.dist-info"))


# Each is true from that step on, so that none is missed where it passes quickly.
STEPS: dict[str, Callable[[Seen], bool]] = {
    "the folder is made": lambda seen: seen.new.is_dir(),
    "it is an environment": lambda seen: (seen.new / "pyvenv.cfg").exists(),
    "its plan is written": lambda seen: (seen.new / "pylock.plan.toml").exists(),
    "uv is told of the indexes": lambda seen: (seen.new / "uv.toml").exists(),
    "the first package arrives": lambda seen: seen.packages > 0,
    "half of the packages": lambda seen: seen.packages > APPLICATIONS // 2,
    "all of the packages": lambda seen: seen.packages >= APPLICATIONS + 7,
    "uv is done": lambda seen: seen.packages >= APPLICATIONS + 7 and not (seen.new / "uv.toml").exists(),
    "the marker is written": lambda seen: any(seen.new.glob("*mlenv.json*")),
    "it is complete": lambda seen: (seen.new / "mlenv.json").exists(),
    "the link is flipped": lambda seen: (seen.root / ".venv").resolve() != seen.old,
}


def _at(step: Callable[[Seen], bool], target: Target) -> Callable[[subprocess.Popen[str]], None]:
    root, folder, old = target.world.root, target.world.root / ".mlenv" / "gen", target.world.generation

    def wait(process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            new = next((path for path in folder.iterdir() if path != old), folder / "none yet")
            if step(Seen(root=root, new=new, old=old)):
                return
            time.sleep(0.0005)

    return wait


def test_a_sync_killed_at_each_step(target: Target) -> None:
    for step, (old, new) in zip(STEPS.values(), _rebuilt_each_time(target), strict=False):
        target.kill(SYNC, _at(step, target))
        target.require_whole(old, new)
        target.world.sync()
        target.require_whole(new)
        target.require_clean()
    target.require_most_alive()


def test_a_switch_of_backends_killed_at_any_time(target: Target) -> None:
    """Nothing is built: the link alone changes."""
    world, (_, new) = target.world, target.inputs
    world.sync("--cuda13")
    cpu, cuda = world.generation.parent / "cpu", world.generation
    takes = 0.3
    for number, backend in zip(range(6), cycle(["cpu", "cu130"]), strict=False):
        before = world.generation
        target.kill(("sync", "--verify", "metadata", "--backend", backend), _after((number + 0.5) / 6 * takes))
        assert damage(world.environment) == []
        cpu = world.generation if world.generation != cuda else cpu
        assert world.generation in (before, cpu, cuda)
        begun = time.monotonic()
        said = world.sync("--backend", backend)
        takes = time.monotonic() - begun
        assert "(built)" not in said
        assert world.installed.items() >= pinned(new.lock).items()
        target.require_clean()
