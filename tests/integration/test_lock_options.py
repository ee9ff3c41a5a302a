"""The options of ``mlenv lock`` that are pip-compile's, its checks of hashes, and locks of backends apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlenv import lockfile
from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import FakeFoundation, Package, fake_torch
from support.world import World, indexes_toml, make_world

PYPROJECT = """\
[project]
name = "mine"
version = "1.0"
dependencies = ["demo-app"]

[project.optional-dependencies]
docs = ["writer"]
all = ["mine[docs]", "checker"]

[dependency-groups]
base = ["checker"]
dev = [{include-group = "base"}, "writer"]

[tool.mlenv]
requirements = ["pyproject.toml"]
"""


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    world = make_world(index, project, run_mlenv)
    world.publish(Package("writer", "1.0"), Package("checker", "1.0"))
    return world


def pinned(world: World, name: str = "requirements.txt") -> dict[str, str | None]:
    text = (world.root / name).read_text()
    ordinary = ("filelock", "sympy", "mpmath")
    return {pin.name: pin.version for pin in lockfile.parse_pins(text) if pin.name not in ordinary}


def locked(world: World, *words: str) -> str:
    done = world.run("lock", *words)
    assert done.code == 0, done
    lasting = () if {"-P", "--refresh-hashes"} & set(words) else words
    assert world.run("lock", "--check", *lasting).code == 0
    return done.out


# --- inputs and outputs ----------------------------------------------------------------------------------------------


def test_another_pair_of_files(world: World) -> None:
    before = (world.root / "requirements.txt").read_text()
    (world.root / "dev.in").write_text("writer\n")
    locked(world, "dev.in")
    assert pinned(world, "dev.txt") == {"writer": "1.0"}
    assert (world.root / "requirements.txt").read_text() == before
    assert "\n#    mlenv lock --output-file=dev.txt dev.in\n" in (world.root / "dev.txt").read_text()


def test_several_files_make_one_lock(world: World) -> None:
    (world.root / "dev.in").write_text("writer\n")
    assert world.run("lock", "requirements.in", "dev.in").code == 2
    locked(world, "requirements.in", "dev.in", "-o", "all.txt")
    assert pinned(world, "all.txt") == {"demo-app": "1.0", "writer": "1.0"}


def test_paths_are_those_of_the_folder_one_is_in(world: World) -> None:
    (world.root / "sub").mkdir()
    (world.root / "sub/dev.in").write_text("writer\n")
    done = world.program("lock", "dev.in", cwd=world.root / "sub", env=world.variables)
    assert done.code == 0, done
    assert pinned(world, "sub/dev.txt") == {"writer": "1.0"}
    assert world.program("lock", "/etc/hostname", "-o", "x.txt", cwd=world.root, env=world.variables).code == 2


def test_constraints_bound_and_bring_nothing(world: World) -> None:
    world.publish(Package("writer", "2.0"))
    (world.root / "requirements.in").write_text("writer\n")
    (world.root / "limits.txt").write_text("writer<2\nchecker==1.0\n")
    locked(world, "-c", "limits.txt")
    assert pinned(world) == {"writer": "1.0"}
    (world.root / "limits.txt").write_text("writer<3\n")
    assert "limits.txt was changed" in world.run("lock", "--check", "-c", "limits.txt").out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"demo-app"}),
        (("--extra", "docs"), {"demo-app", "writer"}),
        (("--extra", "all"), {"demo-app", "writer", "checker"}),
        (("--all-extras",), {"demo-app", "writer", "checker"}),
        (("--group", "dev"), {"demo-app", "writer", "checker"}),
    ],
)
def test_extras_and_groups_of_a_pyproject(world: World, words: tuple[str, ...], expected: set[str]) -> None:
    (world.root / "pyproject.toml").write_text(PYPROJECT)
    locked(world, *words)
    assert pinned(world).keys() == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--extra", "doc"), "did you mean docs?"), (("--group", "devel"), "did you mean dev?")],
)
def test_an_extra_or_a_group_that_is_not_there(world: World, words: tuple[str, ...], told: str) -> None:
    (world.root / "pyproject.toml").write_text(PYPROJECT)
    done = world.run("lock", *words)
    assert (done.code, told in done.err) == (3, True), done


def test_extras_need_a_pyproject(world: World) -> None:
    assert world.run("lock", "--extra", "docs").code == 3


def test_the_settings_can_say_it_for_everybody(world: World) -> None:
    settings = 'extras = ["docs"]\ngroups = ["base"]\n'
    (world.root / "pyproject.toml").write_text(PYPROJECT + settings)
    locked(world)
    assert pinned(world).keys() == {"demo-app", "writer", "checker"}


def test_one_more_name_to_leave_out(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\nwriter\n")
    locked(world, "--unsafe-package", "Writer")
    assert pinned(world) == {"demo-app": "1.0"}
    assert "\n# writer\n" in (world.root / "requirements.txt").read_text()


# --- hashes ----------------------------------------------------------------------------------------------------------


def rebodied(text: str) -> str:
    """The lock with a body digest that fits, as a bot that knows the format would leave it."""
    old = next(line for line in text.splitlines() if line.startswith("# mlenv body: "))
    return text.replace(old, f"# mlenv body: {lockfile.digest(lockfile.body_of(text))}")


def test_the_index_lists_every_hash(world: World) -> None:
    done = world.run("lock", "--verify-hashes")
    assert (done.code, "the index lists every hash of 4 packages" in done.out) == (0, True), done


def test_a_tampered_hash_survives_a_lock_and_is_found_by_asking_the_index(world: World) -> None:
    lock = world.root / "requirements.txt"
    good = next(pin for pin in lockfile.parse_pins(lock.read_text()) if pin.name == "demo-app").hashes[0]
    lock.write_text(rebodied(lock.read_text().replace(good, f"sha256:{'0' * 64}")))
    assert world.run("lock").code == 0
    before = lock.read_text()
    done = world.run("lock", "--verify-hashes", "--json")
    (finding,) = json.loads(done.out)["findings"]
    assert (done.code, finding["kind"], lock.read_text()) == (1, "lock-hash-unknown", before)
    assert before.splitlines()[finding["line"] - 1].startswith("demo-app==1.0")
    upgraded = world.run("lock", "-U")
    assert "warning: demo-app 1.0: a file of this release is new, or replaced one since it was locked; " in upgraded.out
    assert world.run("lock", "--verify-hashes").code == 1
    refreshed = world.run("lock", "--refresh-hashes")
    assert (refreshed.code, "0" * 64 in lock.read_text()) == (0, False), refreshed
    lock.write_text(before)
    refreshed = world.run("lock", "--refresh-hashes")
    assert "warning: demo-app 1.0: the index replaced a file of this release since it was locked\n" in refreshed.out
    assert good in lock.read_text()


def test_an_edited_body_is_told_before_anybody_is_asked(world: World) -> None:
    lock = world.root / "requirements.txt"
    lock.write_text(lock.read_text().replace("demo-app==1.0", "demo-app==1.1"))
    asked = world.index.count()
    done = world.run("lock", "--verify-hashes")
    assert (done.code, "changed outside mlenv" in done.out, world.index.count()) == (1, True, asked)


def test_files_that_appear_later_churn_nothing_until_they_are_asked_for(world: World) -> None:
    before = (world.root / "requirements.txt").read_text()
    later = Package("demo-app", "1.0", requires=("torch>=2",), kind="sdist")
    world.publish(later)
    locked(world)
    assert (world.root / "requirements.txt").read_text() == before
    done = world.run("lock", "--verify-hashes")
    assert (done.code, "demo-app 1.0: the index lists 1 more file" in done.err) == (0, True), done
    refreshed = world.run("lock", "--refresh-hashes")
    assert (refreshed.code, "warning: " in refreshed.out) == (0, False), refreshed
    assert later.sha256 in (world.root / "requirements.txt").read_text()


# --- checks ----------------------------------------------------------------------------------------------------------


def test_resolving_anew_finds_what_the_files_do_not_show(world: World) -> None:
    assert "resolving gives the same" in world.run("lock", "--check", "--resolve").out
    world.index.remove("pypi", "demo-app")
    world.publish(Package("demo-app", "1.0", requires=("torch>=2", "writer")))
    done = world.run("lock", "--check", "--resolve", env={"UV_CACHE_DIR": str(world.root.parent / "fresh")})
    assert (done.code, "resolving anew gives another lock: " in done.out, "+ writer 1.0" in done.out) == (1, True, True)
    assert world.run("lock", "--check").code == 0


def test_findings_as_annotations_of_a_workflow(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\nwriter\n")
    done = world.run("lock", "--check", "--output-format", "github")
    lines = [line for line in done.out.splitlines() if line.startswith("::")]
    assert done.code == 1
    assert (
        "::error file=requirements.in,line=2,title=mlenv::writer is not satisfied: the lock does not have it" in lines
    )


def test_errors_as_annotations_of_a_workflow(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\n--pre\n")
    done = world.run("lock", "--output-format", "github")
    assert done.code == 3
    assert done.out.startswith("::error file=requirements.in,line=2,title=mlenv::--pre is refused")


@pytest.mark.parametrize(
    "words",
    [("--check", "-U"), ("--verify-hashes", "-n"), ("--resolve",), ("--check", "--verify-hashes"), ("a.in", "b.in")],
)
def test_options_that_contradict(world: World, words: tuple[str, ...]) -> None:
    assert world.run("lock", *words).code == 2


# --- a backend with a lock of its own --------------------------------------------------------------------------------

SHARED = tuple(Package("shared", version) for version in ("1.0", "1.5", "2.0"))


def apart(world: World, *, lock: bool = True) -> None:
    """An old torch that needs an old package, on a backend with a lock of its own."""
    for backend, torch, needs in (("cpu", "2.14.1", "shared>=1.5"), ("cu118", "2.7.1", "shared==1.0")):
        cuda = None if backend == "cpu" else "11.8"
        family = (fake_torch(f"{torch}+{backend}", cuda=cuda, requires=(needs,)),)
        foundation = FakeFoundation(backend=backend, family=family, companions=(), ordinary=())
        world.publish(*foundation.family, index=f"pytorch-{backend}")
        (world.root / f"constraints/{backend}.txt").write_text(foundation.overlay)
    (world.root / "constraints/cu130.txt").unlink()
    world.publish(*SHARED)
    (world.root / "uv.toml").write_text(indexes_toml(world.index, "cpu", "cu118"))
    (world.root / "requirements.in").write_text("writer\n")
    if lock:
        (world.root / "pyproject.toml").write_text('[tool.mlenv.backends.cu118]\nlock = "requirements.cu118.txt"\n')


def test_without_it_the_way_out_is_named(world: World) -> None:
    apart(world, lock=False)
    done = world.run("lock")
    assert done.code == 5, done
    for word in ("shared==1.0", "shared>=1.5", "cu118", "cpu", '[tool.mlenv.backends.cu118] lock = "'):
        assert word in done.err


def test_both_locks_are_made_checked_and_compared(world: World) -> None:
    apart(world)
    said = locked(world)
    assert pinned(world) == {"shared": "2.0", "writer": "1.0"}
    assert pinned(world, "requirements.cu118.txt") == {"shared": "1.0", "writer": "1.0"}
    assert "shared 1.0 for cu118, 2.0 in requirements.txt" in said
    assert "shared 1.0 for cu118, 2.0 in requirements.txt" in world.run("lock", "--check").out
    (world.root / "constraints/cu118.txt").write_text("torch==2.7.1\n")
    stale = world.run("lock", "--check")
    assert (stale.code, "requirements.cu118.txt" in stale.out) == (1, True)
    assert "error: requirements.txt" not in stale.out


def test_the_main_pins_are_preferred(world: World) -> None:
    apart(world)
    locked(world)
    world.publish(Package("writer", "2.0"))
    locked(world, "-P", "writer")
    assert pinned(world)["writer"] == pinned(world, "requirements.cu118.txt")["writer"] == "2.0"


def test_sync_takes_the_lock_of_its_backend(world: World) -> None:
    apart(world)
    world.sync("--backend", "cu118")
    assert world.installed["shared"] == "1.0"
    assert not (Path(world.root) / "requirements.txt").read_text().count("shared==2.0")
    locked(world)
    world.sync("--cpu")
    assert world.installed["shared"] == "2.0"
