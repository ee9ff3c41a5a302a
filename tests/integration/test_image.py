"""``mlenv sync --image``: the two layers of an image's environment, with the real uv against loopback indexes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlenv.system import layer
from support.index import LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Build, Package
from support.world import DEMO, World, make_world, site_of

# Imports torch from below while it builds, and must leave no bytecode there.
BACKEND = """
import os, zipfile
import torch

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "flashy-2.0.dist-info"
    files = {"flashy.py": "",
             f"{info}/METADATA": "Metadata-Version: 2.1\\nName: flashy\\nVersion: 2.0\\nRequires-Dist: torch\\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, "flashy-2.0-py3-none-any.whl"), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return "flashy-2.0-py3-none-any.whl"
"""
FLASHY = Package("flashy", "2.0", kind="sdist", requires=("torch",), build=Build(files={"build_backend.py": BACKEND}))
ORDINARY = {"filelock", "mpmath", "sympy"}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


def image(world: World, path: Path, *words: str, code: int = 0, backend: str = "cu130") -> Finished:
    chosen = ("--backend", backend) if backend else ()
    done = world.run("sync", "--image", "--env", path, *chosen, *words)
    assert done.code == code, done
    return done


def foundation(world: World, path: Path, *words: str, code: int = 0, backend: str = "cu130") -> Finished:
    return image(world, path, "--only", "foundation", *words, code=code, backend=backend)


def application(world: World, path: Path, *words: str, code: int = 0, backend: str = "") -> Finished:
    return image(world, path, "--only", "application", *words, code=code, backend=backend)


def installed(path: Path) -> set[str]:
    return {found.name.split("-", 1)[0].replace("_", "-") for found in site_of(path).glob("*.dist-info")}


def names(world: World, backend: str = "cu130") -> set[str]:
    found = world.foundations[backend]
    return {package.name for package in (*found.family, *found.companions)}


def files(path: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode's times: nothing may write to one of a layer below."""
    found = (p for p in path.rglob("*") if p.is_file() or p.is_symlink())
    return {str(p.relative_to(path)): (p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in found}


@contextmanager
def hidden(*paths: Path) -> Iterator[None]:
    """Files that a step must not read are not there."""
    for path in paths:
        path.rename(path.with_name(f"{path.name}.hidden"))
    yield
    for path in paths:
        path.with_name(f"{path.name}.hidden").rename(path)


# ------------------------------------------------------------------------------------------------------ the two layers


def test_the_second_layer_adds_to_the_first_and_writes_to_no_file_of_it(world: World, tmp_path: Path) -> None:
    path = tmp_path / "opt" / "venv"
    shutil.rmtree(world.root / ".mlenv", ignore_errors=True)  # there only where this run had to resolve the lock
    with hidden(world.root / "requirements.in", world.root / "requirements.txt"):
        done = foundation(world, path)
        assert "8 foundation" in done.out
        assert f"mlenv sync --image --only application --backend cu130 --env {path}" in done.out
        assert installed(path) == names(world)
        assert "nothing to do" in foundation(world, path).out
    assert not (world.root / ".mlenv").exists()
    for command in ("check", "run"):
        words = ("--", "python", "-V") if command == "run" else ()
        refused = world.run(command, "--env", path, *words)
        assert refused.code == 1, refused
        assert "is not complete" in refused.err
        assert f"mlenv sync --image --env {path}" in refused.err
    before = files(path)
    done = application(world, path)
    assert "8 foundation, 4 application" in done.out
    assert not (path / "pylock.first.toml").exists()
    assert not (world.root / ".mlenv").exists()  # the project may be a read-only mount
    after = files(path)
    changed = {name for name, stamps in before.items() if after.get(name) != stamps}
    assert changed <= {".lock"}
    assert installed(path) == names(world) | ORDINARY | {"demo-app"}
    assert not [p for p in path.rglob("*.pyc") if p.name != "__pycache__"]
    assert not any((path / name).stat().st_nlink > 1 for name in after if not (path / name).is_symlink())
    assert world.run("check", "--deep", "--env", path).code == 0
    assert world.run("run", "--env", path, "--", "python", "-c", "import demo_app, torch").code == 0
    for again in (application(world, path), foundation(world, path), image(world, path)):
        assert "nothing to do" in again.out
    _as_a_registry_hands_it_out(path)
    assert world.run("check", "--env", path).code == 0
    assert "nothing to do" in application(world, path).out


def _as_a_registry_hands_it_out(path: Path) -> None:
    """Layers are tar files with times in whole seconds, clamped where SOURCE_DATE_EPOCH says so."""
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            second = min(int(file.stat().st_mtime), 1_600_000_000)
            os.utime(file, (second, second))


def test_what_is_recorded_is_the_first_layer_and_what_the_lock_needs_beyond_it_is_refused(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "venv"
    world.publish(Package("xgb", "1.0", requires=("nvidia-nccl-cu13",)))
    world.require("demo-app", "xgb")
    foundation(world, path, backend="cpu")
    before = files(path)
    refused = application(world, path, code=1)
    assert "it lacks nvidia-nccl-cu13" in refused.err
    assert "mlenv foundation record --backend cpu" in refused.err
    assert files(path).keys() == before.keys()
    assert world.run("foundation", "record", "--backend", "cpu").code == 0
    assert "pylock.cpu.toml" in application(world, path, code=1).err
    foundation(world, path, code=1, backend="cpu")
    foundation(world, path, "--rebuild", backend="cpu")
    assert installed(path) == names(world, "cpu") | {"nvidia-nccl-cu13"}
    application(world, path)
    assert installed(path) == names(world, "cpu") | {"nvidia-nccl-cu13"} | ORDINARY | {"demo-app", "xgb"}


def test_the_first_layer_holds_the_versions_of_its_day_and_an_application_that_wants_others_is_refused(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "venv"
    foundation(world, path)
    world.publish(Package("nvidia-cublas", "13.0.9.9"), Package("picky", "1.0", requires=("nvidia-cublas>=13.0.9",)))
    world.configure('unproven = ["cpu"]\n')
    world.require("demo-app", "picky")
    refused = application(world, path, code=1)
    assert "does not fit the foundation that is there" in refused.err
    assert "picky" in refused.err
    world.require("demo-app")
    application(world, path)
    assert (site_of(path) / "nvidia_cublas-13.0.1.1.dist-info").is_dir()


def test_both_steps_in_one(world: World, tmp_path: Path) -> None:
    path = tmp_path / "venv"
    done = image(world, path)
    assert "8 foundation, 4 application" in done.out
    assert world.run("check", "--env", path).code == 0
    assert "nothing to do" in image(world, path).out
    refused = foundation(world, path, code=8)
    assert "holds a whole environment" in refused.err
    assert f"--rebuild --env {path}" in refused.err


def test_without_the_first_step_the_second_says_so(world: World, tmp_path: Path) -> None:
    refused = application(world, tmp_path / "venv", code=8, backend="cpu")
    assert "there is no foundation to add to" in refused.err
    assert "hint: `mlenv sync --image --only foundation --backend cpu" in refused.err


# ------------------------------------------------------------------------------------------------------- what fails


def test_a_failed_second_step_leaves_the_first_layer_as_it_was(world: World, tmp_path: Path) -> None:
    path = tmp_path / "venv"
    foundation(world, path, backend="cpu")
    bad = Package("bad-app", "1.0", files={"torch/__init__.py": "raise SystemExit\n"})
    world.publish(bad)
    world.require("bad-app", "demo-app")
    before = files(path)
    refused = application(world, path, code=1)
    assert "both own torch/__init__.py" in refused.err
    assert files(path).keys() == before.keys()


def test_a_stale_lock_and_another_foundation_are_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "venv"
    foundation(world, path, backend="cpu")
    assert "backend cpu" in application(world, path, backend="cu130", code=1).err
    overlay = world.root / "constraints" / "cpu.txt"
    overlay.write_text(overlay.read_text() + "filelock<4\n")
    assert "requirements.txt is not current" in application(world, path, code=1).err
    world.lock()
    refused = application(world, path, code=1)
    assert "was built from another state of: constraints/cpu.txt" in refused.err
    assert "--only foundation --backend cpu --rebuild" in refused.err


def test_what_a_kill_left_of_the_second_step_is_taken_away_by_the_next(world: World, tmp_path: Path) -> None:
    path = tmp_path / "venv"
    foundation(world, path, backend="cpu")
    before = files(path)
    layer.begin_adding(path)
    (site_of(path) / "demo_app-1.0.dist-info").mkdir()
    (site_of(path) / "demo_app-1.0.dist-info/METADATA").touch()
    told = application(world, path).err
    assert "took away what an interrupted second step had added" in told
    assert {name: stamp for name, stamp in files(path).items() if name in before} == before
    assert not (path / "mlenv-adding.json").exists()
    assert world.run("check", "--env", str(path)).code == 0


def test_what_a_kill_left_of_the_first_step_is_removed_and_what_was_added_by_hand_is_refused(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "venv"
    foundation(world, path, backend="cpu")
    marker = path / "mlenv-image.json"
    told = marker.read_text()
    marker.write_text('{"schema": 1}\n')
    (path / "left").touch()
    foundation(world, path, backend="cpu")
    assert not (path / "left").exists()
    assert json.loads(marker.read_text())["foundation"]["planned"] == json.loads(told)["foundation"]["planned"]
    (site_of(path) / "demo_app-1.0.dist-info").mkdir()
    assert "demo-app 1.0 was installed" in application(world, path, code=1).err


def test_what_is_not_an_images_stays_where_it_is(world: World, tmp_path: Path) -> None:
    world.sync("--env", str(tmp_path / "venv"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyvenv.cfg").touch()
    for name in ("venv", "other"):
        refused = foundation(world, tmp_path / name, code=8)
        assert "was not built for an image" in refused.err
    path = tmp_path / "image"
    image(world, path, backend="cpu")
    assert world.run("sync", "--cuda13", "--env", path).code == 2
    repair = world.run("check", "--repair", "--env", path)
    assert repair.code == 2
    assert "--image --backend cpu --rebuild" in repair.err
    assert world.run("sync", "--check", "--cpu", "--env", path).code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--only", "foundation"), "builds one layer of an image's environment"),
        (("--image",), "none is named"),
        (("--image", "--env", "x", "--check"), "--check makes no sense with --image"),
        (("--image", "--env", "x", "--only", "foundation", "--with", "y"), "--with makes no sense"),
        (("--image", "--env", "x", "--only", "application", "--rebuild"), "--rebuild makes no sense"),
        (("--image", "--env", "x"), "an image is being built and no GPU is visible"),
    ],
)
def test_wrong_usage(project: ProjectFactory, run_mlenv: RunProgram, words: tuple[str, ...], told: str) -> None:
    root = project({"requirements.in": "", "constraints/cpu.txt": ""})
    done = run_mlenv("sync", *words, cwd=root, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.code == 2, done
    assert told in done.err


# --------------------------------------------------------------------------------------------------- real layers


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(the lower layer, the upper one) of an overlay that is mounted at ``image``."""
    folders = [tmp_path / name for name in ("lower", "upper", "work", "image")]
    for folder in folders:
        folder.mkdir()
    yield folders[0], folders[1]
    subprocess.run(["umount", str(folders[3])], check=False, capture_output=True)


def _mount(lower: Path) -> Path:
    at = lower.parent
    options = f"lowerdir={lower},upperdir={at / 'upper'},workdir={at / 'work'}"
    try:
        done = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(at / "image")],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        pytest.skip(f"no overlay can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()}")
    return at / "image"


def test_on_an_overlay_mount_the_second_layer_holds_no_foundation_file(world: World, layers: tuple[Path, Path]) -> None:
    lower, upper = layers
    place = lower.parent / "image" / "venv"
    world.configure('build-against-foundation = ["flashy"]\n')
    world.publish(FLASHY)
    world.require("demo-app", "flashy")
    foundation(world, place)
    shutil.move(place, lower / "venv")  # the first layer is committed, and the next step runs over it
    _mount(lower)
    below = {str(p.relative_to(lower)) for p in lower.rglob("*") if p.is_file() or p.is_symlink()}
    application(world, place)
    added = {str(p.relative_to(upper)): p for p in upper.rglob("*") if not p.is_dir() or p.is_symlink()}
    assert added.keys() & below <= {"venv/.lock"}
    packages = [DEMO, *world.foundations["cu130"].ordinary]
    folders = {name.split("/site-packages/")[1].split("/")[0] for name in added if "/site-packages/" in name}
    own = {package.name.replace("-", "_") for package in packages}
    assert {name.split("-")[0].removesuffix(".py") for name in folders} == own | {"flashy"}
    assert world.run("check", "--deep", "--env", place).code == 0
