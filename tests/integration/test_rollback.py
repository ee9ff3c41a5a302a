"""``mlenv rollback`` and ``mlenv generations``, in both layouts; what ``run`` keeps, and does without writing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, end, make_world, wait_until

NEWER = Package("demo-app", "2.0", requires=("torch>=2",), entry_points={"demo": "demo_app:main"})
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts, and looks into /proc")


@pytest.fixture(params=["link", "directory"])
def world(
    request: pytest.FixtureRequest, index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram
) -> World:
    """Two generations: demo-app 1.0, then 2.0."""
    made = make_world(index, project, run_mlenv)
    made.configure(f'layout = "{request.param}"\n')
    made.sync()
    made.publish(NEWER)
    made.require("demo-app>=2")
    made.sync()
    return made


def demo(world: World) -> str:
    """What the environment's own command says, started as a user starts it."""
    return subprocess.run([world.environment / "bin" / "demo"], capture_output=True, text=True, check=True).stdout


def test_there_and_back(world: World) -> None:
    first = world.json("generations")["generations"][-1]
    assert demo(world) == "demo-app 2.0\n"
    (world.root / "requirements.in").write_text("demo-app>=2  # and the lock is stale\nmpmath\n")
    told = world.run("rollback")
    assert f".venv is {first['id']} again; `mlenv lock`, then `mlenv sync --backend cpu` goes forward\n" in told.out
    world.require("demo-app>=2")
    world.sync()
    done = world.json("rollback")
    assert (done["action"], done["generation"], demo(world)) == ("flipped", first["id"], "demo-app 1.0\n")
    assert "built from other inputs (requirements.txt)" in world.run("sync", "--check", "--cpu").out
    assert world.run("check").code == 0
    assert world.run("rollback").code == 1
    assert "(flipped)" in world.sync()
    assert demo(world) == "demo-app 2.0\n"
    assert world.json("rollback", first["id"])["generation"] == first["id"]
    assert demo(world) == "demo-app 1.0\n"


def test_what_was_changed_since_is_built_anew(world: World) -> None:
    first = next(g for g in world.json("generations")["generations"] if not g["environments"])
    (Path(first["path"]) / "bin" / "demo").unlink()
    marker = Path(first["path"]) / "mlenv.json"
    kept = marker.read_text()
    marker.write_text(json.dumps({**json.loads(kept), "python": "/opt/gone/python3"}))
    gone = world.run("rollback")
    assert (gone.code, demo(world)) == (8, "demo-app 2.0\n")
    assert f"error: {first['id']} can't be built again: its Python is gone (/opt/gone/python3)\n" in gone.err
    assert "hint: `mlenv sync --backend cpu` builds one of what the lock says now" in gone.err
    marker.write_text(kept)
    done = world.run("rollback")
    assert (done.code, demo(world)) == (0, "demo-app 1.0\n")
    assert f"{first['id']} was changed since it was built, and is built anew:\n  bin/demo was deleted\n" in done.err
    assert world.run("check").code == 0
    assert world.json("generations")["generations"][0]["environments"] == [".venv"]


def test_generations_say_what_they_hold_and_take(world: World) -> None:
    newest, oldest = world.json("generations")["generations"]
    assert (newest["environments"], oldest["environments"]) == ([".venv"], [])
    assert (newest["packages"]["demo-app"], oldest["packages"]["demo-app"]) == ("2.0", "1.0")
    assert {name for name in newest["inputs"] if newest["inputs"][name] != oldest["inputs"][name]} == {"lock"}
    assert newest["bytes"] > newest["bytes_alone"] > 0
    head, *rows = world.run("generations").out.splitlines()
    assert head.split("  ")[0] == "generation"
    assert [row.split()[:3] for row in rows] == [[newest["id"], ".venv", "cpu"], [oldest["id"], "-", "cpu"]]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nothing-like-it",), 2, "there is no generation 'nothing-like-it'"),
        (("cpu-",), 2, "2 generations begin with 'cpu-'"),
        (("--env", "elsewhere"), 1, "elsewhere has no earlier generation"),
    ],
)
def test_what_cannot_be_gone_back_to(world: World, words: tuple[str, ...], code: int, told: str) -> None:
    before = demo(world)
    done = world.run("rollback", *words)
    assert done.code == code, done
    assert told in done.err
    assert "hint:" in done.err
    assert demo(world) == before


def test_before_the_first_sync(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> None:
    world = make_world(index, project, run_mlenv)
    assert world.run("rollback").code == 1
    assert world.run("generations").out == "there is none yet; `mlenv sync` builds one\n"


def test_a_generation_keeps_the_layout_it_was_built_in(world: World) -> None:
    other = {"link": "directory", "directory": "link"}[world.manifest["layout"]]
    world.configure(f'layout = "{other}"\n')
    (world.environment / "notes.txt").write_text("mine")
    old = world.manifest["id"]
    dry = world.run("sync", "--cpu", "--dry-run")
    assert ".venv was built from other inputs (layout)\n" in dry.err
    told = "warning: the new .venv lacks what was put into the old one by hand"
    assert f"{told}, which is in .mlenv/gen/{old} still: notes.txt\n" in world.sync("--with", "mpmath")
    assert (world.root / ".mlenv" / "gen" / old / "notes.txt").read_text() == "mine"
    done = world.run("rollback")
    kind = {"link": "a folder", "directory": "a link"}[other]
    assert f"note: .venv is {kind} now, as " in done.err
    assert demo(world) == "demo-app 2.0\n"
    newest = world.json("generations")["generations"][0]
    forward = world.run("rollback", newest["id"])
    assert "(with mpmath) again; `mlenv sync --backend cpu --with mpmath` goes forward" in forward.out
    assert "note:" not in forward.err


def test_a_generation_is_removed_by_hand(world: World) -> None:
    newest, oldest = world.json("generations")["generations"]
    used = world.run("generations", "--remove", oldest["id"], "--remove", newest["id"])
    assert (used.code, f"{newest['id']} is in use as .venv; nothing was removed" in used.err) == (2, True)
    assert f"hint: free to go: {oldest['id']}\n" in used.err
    assert world.run("generations", "--remove", "cpu-nothing").code == 2
    with subprocess.Popen([Path(oldest["path"]) / "bin" / "python", "-c", "input()"], stdin=subprocess.PIPE) as running:
        assert f"{oldest['id']}  a process  cpu" in world.run("generations").out
        assert "is in use as a process" in world.run("generations", "--remove", oldest["id"]).err
        running.communicate(b"\n")
    assert world.run("generations", "--remove", oldest["id"]).out.startswith(f"removed {oldest['id']} (")
    assert [found["id"] for found in world.json("generations")["generations"]] == [newest["id"]]
    assert demo(world) == "demo-app 2.0\n"


@on_linux
def test_what_runs_keeps_its_environment(world: World, tmp_path: Path) -> None:
    """Old enough to be pruned, replaced meanwhile, and still there while a command runs in it."""
    ready = tmp_path / "ready"
    script = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    running = world.start("run", "--", "python", "-S", "-c", script)
    wait_until(ready.exists, what="the command runs")
    used = next(g for g in world.json("generations")["generations"] if g["leased"])
    assert used["environments"] == [".venv"]
    for found in world.json("generations")["generations"]:
        marker = Path(found["path"]) / "mlenv.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"created": 1}))
    world.sync("--rebuild", "--keep", "1")
    assert used["id"] in [found["id"] for found in world.json("generations")["generations"]]
    end(running, signal.SIGTERM)
    world.sync("--rebuild", "--keep", "1")
    assert used["id"] not in [found["id"] for found in world.json("generations")["generations"]]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """``folder`` as it looks where nobody may write; the test is skipped where we may not mount."""
    command = ["mount", "--bind", str(folder), str(folder)]
    if os.name != "posix" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no permission to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@on_linux
def test_a_read_only_project_runs_what_fits_this_machine(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram
) -> None:
    """Built for the nodes, and used on a machine that gets another backend than ``.venv`` points to."""
    world = make_world(index, project, run_mlenv)
    world.sync("--cpu")
    world.sync("--backend", "cu130", "--force")
    script = "import torch.version; print(torch.version.__version__)"
    call = ("run", "--", "python", "-c", script)
    elsewhere = world.root.parent / "elsewhere"
    with read_only(world.root):
        found = {name: world.run(*call, env={"MLENV_BACKEND": name}) for name in ("cpu", "cu130")}
        missing = world.run(*call, env={"MLENV_BACKEND": "cu126"})
        asked = world.run("run", "--cuda13", *call[1:])
        absent = world.run("check", "--env", "nothing")
        built = world.run("sync", "--image", "--env", elsewhere, "--cpu", "--verify", "metadata")
        listed = world.json("generations")["generations"]
    assert {name: done.out.strip() for name, done in found.items()} == {"cpu": "2.14.1+cpu", "cu130": "2.14.1+cu130"}
    assert missing.code != 0
    assert asked.out == "2.14.1+cu130\n"
    assert absent.err == (
        "error: nothing does not exist\nhint: the project is read-only here: where it can be written, "
        "run `mlenv sync --env nothing`; here `mlenv sync --image --env PATH` builds one elsewhere; "
        "there is `--env .venv` (cu130)\n"
    )
    assert built.code == 0, built
    assert world.run("run", "--env", elsewhere, *call[1:]).out == "2.14.1+cpu\n"
    assert len(listed) == 2
