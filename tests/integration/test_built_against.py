"""Packages that are built against the installed foundation, with the real uv against loopback indexes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.index import LoopbackIndex, WrongHash
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Build, Package
from support.world import World, make_world

# Writes down which torch its build saw, and how often it ran.
BACKEND = """
import os, zipfile
open({marker!r} + ".touched", "w").close()
import torch

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with open({marker!r}, "a") as marker:
        marker.write(torch.__version__ + "\\n")
    {extra}
    info = "flashy-2.0.dist-info"
    files = {{"flashy.py": f"BUILT_AGAINST = {{torch.__version__!r}}\\n",
             f"{{info}}/METADATA": "Metadata-Version: 2.1\\nName: flashy\\nVersion: 2.0\\nRequires-Dist: torch\\n",
             f"{{info}}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}}
    record = "".join(f"{{path}},,\\n" for path in [*files, f"{{info}}/RECORD"])
    name = "flashy-2.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, content in {{**files, f"{{info}}/RECORD": record}}.items():
            archive.writestr(path, content)
    return name

build_editable = build_wheel
"""
FLASHY = 'build-against-foundation = ["flashy"]\n'


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    made = make_world(index, project, run_mlenv)
    made.configure(FLASHY)
    return made


def flashy(marker: Path, *, extra: str = "", requires: tuple[str, ...] = (), setup: str | None = None) -> Package:
    files = {"build_backend.py": BACKEND.format(marker=str(marker), extra=extra)}
    files |= {"setup.py": setup} if setup is not None else {}
    return Package("flashy", "2.0", kind="sdist", requires=("torch",), build=Build(requires=requires, files=files))


def seen(marker: Path) -> list[str]:
    return marker.read_text().split() if marker.exists() else []


def touched(marker: Path) -> bool:
    """Whether any code of it ran."""
    return marker.with_name(marker.name + ".touched").exists()


def kept(world: World) -> list[Path]:
    return sorted(world.home.glob("**/mlenv/built/*/*.whl"))


def says(world: World) -> str:
    done = world.run("run", "--", "python", "-c", "import flashy; print(flashy.BUILT_AGAINST)")
    assert done.code == 0, done
    return done.out.strip()


def test_it_is_built_against_each_backends_torch_once(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    world.publish(flashy(marker))
    world.require("flashy")
    assert not touched(marker)
    told = world.sync()
    assert "building flashy 2.0 against torch 2.14.1+cpu" in told
    assert says(world) == "2.14.1+cpu"
    built = world.manifest["built"]["flashy"]
    assert built["wheel"] == "flashy-2.0-py3-none-any.whl"
    assert len(built["sha256"]) == 64
    assert not (world.generation / "build-against-foundation").exists()
    assert not list(world.site.glob("flashy*/direct_url.json"))
    assert world.run("check").code == 0

    world.sync("--cuda13")
    assert says(world) == "2.14.1+cu130"
    assert seen(marker) == ["2.14.1+cpu", "2.14.1+cu130"]

    asked = len(world.index.requests)
    told = world.sync("--rebuild", "--offline")
    assert "building flashy" not in told
    assert (says(world), world.manifest["built"]["flashy"]) == ("2.14.1+cpu", built)
    assert len(world.index.requests) == asked

    for wheel in kept(world):
        wheel.write_bytes(b"damaged")
    world.sync("--rebuild", "--offline")
    assert (says(world), seen(marker)[2:]) == ("2.14.1+cpu", ["2.14.1+cpu"])
    world.sync("--rebuild", "--offline", env={"CFLAGS": "-O1"})
    assert len(seen(marker)) == 4
    assert len(world.index.requests) == asked


def test_a_failed_build_leaves_the_old_environment_and_says_why(world: World, tmp_path: Path) -> None:
    world.lock()
    world.sync()
    before = world.generation
    marker = tmp_path / "ran"
    world.publish(flashy(marker, extra="print('compiling'); import no_such_module"))
    world.require("flashy")
    done = world.run("sync", "--cpu")
    assert done.code == 8, done
    assert "flashy 2.0 could not be built against torch 2.14.1+cpu (cpu)" in done.err
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.err
    assert "extra-build-dependencies" not in done.err
    assert "hint: its build needs no_such_module" in done.err
    assert (world.generation, world.generations) == (before, [before.name])
    assert kept(world) == []


def test_what_its_build_needs_must_be_locked(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    world.publish(flashy(marker, requires=("torch==1.0", "ninja>=1.11"), setup="import packaging, os\n"))
    world.publish(Package("ninja", "1.13"), Package("packaging", "26.0"))
    world.require("flashy")
    done = world.run("sync", "--cpu")
    assert done.code == 3, done
    assert "lacks what its build needs: ninja>=1.11, packaging" in done.err
    assert "installing" not in done.err
    assert not touched(marker)
    world.require("flashy", "ninja>=1.11", "packaging")
    world.sync()
    assert says(world) == "2.14.1+cpu"


def test_other_bytes_than_the_locked_source_are_never_run(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    package = flashy(marker)
    world.publish(package)
    world.require("flashy")
    world.index.remove("pypi", "flashy")
    world.publish(flashy(marker, extra="pass"))
    done = world.run("sync", "--cpu")
    assert done.code == 7, done
    world.index.remove("pypi", "flashy")
    world.publish(package)
    world.index.fail("pypi", WrongHash(), part="page")
    assert world.run("sync", "--cpu").code == 7
    assert not touched(marker)


def test_a_wheel_from_an_index_of_its_own_is_preferred(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    wheel = Package("flashy", "2.0", requires=("torch",), files={"flashy.py": "BUILT_AGAINST = 'elsewhere'\n"})
    source = flashy(marker)
    world.publish(source, wheel, index="company")
    with (world.root / "uv.toml").open("a") as file:
        file.write(f'\n[[index]]\nname = "company"\nurl = "{world.index.url("company")}"\nexplicit = true\n')
    world.configure(FLASHY + '[tool.mlenv.index]\n"flashy" = "company"\n')
    world.require("flashy")
    world.sync()
    assert says(world) == "elsewhere"
    assert not touched(marker)


def test_a_local_project_may_be_built_against_it_too(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = world.root / "kernels"
    folder.mkdir()
    (folder / "build_backend.py").write_text(BACKEND.format(marker=str(marker), extra=""))
    system = '[build-system]\nrequires = ["torch"]\nbuild-backend = "build_backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(system + '[project]\nname = "flashy"\nversion = "2.0"\n')
    world.require("demo-app", "./kernels")
    world.sync()
    assert says(world) == "2.14.1+cpu"
    world.sync("--cuda13")
    assert says(world) == "2.14.1+cu130"
    assert seen(marker) == ["2.14.1+cpu", "2.14.1+cu130"]


# As setuptools does: what was compiled is kept in build/, and taken from there the next time.
COMPILED_ONCE = """
    if not os.path.exists("build/flashy.o"):
        os.makedirs("build")
        open("build/flashy.o", "w").write(torch.__version__)
    torch.__version__ = open("build/flashy.o").read()
"""


def test_what_was_compiled_for_another_foundation_is_not_taken(world: World, tmp_path: Path) -> None:
    folder = world.root / "kernels"
    (folder / "build").mkdir(parents=True)
    (folder / "build/flashy.o").write_text("2.14.1+by-hand")
    (folder / "build_backend.py").write_text(BACKEND.format(marker=str(tmp_path / "ran"), extra=COMPILED_ONCE.strip()))
    system = '[build-system]\nrequires = ["torch"]\nbuild-backend = "build_backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(system + '[project]\nname = "flashy"\nversion = "2.0"\n')
    world.require("demo-app", "./kernels")
    for words, torch in (("--cpu", "2.14.1+cpu"), ("--cuda13", "2.14.1+cu130")):
        world.sync(words)
        assert says(world) == torch
        assert not (world.generation / "build-against-foundation").exists()
    assert (folder / "build/flashy.o").read_text() == "2.14.1+by-hand"
    world.require("demo-app", "-e ./kernels")
    assert "it is editable: what is compiled lies in its folder" in world.sync("--cpu")
