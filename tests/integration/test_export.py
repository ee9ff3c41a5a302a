"""``mlenv export``: what other tools install from it is the same environment."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.pylock import Pylock

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.world import World, make_world, site_of

EVERYTHING = {
    "demo-app": "1.0",
    "filelock": "3.20.0",
    "mpmath": "1.3.0",
    "sympy": "1.14.0",
    "torch": "2.14.1+cpu",
    "torchaudio": "2.11.0+cpu",
    "torchvision": "0.29.1+cpu",
}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


def _installed(environment: Path) -> dict[str, str]:
    found = (path.name.removesuffix(".dist-info").split("-", 1) for path in site_of(environment).glob("*.dist-info"))
    return {name.replace("_", "-"): version for name, version in found}


def test_the_lock_as_it_is(world: World) -> None:
    done = world.run("export")
    assert (done.code, done.out) == (0, (world.root / "requirements.txt").read_text())
    assert not (world.root / ".mlenv" / "gen").exists()


def test_uv_and_pip_install_the_requirements(world: World, run_uv: RunProgram, tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    assert world.run("export", "--cpu", "-o", path).code == 0
    text = path.read_text()
    assert "torch==2.14.1+cpu \\" in text
    assert "pytorch-cpu index" in text
    indexes = ("--index-url", world.index.url("pypi"), "--extra-index-url", world.index.url("pytorch-cpu"))
    assert run_uv("venv", tmp_path / "uv", cwd=tmp_path).code == 0
    words = ("--python", tmp_path / "uv", "--require-hashes", *indexes, "--index-strategy", "unsafe-best-match")
    done = run_uv("pip", "install", *words, "-r", path, cwd=tmp_path)
    assert done.code == 0, done
    assert _installed(tmp_path / "uv") == EVERYTHING
    target = tmp_path / "pip"
    options = ("--require-hashes", "--no-cache-dir", "--trusted-host", "127.0.0.1", *indexes)
    pip = [sys.executable, "-m", "pip", "--isolated", "install", *options, "--target", str(target), "-r", str(path)]
    finished = subprocess.run(pip, capture_output=True, text=True, check=False)
    if "No module named pip" in finished.stderr:
        pytest.skip("no pip here")
    assert finished.returncode == 0, finished
    assert len(list(target.glob("*.dist-info"))) == len(EVERYTHING)


def test_uv_installs_the_pylock_without_asking_for_pages(world: World, run_uv: RunProgram, tmp_path: Path) -> None:
    path = tmp_path / "pylock.toml"
    assert world.run("export", "--format", "pylock.toml", "--cpu", "-o", path).code == 0
    lock = Pylock.from_dict(tomllib.loads(path.read_text()))
    assert {str(package.name): str(package.version) for package in lock.packages} == EVERYTHING
    assert run_uv("venv", tmp_path / "env", cwd=tmp_path).code == 0
    done = run_uv("pip", "sync", "--preview-features", "pylock", "--python", tmp_path / "env", path, cwd=tmp_path)
    assert done.code == 0, done
    assert _installed(tmp_path / "env") == EVERYTHING


def test_a_pylock_lists_the_files_of_one_backend(world: World) -> None:
    done = world.run("export", "--format", "pylock.toml")
    assert done.code == 2
    assert "hint: add --backend B" in done.err


def test_a_stale_lock_is_not_exported(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\nsympy\n")
    done = world.run("export")
    assert (done.code, done.out) == (1, "")
    assert "requirements.in was changed since the lock was made" in done.err


def test_the_same_inputs_give_the_same_bytes(world: World) -> None:
    first, second = (world.run("export", "--backend", "cu130").out for _ in range(2))
    assert first == second
    assert "nvidia-nccl-cu13==2.30.7" in first


OWN_FILES = {
    "requirements.in": "the requirements file",
    "more/extra.in": "the requirements file",
    "bounds.txt": "the constraints file",
    "requirements.txt": "the lock",
    "constraints/cpu.txt": "an overlay",
    "pyproject.toml": "the settings",
    "uv.toml": "the indexes",
}


@pytest.mark.parametrize("name", [*OWN_FILES, "constraints/new.txt", "link.txt"])
def test_no_file_of_the_project_is_overwritten(world: World, name: str) -> None:
    (world.root / "more").mkdir()
    (world.root / "more" / "extra.in").write_text("filelock\n")
    (world.root / "bounds.txt").write_text("sympy>1\n")
    (world.root / "link.txt").symlink_to("requirements.in")
    world.configure("")
    world.require("demo-app", "-r more/extra.in", "-c bounds.txt")
    before = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    done = world.run("export", "--cpu", "-o", name)
    told = OWN_FILES.get(name, "the requirements file")
    message = f"-o {name} is in constraints/" if name.endswith("new.txt") else f"-o {name} would overwrite {told}"
    assert (done.code, message in done.err) == (2, True), done
    assert "hint: name another file" in done.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("name", "told"), [("no/such/all.txt", "the folder no/such does not exist"), ("home", "home is no regular file")]
)
def test_where_no_file_can_be_put_is_told_before_any_work(world: World, name: str, told: str) -> None:
    (world.root / "home").mkdir()
    done = world.run("export", "-o", name)
    assert (done.code, told in done.err) == (2, True), done
    assert not (world.root / "no").exists()


def test_local_projects_are_named_as_what_is_left_out(world: World) -> None:
    for name in ("one", "two"):
        folder = world.root / "libs" / name
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "0.1"\ndependencies = []\n')
    world.require("demo-app", "-e ./libs/one", "libs/two/")
    told = [
        f"not in this file: {line} (a local project; install it with pip install --no-deps)"
        for line in ("-e ./libs/one", "./libs/two")
    ]
    for form in ("requirements.txt", "pylock.toml"):
        done = world.run("export", "--cpu", "--format", form)
        assert done.out.splitlines()[:2] == [f"# {line}" for line in told]
    done = world.run("export")
    assert done.out == (world.root / "requirements.txt").read_text()
    assert done.err == "".join(f"note: {line}\n" for line in told)
    assert world.run("export", "-q").err == ""
