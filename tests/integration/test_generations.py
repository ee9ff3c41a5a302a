"""What stands at ``.venv``: never half an environment, whatever happens, and never somebody else's loss."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from support.index import LoopbackIndex, Slow
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, alive_below, end, make_world, wait_until

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


# ------------------------------------------------------------------------------- what stood at .venv is moved, not lost


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def _foreign_virtualenv(path: Path) -> None:
    _directory(path)
    (path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (path / "bin").mkdir()


def _file(path: Path) -> None:
    path.write_text("../shared/environment\n")


def _dangling_link(path: Path) -> None:
    path.symlink_to("../shared/environment")


def _link_to_a_folder(path: Path) -> None:
    shared = path.parent.parent / "shared"
    _directory(shared)
    path.symlink_to(shared)


@pytest.mark.parametrize("make", [_directory, _foreign_virtualenv, _file, _dangling_link, _link_to_a_folder])
def test_what_mlenv_did_not_make_is_moved_aside(world: World, make: Callable[[Path], None]) -> None:
    make(world.environment)
    before = _contents(world.environment)
    assert ".venv was not made by mlenv; it would be moved to .venv.before-mlenv\n" in world.sync("--dry-run")
    assert _contents(world.environment) == before
    said = world.sync()
    assert ".venv was not made by mlenv; it was moved to .venv.before-mlenv" in said
    assert _contents(world.root / ".venv.before-mlenv") == before
    assert world.run("check").code == 0
    assert "nothing to do" in world.sync()


def _contents(path: Path) -> dict[str, str]:
    """Where a link points to, what a file or a folder holds, what lies behind a link included."""
    if path.is_symlink():
        return {"link": str(path.readlink()), **({} if not path.exists() else _contents(path.resolve()))}
    if path.is_file():
        return {"": path.read_text()}
    return {str(p.relative_to(path)): p.read_text() if p.is_file() else "" for p in sorted(path.rglob("*"))}


def test_what_was_moved_aside_before_stays(world: World) -> None:
    (world.root / ".venv.before-mlenv").write_text("first")
    _directory(world.environment)
    assert "it was moved to .venv.before-mlenv-2" in world.sync()
    assert (world.root / ".venv.before-mlenv").read_text() == "first"


def test_a_failed_build_moves_nothing_aside(world: World) -> None:
    _directory(world.environment)
    world.index.remove("pytorch-cpu", "torch")
    assert world.run("sync", "--cpu").code == 6
    assert _contents(world.environment) == {"mine.txt": "mine"}


def test_a_link_to_a_generation_that_is_gone_is_ours(world: World) -> None:
    world.sync()
    shutil.rmtree(world.generation)
    assert "moved" not in world.sync()
    assert not (world.root / ".venv.before-mlenv").exists()
    assert world.run("check").code == 0


def _without_privileges() -> None:
    """root obeys file permissions once these capabilities are out of reach."""
    import ctypes

    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@on_linux
@pytest.mark.parametrize("with_state", [False, True])
def test_a_read_only_project_is_told_of_and_loses_nothing(world: World, with_state: bool) -> None:
    if with_state:
        world.sync()
    folders = [path for path in (world.root, world.root / ".mlenv", world.root / ".mlenv" / "gen") if path.exists()]
    before = world.generations
    for folder in folders:
        folder.chmod(0o555)
    if with_state:
        (world.root / ".mlenv" / "lock").chmod(0o444)
    try:
        words = [sys.executable, "-m", "mlenv", "sync", "--cuda13"]
        env = {**os.environ, "HOME": str(world.home), "UV_DEFAULT_INDEX": world.index.url("pypi")}
        done = subprocess.run(
            words, cwd=world.root, env=env, capture_output=True, text=True, preexec_fn=_without_privileges, check=False
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 8, done
    assert "Permission denied" in done.stderr
    assert "hint: " in done.stderr
    assert world.generations == before
    assert not with_state or world.run("check").code == 0


# --------------------------------------------------------------------------------------------------- interrupted builds


def _start_a_slow_build(world: World) -> subprocess.Popen[str]:
    """A build that has part of its packages and waits for torch, which doesn't come."""
    world.run("sync", "--cuda13", "--dry-run")  # what the wheels hold is known then, and not asked for
    world.index.fail("pytorch-cu130", Slow(30), package="torch", part="file")
    process = world.start("sync", "--cuda13")
    wheel = "triton-3.8.0-py3-none-any.whl"
    wait_until(
        lambda: any(r.path.endswith(wheel) and r.range is None for r in list(world.index.requests)),
        what="the first download",
    )
    return process


@on_linux
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGKILL, -9)],
)
def test_an_interrupted_build_leaves_the_old_environment_and_no_process(
    world: World, number: signal.Signals, code: int
) -> None:
    world.sync()
    old = world.generation
    process = _start_a_slow_build(world)
    assert alive_below(world.root)
    done = end(process, number)
    wait_until(lambda: not alive_below(world.root), what="its children to end", seconds=2)
    assert done.code == code, done
    assert world.generation == old
    assert world.run("check").code == 0
    left = [name for name in world.generations if name != old.name]
    assert bool(left) == (number is signal.SIGKILL)
    world.index.mend("pytorch-cu130")
    said = world.sync("--cuda13")
    assert all(f"removed what an interrupted build left: {name}" in said for name in left)
    assert world.run("check").code == 0


@on_linux
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
def test_a_second_ctrl_c_ends_it_as_well_as_the_first(world: World, pause: float) -> None:
    """The second comes while the children are ended, while the folder goes, or after that."""
    world.sync()
    old = world.generation
    process = _start_a_slow_build(world)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    done = end(process, signal.SIGINT)
    wait_until(lambda: not alive_below(world.root), what="its children to end", seconds=2)
    assert (done.code, "Traceback" in done.err) == (130, False), done
    assert world.generation == old
    world.index.mend("pytorch-cu130")
    world.sync("--cuda13")
    assert world.run("check").code == 0


def test_an_interrupted_first_build_leaves_no_environment(world: World) -> None:
    world.run("sync", "--cpu", "--dry-run")
    world.index.fail("pytorch-cpu", Slow(30), package="torch", part="file")
    process = world.start("sync", "--cpu")
    wait_until(lambda: bool(world.generations), what="the build")
    assert end(process, signal.SIGINT).code == 130
    assert not world.environment.is_symlink()
    assert world.generations == []


def test_a_damaged_marker_takes_nothing_from_who_uses_the_environment(world: World) -> None:
    """It looks like a build that was interrupted, and is what .venv points to."""
    world.sync()
    old = world.generation
    (old / "mlenv.json").write_text("{")
    world.index.fail("pytorch-cu130", Slow(0), package="torch")
    world.index.remove("pytorch-cu130", "torch")
    assert world.run("sync", "--cuda13").code == 6
    assert world.run("run", "--", "demo").code == 0
    world.sync()
    assert world.generation != old
    assert world.run("check").code == 0


@on_linux
@pytest.mark.parametrize("damage", [Path.unlink, lambda marker: marker.write_text("{")])
def test_a_lost_marker_takes_nothing_from_a_process_that_runs_there(
    world: World, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    world.sync()
    old = world.generation
    script = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    process = world.start("run", "--", "python", "-c", script, tmp_path / "started")
    try:
        wait_until((tmp_path / "started").exists, what="the command")
        damage(old / "mlenv.json")
        world.sync()
        assert world.generation != old
        said = world.sync()
        assert f"left {old.name}, which has no sound mlenv.json, as a process runs in it" in said
        assert (old / "bin" / "demo").is_file()
    finally:
        end(process, signal.SIGTERM)
    assert f"removed what an interrupted build left: {old.name}" in world.sync()


# ------------------------------------------------------------------------------------------------------------- together


def test_the_second_of_two_waits(world: World) -> None:
    (world.root / ".mlenv").mkdir(exist_ok=True)
    with FileLock(world.root / ".mlenv" / "lock"):
        busy = world.run("sync", "--cpu", "--wait", "0")
        assert busy.code == 9, busy
        assert (
            busy.err == "error: another mlenv holds this project\nhint: let it finish, or wait longer: --wait SECONDS\n"
        )
        second = world.start("sync", "--cpu")
        assert second.stderr is not None
        assert second.stderr.readline() == "another mlenv holds this project; waiting up to 600 s\n"
        assert world.generations == []
    assert second.wait(60) == 0
    second.communicate()


def test_two_at_once_build_one_environment(world: World) -> None:
    both = [world.start("sync", "--cpu", "--verify", "metadata") for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("nothing to do" in out for out in said) == 1
    assert len(world.generations) == 1


# -------------------------------------------------------------------------------------------------------------- pruning


def _age(world: World, *, days: float) -> None:
    """Make every generation look older."""
    for marker in (world.root / ".mlenv" / "gen").glob("*/mlenv.json"):
        document = json.loads(marker.read_text())
        marker.write_text(json.dumps({**document, "created": document["created"] - days * 86400}))


@on_linux
def test_old_generations_go_and_those_in_use_stay(world: World, tmp_path: Path) -> None:
    world.configure("keep = 1\n")
    world.lock()
    elsewhere = tmp_path / "second-environment"
    world.sync("--env", elsewhere)
    world.sync("--cuda13")
    running, python = world.generation, world.generation / "bin" / "python"
    world.sync("--rebuild", "--cuda13")
    unused = world.generation
    world.sync("--rebuild", "--cuda13")
    assert len(world.generations) == 4
    _age(world, days=8)
    process = subprocess.Popen([python, "-c", "import time; time.sleep(60)"])
    try:
        world.sync("--rebuild", "--cuda13")
        names = set(world.generations)
        assert elsewhere.resolve().name in names
        assert running.name in names
        assert unused.name not in names
        assert world.run("check", "--env", elsewhere).code == 0
    finally:
        process.kill()
        process.wait()


def test_a_young_generation_stays(world: World) -> None:
    world.configure("keep = 1\n")
    world.lock()
    for _ in range(3):
        world.sync("--rebuild")
    assert len(world.generations) == 3


# -------------------------------------------------------------------------------- never the base interpreter's packages


def _base(private_python: Path) -> Path:
    site = next((private_python.parents[1] / "lib").glob("python3*")) / "site-packages"
    info = site / "precious-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: precious\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("uv")
    (info / "RECORD").write_text("precious.py,,\nprecious-1.0.dist-info/METADATA,,\nprecious-1.0.dist-info/RECORD,,\n")
    (site / "precious.py").write_text("")
    return site


def test_without_pyvenv_cfg_nothing_of_the_base_is_touched(world: World, private_python: Path) -> None:
    site = _base(private_python)
    before = sorted(path.name for path in site.iterdir())
    world.sync("--python", private_python)
    (world.generation / "pyvenv.cfg").unlink()
    check = world.run("check")
    assert (check.code, "pyvenv.cfg was deleted" in check.out) == (1, True), check
    refused = world.run("run", "--", "python", "-c", "import sys; print(sys.prefix)")
    assert (refused.code, "pyvenv.cfg is missing" in refused.err) == (1, True), refused
    assert "pyvenv.cfg was deleted" in world.sync("--python", private_python)
    world.sync("--python", private_python, "--rebuild")
    assert sorted(path.name for path in site.iterdir()) == before
    assert world.run("check").code == 0


def test_a_wheel_that_takes_pyvenv_cfg_away_does_not_reach_the_base(world: World, private_python: Path) -> None:
    """What it wrote there names no base: the local project must not be installed with that interpreter."""
    site = _base(private_python)
    before = sorted(path.name for path in site.iterdir())
    world.publish(Package("evil", "1.0", files={"evil-1.0.data/data/pyvenv.cfg": "nothing\n"}))
    folder = world.root / "libs" / "mine"
    folder.mkdir(parents=True)
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(build + '[project]\nname = "mine"\nversion = "0.1"\ndependencies = []\n')
    (folder / "backend.py").write_text("raise SystemExit('built')\n")
    world.require("demo-app", "evil", "-e ./libs/mine")
    done = world.run("sync", "--cpu", "--python", private_python)
    assert done.code == 8, done
    assert "this is not a virtual environment of its own; nothing was written" in done.err
    assert sorted(path.name for path in site.iterdir()) == before
    assert world.generations == []
