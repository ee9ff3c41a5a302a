"""The promise of the contract as a state machine: ``.venv`` is one finished state, whole, whatever is done.

What mlenv does is mixed with what people and machines do: edit, kill, damage, install by hand. A failure isn't shrunk,
as each step takes half a second; the steps that led to it are printed. ``--kills 400`` tries eight times as much.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.whole import damage, installed, leftovers, pinned
from support.world import World, make_world, site_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process groups, and the kernel ends the children")

REQUIREMENTS = ("demo-app\nother==1.0\n", "demo-app\nother==2.0\n", "demo-app\n")
backends = st.sampled_from(["cpu", "cu130"])


class Project(RuleBasedStateMachine):
    """``standing`` is what ``.venv`` must be: name → version; ``touched`` says how somebody changed it since."""

    origin: World
    locks: Mapping[str, str]
    number: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        root = self.origin.root.with_name(f"example-{next(self.number)}")
        shutil.copytree(self.origin.root, root)
        self.world = replace(self.origin, root=root)
        self.locked = self.asked = REQUIREMENTS[0]
        self.standing: dict[str, str] | None = None
        self.finished: list[dict[str, str]] = []
        self.touched = ""
        self.backend = "cpu"

    @initialize(backend=backends)
    def first_sync(self, backend: str) -> None:
        self._sync(backend)

    def teardown(self) -> None:
        shutil.rmtree(self.world.root)

    def _wanted(self, backend: str) -> dict[str, str]:
        foundation = self.world.foundations[backend]
        return {
            **pinned(self.locks[self.locked]),
            **{p.name: p.version for p in (*foundation.family, *foundation.companions)},
        }

    @rule(text=st.sampled_from(REQUIREMENTS))
    def edit(self, text: str) -> None:
        (self.world.root / "requirements.in").write_text(text)
        self.asked = text

    @rule(text=st.sampled_from(REQUIREMENTS))
    def lock(self, text: str) -> None:
        self.edit(text)
        assert self.world.run("lock").code == 0
        self.locked = self.asked

    @rule(backend=backends)
    def sync(self, backend: str) -> None:
        self._sync(backend)

    def _sync(self, backend: str, *options: str) -> None:
        before = self.world.generation
        done = self.world.run("sync", "--verify", "metadata", "--backend", backend, *options)
        assert done.code == (0 if self.locked == self.asked else 1), done
        if done.code == 0:
            self._stands(backend)
            seen_at_once = self.touched != "edited"  # only reading every file finds it
            assert not (self.touched and seen_at_once and self.world.generation == before)
            self.touched = self.touched if self.world.generation == before else ""
            assert leftovers(self.world.root) == []

    def _stands(self, backend: str) -> None:
        self.standing, self.backend = self._wanted(backend), backend
        self.finished.append(self.standing)

    @rule()
    def roll_back(self) -> None:
        done = self.world.run("rollback")
        assert done.code == 0 or "has no earlier generation" in done.err, done
        if done.code == 0:
            self.standing, self.touched = installed(self.world.environment), ""
            self.backend = str(self.world.manifest["backend"])
            assert self.standing in self.finished
            assert leftovers(self.world.root) == []

    @rule(backend=backends, moment=st.floats(0, 1))
    def kill_a_sync(self, backend: str, moment: float) -> None:
        before = self.world.generation
        self._kill("sync", "--verify", "metadata", "--backend", backend, after=moment * 0.8)
        if self.world.generation != before:
            assert self.locked == self.asked
            self._stands(backend)
            self.touched = ""

    @rule(moment=st.floats(0, 1))
    def kill_a_lock(self, moment: float) -> None:
        self._kill("lock", after=moment * 0.8)
        if pinned(self._lock) != pinned(self.locks[self.locked]):
            self.locked = self.asked

    def _kill(self, *words: str, after: float) -> None:
        process = self.world.start(*words, start_new_session=True)
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    @precondition(lambda self: self.standing is not None)
    @rule(kind=st.sampled_from(["removed", "installed", "edited"]), then=st.sampled_from(["sync", "repair", ""]))
    def touch(self, kind: str, then: str) -> None:
        """Behind mlenv's back; never in place, as the file is uv's cache's too."""
        if not self.touched:
            _touch(site_of(self.world.generation), kind)
            self.touched = kind
        assert self.world.run("check").code == 1
        if then:
            self.lock(self.asked)
            self._sync(self.backend, *(["--rebuild"] if then == "repair" else []))
            assert self.world.run("check").code == (1 if self.touched else 0)

    @property
    def _lock(self) -> str:
        return (self.world.root / "requirements.txt").read_text()

    @invariant()
    def the_lock_is_one_that_was_made(self) -> None:
        assert pinned(self._lock) == pinned(self.locks[self.locked])

    @invariant()
    def the_environment_is_whole_and_one_that_was_finished(self) -> None:
        environment = self.world.environment
        assert os.path.lexists(environment) == (self.standing is not None)
        if self.standing is not None and not self.touched:
            assert damage(environment) == []
            assert installed(environment) == self.standing


def _touch(site: Path, kind: str) -> None:
    if kind == "removed":
        shutil.rmtree(site / "sympy")
    elif kind == "installed":
        shutil.copytree(site / "demo_app-1.0.dist-info", site / "by_hand-1.0.dist-info")
    else:
        (site / "sympy" / "__init__.py").unlink()
        (site / "sympy" / "__init__.py").write_text("edited = True\n")


def test_whatever_is_done_in_whatever_order(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram, request: pytest.FixtureRequest
) -> None:
    world = make_world(index, project, run_mlenv)
    world.publish(Package("other", "1.0"), Package("other", "2.0"))
    locks = {}
    for text in reversed(REQUIREMENTS):
        world.require(*text.splitlines())
        locks[text] = (world.root / "requirements.txt").read_text()
    for backend in ("cpu", "cu130"):
        world.sync("--backend", backend)
    shutil.rmtree(world.root / ".mlenv")
    world.environment.unlink()
    machine = type("Here", (Project,), {"origin": world, "locks": locks, "number": count()})
    chosen = settings(
        max_examples=request.config.getoption("kills") // 10,
        stateful_step_count=8,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
