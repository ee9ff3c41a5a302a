"""``mlenv add`` and ``mlenv remove``: the files and the lock change together, or not at all; with the real uv."""

from __future__ import annotations

import signal

import pytest

from mlenv import freshness
from support.index import LoopbackIndex, Stalled
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, end, make_world, wait_until

IN = "# what we need\r\ndemo-app  # the application\r\n-r more.in\r\n"


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    world = make_world(index, project, run_mlenv)
    world.publish(Package("extra", "1.0"), Package("extra", "2.0"), Package("needy", "1.0", requires=("extra<2",)))
    (world.root / "requirements.in").write_bytes(IN.encode())
    (world.root / "more.in").write_text("needy\n")
    assert world.run("lock").code == 0
    return world


def files(world: World) -> dict[str, bytes]:
    return {name: (world.root / name).read_bytes() for name in ("requirements.in", "more.in", "requirements.txt")}


def test_add_and_remove(world: World) -> None:
    before = files(world)
    done = world.run("add", "extra", "--dry-run")
    assert (done.code, files(world)) == (0, before), done
    assert "requirements.in:3: + extra" in done.out
    assert "requirements.in and requirements.txt would be written" in done.out

    done = world.run("add", "extra", "torch>=2")
    assert done.code == 0, done
    assert files(world)["requirements.in"] == IN.replace("-r", "extra\r\ntorch>=2\r\n-r").encode()
    assert "torch is foundation" in done.out + done.err
    assert "extra==1.0" in files(world)["requirements.txt"].decode()
    assert freshness.unchanged(world.root, {}) == ("requirements.txt", 6)
    assert world.run("lock", "--check").code == 0

    said = world.run("add", "extra")
    assert "extra is already there" in said.out
    document = world.json("remove", "extra", "torch")
    assert [change["before"] for change in document["requirements"]] == ["extra", "torch>=2"]
    assert files(world) == before

    done = world.run("add", "needy==1.0")  # where it stands
    assert "more.in:1: needy → needy==1.0" in done.out
    assert files(world)["more.in"] == b"needy==1.0\n"
    assert files(world)["requirements.in"] == IN.encode()


REFUSED = (
    (("add", "extra>=2"), 5, "needy"),
    (("add", "nowhere-to-be-found"), 5, "nowhere-to-be-found"),
    (("add", "git+https://h/x.git"), 2, "version control is refused"),
    (("remove", "extra"), 2, "more.in → needy → extra"),
    (("remove", "demo-ap"), 2, "did you mean demo-app?"),
    (("remove", "torch"), 2, "the foundation brings it"),
)


def test_what_can_not_be_done_changes_nothing(world: World) -> None:
    before = files(world)
    for words, code, told in REFUSED:
        done = world.run(*words)
        assert (done.code, files(world)) == (code, before), done
        assert told in done.out + done.err
    world.publish(Package("late", "1.0"))
    world.index.fail("pypi", Stalled(), package="late")
    process = world.start("add", "late")
    wait_until(lambda: any("/late/" in request.path for request in world.index.requests), what="uv to ask for it")
    assert end(process, signal.SIGINT).code == 130
    assert files(world) == before


def test_dependencies_of_pyproject_toml_are_edited_with_their_layout(world: World) -> None:
    text = """\
[project]
name = "application"
version = "1"
dependencies = [
    'demo-app',  # the application
    "needy",
]

[tool.mlenv]
requirements = ["pyproject.toml"]
"""
    path = world.root / "pyproject.toml"
    path.write_text(text)
    assert world.run("lock").code == 0
    done = world.run("add", "extra", "demo-app>=1")
    assert done.code == 0, done
    edited = text.replace("'demo-app'", "'demo-app>=1'").replace('    "needy"', "    'extra',\n    \"needy\"")
    assert path.read_text() == edited
    assert world.run("lock", "--check").code == 0
    assert world.run("remove", "extra").code == 0
    assert path.read_text() == text.replace("'demo-app'", "'demo-app>=1'")
