"""``mlenv run``: a command in the environment, its exit status, its surroundings."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.world import World, end, make_world, wait_until

SHOW = (
    "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'], os.environ['PATH'].split(os.pathsep)[0], sep='\\n')"
)


@pytest.fixture(scope="module")
def shared() -> dict[str, World]:
    return {}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram, shared: dict[str, World]) -> World:
    """One environment for all tests that change nothing."""
    if "world" not in shared:
        made = make_world(index, project, run_mlenv)
        made.sync()
        shared["world"] = made
    return shared["world"]


def test_the_link_is_resolved_and_the_environment_comes_first(world: World) -> None:
    done = world.run("run", "--", "python", "-c", SHOW, env={"VIRTUAL_ENV": "/other"})
    assert done.code == 0, done
    generation = str(world.generation)
    assert done.out.split() == [generation, generation, f"{generation}/bin"]


def test_a_command_of_the_environment(world: World) -> None:
    done = world.run("run", "demo")
    assert (done.code, done.out) == (0, "demo-app 1.0\n")


def test_options_belong_to_the_command(world: World) -> None:
    script = "import sys; print(sys.argv[1:])"
    assert (
        world.run("run", "python", "-c", script, "--json", "-q", "--", "a b").out == "['--json', '-q', '--', 'a b']\n"
    )


@pytest.mark.parametrize("code", [0, 1, 3, 70, 255])
def test_the_status_is_the_commands_own(world: World, code: int) -> None:
    assert world.run("run", "--", "python", "-c", f"raise SystemExit({code})").code == code


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_command_that_a_signal_ends(world: World) -> None:
    done = world.run("run", "--", "python", "-c", "import os; os.kill(os.getpid(), 15)")
    assert done.code == 143


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_terminated_run_takes_its_command_along(world: World, tmp_path: Path) -> None:
    """As a supervisor or `docker stop` does it: to mlenv alone."""
    script = "import pathlib, os, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    process = world.start("run", "--", "python", "-c", script, str(tmp_path / "pid"))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="the command")
    child = int((tmp_path / "pid").read_text())
    assert end(process, signal.SIGTERM).code == 143
    wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the command to end", seconds=2)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_what_a_scheduler_sends_reaches_the_command(world: World, tmp_path: Path, number: signal.Signals) -> None:
    """Slurm asks for a checkpoint with SIGUSR1; a supervisor that has no terminal stops with SIGINT."""
    ready = tmp_path / "ready"
    script = (
        f"import pathlib, signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(7)); "
        f"pathlib.Path({str(ready)!r}).touch(); signal.pause()"
    )
    running = world.start("run", "--", "python", "-c", script)
    wait_until(ready.exists, what="the command runs")
    assert end(running, number).code == 7


def test_a_command_that_does_not_exist(world: World) -> None:
    done = world.run("run", "--", "no-such-command")
    assert done.code == 127
    assert "there is no command 'no-such-command' in .venv or on PATH" in done.err
    assert "hint: " in done.err


def test_a_command_that_cannot_be_executed(world: World, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nowhere/python\n")
    done = world.run("run", "--", script)
    assert (done.code, f"{script} is no program" in done.err) == (126, True)
    script.chmod(0o755)
    done = world.run("run", "--", script)
    assert (done.code, f"{script} can't be started: No such file" in done.err) == (126, True)


def test_a_command_of_the_environment_that_is_no_program_any_more_is_no_other_one(world: World, tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("#!/bin/sh\necho another one\n")
    (tmp_path / "demo").chmod(0o755)
    own = world.generation / "bin/demo"
    own.chmod(0o644)
    done = world.run("run", "demo", env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    checked = world.run("check")
    own.chmod(0o755)
    assert (done.code, done.out, f"{own} is no program" in done.err) == (126, "", True), done
    assert (checked.code, ".venv: bin/demo can't be executed any more" in checked.out) == (1, True), checked


def test_an_option_that_run_does_not_have_is_wrong_usage(world: World) -> None:
    done = world.run("run", "--bogus", "python")
    assert done.code == 2
    assert "error: No such option" in done.err
    assert "hint: an option of the command stands behind it: `mlenv run -- CMD --bogus`\n" in done.err


def test_standard_input_reaches_the_command(world: World) -> None:
    import subprocess

    words = [sys.executable, "-m", "mlenv", "run", "--", "python", "-c", "print(input()[::-1])"]
    done = subprocess.run(words, cwd=world.root, input="abc\n", capture_output=True, text=True, check=False)
    assert done.stdout == "cba\n"


def test_it_works_from_a_folder_below(world: World) -> None:
    folder = world.root / "src" / "deep"
    folder.mkdir(parents=True, exist_ok=True)
    done = world.program("run", "--", "demo", cwd=folder, env=world.variables)
    assert (done.code, done.out) == (0, "demo-app 1.0\n")


def test_without_an_environment(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> None:
    root = project({"requirements.in": ""})
    done = run_mlenv("run", "--", "python", cwd=root)
    assert (done.code, done.err) == (1, "error: .venv does not exist\nhint: run `mlenv sync`\n")
    assert not (root / ".mlenv").exists()


def _file(environment: Path) -> None:
    environment.write_text("")


def _folder(environment: Path) -> None:
    (environment / "mine").mkdir(parents=True)


def _dangling(environment: Path) -> None:
    environment.symlink_to("gone")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_file, "is not an environment that mlenv built"),
        (_folder, "is not an environment that mlenv built"),
        (_dangling, "is a link to gone, which does not exist"),
    ],
)
def test_what_is_no_environment_is_told_as_check_tells_it(
    world: World, project: ProjectFactory, make: Callable[[Path], None], told: str
) -> None:
    root = project({"requirements.in": ""})
    make(root / ".venv")
    done = world.program("run", "--", "python", cwd=root)
    assert (done.code, done.err) == (1, f"error: .venv {told}\nhint: run `mlenv sync`\n")
    check = world.program("check", cwd=root)
    assert (check.code, check.err) == (1, f"error: .venv {told}\nhint: run `mlenv sync`\n")


def test_an_environment_whose_python_is_gone(world: World) -> None:
    python = world.generation / "bin" / "python"
    python.rename(python.with_name("away"))
    try:
        done, check = world.run("run", "--", "python"), world.run("check")
    finally:
        python.with_name("away").rename(python)
    told = "error: .venv can't be used: its Python is gone\nhint: run `mlenv sync`\n"
    assert (done.code, done.err) == (1, told)
    assert (check.code, ".venv: its Python is gone" in check.out) == (1, True)


@pytest.mark.parametrize("copied", [True, False])
def test_the_environment_of_another_project_is_not_run(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram, tmp_path: Path, copied: bool
) -> None:
    """The scripts of a copy start the original's Python."""
    world = make_world(index, project, run_mlenv)
    world.sync()
    was = world.generation
    target = tmp_path / "another"
    shutil.copytree(world.root, target, symlinks=True)
    if not copied:
        world.root.rename(tmp_path / "gone")
    done = world.program("run", "--", "demo", cwd=target, env=world.variables)
    told = f"error: .venv was built at {was}; its scripts point there\nhint: run `mlenv sync --backend cpu`\n"
    assert (done.code, done.out, done.err) == (1, "", told)
    again = world.program("sync", "--cpu", "--verify", "metadata", cwd=target, env=world.variables)
    assert again.code == 0, again
    assert world.program("run", "--", "demo", cwd=target, env=world.variables).out == "demo-app 1.0\n"


def test_an_environment_for_each_backend(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> None:
    """Without a backend in the settings it is the one that this machine gets, as for ``sync``."""
    world = make_world(index, project, run_mlenv)
    world.configure('environment = ".venv-{backend}"\n')
    missing = world.run("run", "--", "demo")
    told = "error: .venv-cpu does not exist\nhint: run `mlenv sync --backend cpu`"
    assert (missing.code, missing.err) == (1, f"{told}\n")
    world.sync("--cuda13")
    missing = world.run("check")
    assert (missing.code, missing.err) == (1, f"{told}; there is `--env .venv-cu130` (cu130)\n")
    assert world.run("check", "--env", ".venv-cu130").code == 0
    world.sync()
    assert {path.name for path in world.root.glob(".venv*")} == {".venv-cu130", ".venv-cpu"}
    show = ("run", "--", "python", "-c", "import torch; print(torch.__version__)")
    assert world.run(*show).out == "2.14.1+cpu\n"
    assert world.run(*show, env={"MLENV_BACKEND": "cu130"}).out == "2.14.1+cu130\n"
    assert world.run(*show[:1], "--cuda13", *show[1:]).out == "2.14.1+cu130\n"
    assert world.run("check").out == ".venv-cpu is whole: 7 packages, backend cpu\n"
    assert world.run("check", "--backend", "cu130").out == ".venv-cu130 is whole: 12 packages, backend cu130\n"
    (gpu,) = world.json("generations", "--cuda13")["generations"]
    crossed = world.run("rollback", gpu["id"])
    assert (
        f"{gpu['id']} is of cu130, and .venv-cpu of cpu\nhint: `mlenv rollback {gpu['id']} --backend cu130`"
        in crossed.err
    )
    assert world.run("rollback", gpu["id"], "--backend", "cu130").code == 0
    world.configure("")
    world.sync()
    other = world.run("check", "--cuda13")
    assert other.err == "error: .venv is of cpu, not of cu130\nhint: run `mlenv sync --backend cu130`\n"
