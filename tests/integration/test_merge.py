"""Two branches that each locked, joined by the real git; and locks that are killed or made at the same time."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlenv import lockfile
from support.git import Repository
from support.index import LoopbackIndex, Slow
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, end, make_world, wait_until

LOCK = "requirements.txt"
REQUIREMENTS = """\
# data
beta

# models
demo-app

# tracking
omega
"""
MARKERS = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")


def releases(version: str, *names: str) -> tuple[Package, ...]:
    return tuple(Package(name, version, requires=() if name == "shared" else ("shared",)) for name in names)


@dataclass(frozen=True)
class Branches:
    """A locked project on ``main`` of a repository, and branches that each change an input and lock."""

    world: World
    repository: Repository

    def branch(self, name: str, *edits: tuple[str, str], upgrade: Sequence[str] = ()) -> None:
        """From ``main``: change requirements.in, lock, commit; it stays checked out."""
        self.repository.git("checkout", "-q", "-b", name, "main")
        for old, new in edits:
            self.edit(old, new)
        self.lock(*(word for package in upgrade for word in ("-P", package)))
        self.repository.commit(name)

    def edit(self, old: str, new: str, path: str = "requirements.in") -> None:
        text = (self.world.root / path).read_text()
        assert old in text
        (self.world.root / path).write_text(text.replace(old, new, 1))

    def merge(self, *words: str) -> Finished:
        """Merge; requirements.in must come out whole."""
        done = self.repository.try_git("merge", *words)
        assert not any(line.startswith(MARKERS) for line in (self.world.root / "requirements.in").open())
        return done

    def lock(self, *words: str) -> None:
        done = self.world.run("lock", *words)
        assert done.code == 0, done

    def check(self) -> Finished:
        return self.world.run("lock", "--check")

    def mended(self) -> dict[str, str | None]:
        """What a plain ``mlenv lock`` makes of it: name → version. It must be current then."""
        self.lock()
        done = self.check()
        assert done.code == 0, done
        assert self.marked == []
        return {pin.name: pin.version for pin in lockfile.parse_pins(self.text)}

    @property
    def text(self) -> str:
        return (self.world.root / LOCK).read_text()

    @property
    def marked(self) -> list[int]:
        """The lines of the lock that are git's markers."""
        return [number for number, line in enumerate(self.text.splitlines(), 1) if line.startswith(MARKERS)]


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    made = make_world(index, project, run_mlenv)
    made.publish(*releases("1.0", "alpha", "zeta", "shared"), Package("beta", "1.0"), Package("omega", "1.0"))
    (made.root / "requirements.in").write_text(REQUIREMENTS)
    made.lock()
    return made


@pytest.fixture
def branches(world: World) -> Branches:
    return Branches(world=world, repository=Repository.make(world.root))


@pytest.fixture
def two(branches: Branches) -> Branches:
    """``theirs`` added zeta, which found shared 1.0; then ``ours`` added alpha, which found shared 2.0."""
    branches.branch("theirs", ("# tracking\n", "# tracking\nzeta\n"))
    branches.world.publish(*releases("2.0", "shared"))
    branches.branch("ours", ("# data\n", "# data\nalpha\n"))
    branches.world.publish(*releases("3.0", "alpha", "zeta", "shared"), Package("beta", "3.0"), Package("omega", "3.0"))
    return branches


# --- what git makes of it --------------------------------------------------------------------------------------------


def conflict_told(branches: Branches) -> bool:
    """Whether ``--check`` names each marker and nothing else."""
    done = branches.check()
    errors = [line for line in done.out.splitlines() if line.startswith("error: ")]
    wanted = [f"error: {LOCK}:{line}: a conflict marker of git was left" for line in branches.marked]
    return done.code == 1 and bool(wanted) and errors == wanted and done.out.endswith("hint: run `mlenv lock`\n")


@pytest.mark.parametrize("style", ["merge", "zdiff3"])
@pytest.mark.parametrize(("here", "there", "shared"), [("ours", "theirs", "2.0"), ("theirs", "ours", "1.0")])
def test_a_conflict_is_told_and_mended_with_the_pins_of_both_sides(
    two: Branches, style: str, here: str, there: str, shared: str
) -> None:
    """The branch that is checked out comes first where both pin a package; newer releases are no matter."""
    two.repository.git("config", "merge.conflictStyle", style)
    two.repository.git("checkout", "-q", here)
    assert two.merge(there).code == 1
    assert ("|||||||" in two.text) == (style != "merge")
    assert conflict_told(two)
    pins = two.mended()
    assert {name: pins[name] for name in ("alpha", "zeta", "beta", "omega", "shared")} == {
        "alpha": "1.0",
        "zeta": "1.0",
        "beta": "1.0",
        "omega": "1.0",
        "shared": shared,
    }


@pytest.mark.parametrize("style", ["merge", "zdiff3"])
def test_what_was_before_both_sides_is_no_side(branches: Branches, style: str) -> None:
    """Ours dropped shared, theirs moved it and needs it: the older pin stands in a diff3 conflict, before theirs."""
    branches.edit("# tracking\n", "# tracking\nshared\n")
    branches.lock()
    branches.repository.commit("shared")
    branches.world.publish(*releases("2.0", "shared"))
    branches.branch("theirs", ("# data\n", "# data\nzeta\n"), upgrade=["shared"])
    branches.branch("ours", ("shared\n", ""))
    branches.world.publish(*releases("3.0", "shared"))
    branches.repository.git("config", "merge.conflictStyle", style)
    assert branches.merge("theirs").code == 1
    assert conflict_told(branches)
    assert branches.mended()["shared"] == "2.0"


def test_a_pin_that_both_moved_is_ours(branches: Branches) -> None:
    """The conflict is inside one block, between its first line and its annotation."""
    branches.world.publish(Package("beta", "2.0"))
    branches.branch("theirs", upgrade=["beta"])
    branches.world.publish(Package("beta", "3.0"))
    branches.branch("ours", upgrade=["beta"])
    branches.world.publish(Package("beta", "4.0"))
    assert branches.merge("theirs").code == 1
    assert conflict_told(branches)
    assert branches.mended()["beta"] == "3.0"


def test_a_rebase_conflict_is_mended_on_the_way(two: Branches) -> None:
    """In a rebase git's "ours" is the branch that one rebases onto."""
    stopped = two.repository.try_git("rebase", "theirs")
    assert stopped.code == 1
    assert conflict_told(two)
    assert two.mended()["shared"] == "1.0"
    two.repository.git("add", "-A")
    two.repository.git("rebase", "--continue")
    assert two.check().code == 0
    assert two.repository.git("log", "--format=%s", "main..").split() == ["ours", "theirs"]


def test_a_conflict_in_the_requirements_is_for_a_human(two: Branches) -> None:
    """Nobody but the two authors knows what is wanted: the line is named, and the lock is left alone."""
    for name, wanted in (("third", "zeta<3"), ("fourth", "zeta<4")):
        two.repository.git("checkout", "-q", "-b", name, "theirs")
        two.edit("zeta", wanted)
        two.lock()
        two.repository.commit(name)
    assert two.repository.try_git("merge", "third").code == 1
    lines = (two.world.root / "requirements.in").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.startswith("<<<<<<<"))
    told = [text for text in two.check().out.splitlines() if text.startswith(("error: ", "hint: "))]
    assert told[0] == f"error: requirements.in:{line}: a conflict marker of git was left here"
    assert "hint: resolve the merge, then run `mlenv lock`" in told
    before = two.text
    done = two.world.run("lock")
    assert (done.code, f"error: requirements.in:{line}: " in done.err, two.text) == (3, True, before), done


def resolved_for_ours(branches: Branches) -> None:
    assert branches.merge("-q", "-X", "ours", "theirs").code == 0


def resolved_for_theirs(branches: Branches) -> None:
    assert branches.merge("-q", "-X", "theirs", "theirs").code == 0


@pytest.mark.parametrize(("join", "shared"), [(resolved_for_ours, "2.0"), (resolved_for_theirs, "1.0")])
def test_a_lock_that_git_put_together_is_told_from_one_that_mlenv_made(
    two: Branches, join: Callable[[Branches], None], shared: str
) -> None:
    """Without a marker: the header is one side's, the pins are of both."""
    join(two)
    assert two.marked == []
    done = two.check()
    number = 1 + next(n for n, line in enumerate(two.text.splitlines()) if line.startswith("# mlenv body"))
    assert done.code == 1
    assert f"error: {LOCK}:{number}: the pins were changed outside mlenv" in done.out
    assert ": requirements.in was changed since the lock was made\n" in done.out
    pins = two.mended()
    assert (pins["alpha"], pins["zeta"], pins["shared"]) == ("1.0", "1.0", shared)


def test_pins_under_an_overlay_that_they_were_not_proven_on_are_told(branches: Branches) -> None:
    """Ours bounds a package in an overlay, theirs requires it: each line of the merged lock is somebody's."""
    branches.world.publish(Package("zeta", "2.0"))
    branches.branch("theirs", ("# tracking\n", "# tracking\nzeta\n"))
    branches.repository.git("checkout", "-q", "-b", "ours", "main")
    with (branches.world.root / "constraints/cu130.txt").open("a") as overlay:
        overlay.write("zeta<2\n")
    branches.lock()
    branches.repository.commit("ours")
    assert branches.merge("-q", "-X", "ours", "theirs").code == 0
    assert branches.check().code == 1
    assert branches.mended()["zeta"] == "1.0"


def test_a_union_of_both_locks_is_mended(two: Branches) -> None:
    """``merge=union`` keeps the lines of both, so that headers and blocks stand twice."""
    (two.world.root / ".gitattributes").write_text(f"{LOCK} merge=union\n")
    two.repository.commit("union")
    assert two.merge("-q", "theirs").code == 0
    assert (two.marked, two.text.count("# mlenv body: ")) == ([], 2)
    done = two.check()
    assert (done.code, "the pins were changed outside mlenv" in done.out) == (1, True)
    pins = two.mended()
    assert (pins["alpha"], pins["zeta"], two.text.count("# mlenv body: ")) == ("1.0", "1.0", 1)
    assert pins["shared"] in ("1.0", "2.0")


def test_requirements_that_were_merged_without_locking_are_told(two: Branches) -> None:
    """A branch that forgot to lock: git sees no conflict."""
    two.repository.git("checkout", "-q", "-b", "forgot", "main")
    two.edit("# tracking\n", "# tracking\nzeta\n")
    two.repository.commit("forgot")
    assert two.merge("-q", "ours").code == 0
    done = two.check()
    assert done.code == 1
    assert ": requirements.in was changed since the lock was made\n" in done.out
    assert "outside mlenv" not in done.out
    assert two.mended()["zeta"] == "3.0"


# --- killed, and two at once -----------------------------------------------------------------------------------------

ASKED = [0, 1, 4, 8, 12, 16]


def beside(root: Path) -> list[str]:
    """What is in the project's folder."""
    return sorted(path.name for path in root.iterdir() if path.name != ".mlenv")


@pytest.fixture
def upgraded(world: World) -> tuple[str, str]:
    """(the lock before, the lock after ``-U``), with the old one in place and nothing cached."""
    before = (world.root / LOCK).read_text()
    world.publish(Package("beta", "2.0"), Package("omega", "2.0"))
    assert world.run("lock", "-U").code == 0
    after = (world.root / LOCK).read_text()
    (world.root / LOCK).write_text(before)
    assert before != after
    return before, after


@pytest.mark.parametrize("asked", ASKED)
def test_a_killed_lock_leaves_the_old_bytes_or_the_new(
    world: World, upgraded: tuple[str, str], asked: int, tmp_path: Path
) -> None:
    """At moments that are told by how much of the index was asked for; 0 is while it starts."""
    there = beside(world.root)
    world.index.requests.clear()
    world.index.fail("pypi", Slow(0.05))
    process = world.start("lock", "-U", env={"UV_CACHE_DIR": str(tmp_path / "cold")})
    wait_until(lambda: len(world.index.requests) >= asked, what=f"{asked} requests")
    end(process, signal.SIGKILL)
    assert (world.root / LOCK).read_text() in upgraded
    assert beside(world.root) == there
    world.index.mend("pypi")
    assert world.run("lock", "-U", "--wait", "0").code == 0
    assert (world.root / LOCK).read_text() == upgraded[1]


STOPS_AT_FSYNC = """\
import os, pathlib, time
def fsync(handle):
    pathlib.Path(os.environ["STOPPED"]).touch()
    time.sleep(60)
os.fsync = fsync
"""


def test_a_lock_that_is_killed_while_it_writes_leaves_nothing_beside_the_old_one(
    world: World, upgraded: tuple[str, str], tmp_path: Path
) -> None:
    there = beside(world.root)
    (tmp_path / "sitecustomize.py").write_text(STOPS_AT_FSYNC)
    stopped = tmp_path / "stopped"
    process = world.start("lock", "-U", env={"PYTHONPATH": str(tmp_path), "STOPPED": str(stopped)})
    wait_until(stopped.exists, what="the lock to be written")
    end(process, signal.SIGKILL)
    assert (world.root / LOCK).read_text() == upgraded[0]
    assert beside(world.root) == there
    assert world.run("lock", "-U").code == 0
    assert (world.root / LOCK).read_text() == upgraded[1]
    assert sorted(path.name for path in (world.root / ".mlenv").iterdir()) == [".gitignore", "lock"]


def test_two_locks_at_once_end_with_what_both_were_asked_for(world: World) -> None:
    world.publish(Package("beta", "2.0"), Package("omega", "2.0"))
    world.index.fail("pypi", Slow(0.05))
    running = [world.start("lock", "-P", name) for name in ("beta", "omega")]
    done = [finished(process) for process in running]
    assert [each.code for each in done] == [0, 0], done
    assert sum("another mlenv holds this project" in each.err for each in done) == 1
    pins = {pin.name: pin.version for pin in lockfile.parse_pins((world.root / LOCK).read_text())}
    assert (pins["beta"], pins["omega"]) == ("2.0", "2.0")
    assert world.run("lock", "--check").code == 0


def finished(process: subprocess.Popen[str]) -> Finished:
    out, err = process.communicate(timeout=120)
    return Finished(code=process.returncode, out=out, err=err)
