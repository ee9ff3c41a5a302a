"""``mlenv check``: what drifted, was damaged, truncated, removed or replaced, by name."""

from __future__ import annotations

import os
import py_compile
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, make_world, site_of


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    made = make_world(index, project, run_mlenv)
    made.sync()
    return made


def _rewrite(path: Path, text: str) -> None:
    """As an editor does it: the file in uv's cache is another one."""
    path.unlink()
    path.write_text(text)


def _truncated(site: Path) -> None:
    _rewrite(site / "sympy" / "__init__.py", "")


def _file_removed(site: Path) -> None:
    (site / "torch" / "version.py").unlink()


def _folder_removed(site: Path) -> None:
    shutil.rmtree(site / "mpmath")


def _script_removed(site: Path) -> None:
    (site.parents[2] / "bin" / "demo").unlink()


def _replaced(site: Path) -> None:
    old = site / "filelock-3.20.0.dist-info"
    metadata = (old / "METADATA").read_text().replace("Version: 3.20.0", "Version: 3.21.0")
    _rewrite(old / "METADATA", metadata)
    record = (old / "RECORD").read_text().replace("filelock-3.20.0", "filelock-3.21.0").replace(",218", ",")
    _rewrite(old / "RECORD", "\n".join(line.split(",")[0] + ",," for line in record.splitlines()) + "\n")
    old.rename(site / "filelock-3.21.0.dist-info")


def _unfinished(site: Path) -> None:
    record = site / "sympy-1.14.0.dist-info" / "RECORD"
    _rewrite(record, record.read_text()[:40])


def _another_build(site: Path) -> None:
    text = (site / "torch" / "version.py").read_text()
    _rewrite(site / "torch" / "version.py", text.replace("2.14.1+cpu", "2.14.1+cu130").replace("= None", "= '13.0'"))


def _added(site: Path) -> None:
    info = site / "stray-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 3.0\n")
    (info / "INSTALLER").write_text("pip")
    names = ("METADATA", "INSTALLER", "RECORD")
    (info / "RECORD").write_text("".join(f"stray-3.0.dist-info/{name},,\n" for name in names))


@pytest.mark.parametrize(
    ("damage", "kind", "told"),
    [
        (_truncated, "file-changed", "sympy 1.14.0: sympy/__init__.py is changed"),
        (_file_removed, "file-missing", "torch 2.14.1+cpu: torch/version.py is missing"),
        (_folder_removed, "environment-drifted", ".venv: site-packages/mpmath was deleted"),
        (_script_removed, "file-missing", "demo-app 1.0: bin/demo is missing"),
        (_replaced, "package-replaced", "filelock is 3.21.0, it should be 3.20.0"),
        (_unfinished, "package-unfinished", "sympy 1.14.0: its RECORD is torn"),
        (_another_build, "torch-build", "torch 2.14.1+cu130 is a CUDA 13.0 build; backend cpu needs a CPU build"),
        (_added, "package-added", "stray 3.0 was not asked for"),
    ],
)
def test_what_is_wrong_is_named(world: World, damage: Callable[[Path], None], kind: str, told: str) -> None:
    damage(world.site)
    document = world.json("check", code=1)
    found = {finding["message"]: finding for finding in document["findings"]}
    assert told in found
    assert found[told]["kind"] == kind
    assert found[told]["hint"] == "run `mlenv check --repair`"
    assert document["whole"] is False


def test_a_whole_environment_is_said_to_be_whole_and_nothing_is_written(world: World) -> None:
    before = {path: path.lstat().st_mtime_ns for path in world.root.rglob("*")}
    asked = len(world.index.requests)
    done = world.run("check")
    assert (done.code, done.out, done.err) == (0, ".venv is whole: 7 packages, backend cpu\n", "")
    assert {path: path.lstat().st_mtime_ns for path in world.root.rglob("*")} == before
    assert len(world.index.requests) == asked


def test_findings_are_listed_with_one_hint_for_all(world: World) -> None:
    _truncated(world.site)
    _file_removed(world.site)
    done = world.run("check", "--color", "never")
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("hint: run `mlenv check --repair`")
    assert done.out.count("hint: ") == 1


def test_a_damage_that_reached_the_cache_is_found_again_and_healed_or_told_how_to_heal(
    world: World, run_uv: RunProgram
) -> None:
    """Installed files are hard links into uv's cache, which uv never looks at again (FACTS, reliability 3)."""
    (world.site / "sympy" / "__init__.py").write_text("")
    _edited(world.site / "demo_app" / "__init__.py", later=100)
    old = world.generation
    done = world.run("sync", "--cpu", "--rebuild", "--offline", env={"PATH": os.defpath})
    assert done.code == 7, done
    told = "the new environment did not pass the gate; the old one still stands: sympy 1.14.0: sympy/__init__.py is"
    assert f"error: {told} changed\n" in done.err
    assert "demo_app/__init__.py is not as its package brought it\n" in done.err
    clean, sync = re.findall("`([^`]*)`", done.err.splitlines()[-1])
    assert sync == "mlenv sync --backend cpu --rebuild"
    assert world.generation == old
    healed = world.sync("--rebuild")
    assert "uv's cache is damaged; it will fetch again: demo-app, sympy" in healed
    assert world.run("check", "--deep").code == 0
    unpacked = world.root.parent / "uv-cache" / "archive-v0"
    for removed in unpacked.glob("*/demo_app/__init__.py"):
        removed.unlink()
    for package in unpacked.glob("*/mpmath"):
        (package / "foreign.py").touch()
    healed = world.sync("--rebuild")
    assert "uv's cache is damaged; it will fetch again: demo-app, mpmath" in healed
    assert world.run("check", "--deep").code == 0
    binary, *words = shlex.split(clean)
    assert (Path(binary).is_absolute(), words) == (True, ["cache", "clean", "demo-app", "sympy"])
    assert run_uv(*words, cwd=world.root).code == 0
    assert "is damaged" not in world.sync("--rebuild")


def _edited(path: Path, *, later: float) -> None:
    """Same size, a time so many seconds later, and through a link that uv's cache shares."""
    status = path.stat()
    text = path.read_text()
    path.write_text(text.replace(text[-2], "#"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + int(later * 1e9)))


def test_an_edit_that_left_no_trace_is_found_by_the_deep_check(world: World) -> None:
    _edited(world.site / "sympy" / "__init__.py", later=0)
    assert world.run("check").code == 0
    (finding,) = world.json("check", "--deep", code=1)["findings"]
    assert (finding["kind"], finding["package"]) == ("file-changed", "sympy")
    assert finding["message"] == "sympy/__init__.py is not as its package brought it"


def test_a_forged_compiled_file_is_found_by_the_deep_check(world: World, tmp_path: Path) -> None:
    assert (
        world.run("run", "--", "python", "-c", "import sympy, demo_app", env={"PYTHONDONTWRITEBYTECODE": None}).code
        == 0
    )
    [compiled] = (world.site / "sympy" / "__pycache__").glob("__init__.*.pyc")
    assert world.run("check", "--deep").code == 0
    (tmp_path / "forged.py").write_text("print('forged')")
    forged = py_compile.compile(str(tmp_path / "forged.py"), doraise=True)
    assert forged is not None
    compiled.write_bytes(compiled.read_bytes()[:16] + Path(forged).read_bytes()[16:])
    (finding,) = world.json("check", "--deep", code=1)["findings"]
    told = f"sympy/__pycache__/{compiled.name} is not what its source compiles to"
    assert (finding["kind"], finding["message"]) == ("file-changed", told)
    assert world.run("check", "--repair").code == 0
    assert world.run("check", "--deep").code == 0


def test_a_whole_environment_needs_no_repair(world: World) -> None:
    before = world.generation
    done = world.run("check", "--repair")
    assert (done.code, done.out) == (0, "nothing to repair: .venv is whole, every file hashed\n")
    assert world.generation == before
    assert "every file hashed" in world.run("check", "--deep").out


@pytest.mark.parametrize("link_mode", ["hardlink", "copy"])
def test_a_repair_builds_anew_and_goes_where_it_was(world: World, link_mode: str) -> None:
    variables = {"UV_LINK_MODE": link_mode}
    world.sync("--rebuild", env=variables)
    for damage in (_truncated, _file_removed, _added):
        damage(world.site)
    _edited(world.site / "mpmath" / "__init__.py", later=0)
    old = world.generation
    done = world.json("check", "--repair", env=variables)
    assert {finding["package"] for finding in done["repaired"] if "package" in finding} == {"sympy", "torch", "mpmath"}
    assert done["fetched_again"] == (["mpmath"] if link_mode == "hardlink" else [])
    assert world.generation != old
    assert world.run("check", "--deep").code == 0
    assert "nothing to do" in world.sync()


def test_a_repair_heals_uvs_cache_where_the_damage_is_there_too(world: World) -> None:
    """Once through a link, once in the cache alone, where files are copied and the environment is whole."""
    _edited(world.site / "sympy" / "__init__.py", later=0)
    offline = world.run("check", "--repair", "--offline")
    assert (offline.code, "uv's cache has the same damage" in offline.err) == (6, True), offline
    assert world.json("check", "--repair")["fetched_again"] == ["sympy"]
    assert world.run("check", "--deep").code == 0
    original = world.site / "mpmath" / "__init__.py"
    _edited(original, later=0)  # in the cache, by its link
    copies = {"UV_LINK_MODE": "copy"}
    done = world.run("check", "--repair", env=copies)
    assert done.code == 0, done
    (world.site / "torch" / "version.py").unlink()
    assert world.run("check", "--repair", env=copies).code == 0
    assert world.run("check", "--deep").code == 0


@pytest.mark.parametrize("name", ["torch/extra.py", "stray.pth", "loose.py", "sympy/_speedups.so"])
def test_code_that_no_package_brought_is_named(world: World, name: str) -> None:
    (world.site / name).write_text("")
    found = {f["message"]: f["kind"] for f in world.json("check", code=1)["findings"]}
    assert found[f"{name} is of no package"] == "file-unowned"


def test_caches_and_data_of_nobody_are_nobodys_business(world: World) -> None:
    (world.site / "torch" / "__pycache__").mkdir()
    (world.site / "torch" / "__pycache__" / "version.cpython-311.pyc").write_text("")
    (world.site / "torch" / "tuned.json").write_text("{}")
    assert world.run("check", "--deep").code == 0


@pytest.mark.parametrize(
    ("text", "told"), [(None, ".venv does not exist"), ("", ".venv is not an environment that mlenv built")]
)
def test_what_is_no_environment_of_mlenvs(world: World, text: str | None, told: str) -> None:
    world.environment.unlink()
    if text is not None:
        world.environment.mkdir()
    done = world.run("check")
    assert (done.code, done.err) == (1, f"error: {told}\nhint: run `mlenv sync`\n")


def test_an_environment_without_site_packages_is_a_finding(world: World) -> None:
    shutil.rmtree(world.generation / "lib")
    done = world.run("check")
    assert done.code == 1, done
    assert "hint: run `mlenv sync" in done.out + done.err


def test_after_a_change_of_the_lock_the_environment_is_still_judged_by_its_own_plan(world: World) -> None:
    world.publish(Package("extra-tool", "1.0"))
    world.require("demo-app", "extra-tool")
    assert world.run("check").code == 0
    assert world.run("sync", "--cpu", "--check").code == 1


def test_hints_say_which_environment_and_with_what_it_was_built(world: World) -> None:
    """Pasted as they are, they must mend the environment that was looked at."""
    world.publish(Package("my-debugger", "1.0"))
    place = world.root.parent / "other place" / ".venv"
    options = ("--env", str(place), "--with", "my-debugger>=0.13")
    quoted = f"--with 'my-debugger>=0.13' --env '{place}'"
    world.sync(*options)
    assert world.run("check", *options[:2]).out.startswith(f"{place} is whole: ")
    _truncated(site_of(place.resolve()))
    done = world.run("check", *options[:2])
    assert done.out.splitlines()[-1] == f"hint: run `mlenv check --repair --env '{place}'`"
    shutil.rmtree(site_of(place.resolve()) / "mpmath")
    done = world.run("sync", "--cpu", "--check", *options)
    assert done.out.splitlines()[0] == f"error: {place}: site-packages/mpmath was deleted"
    assert done.out.splitlines()[-1] == f"hint: run `mlenv sync --backend cpu {quoted}`"
    done = world.run("sync", "--cpu", "--check", *options[:2])
    assert f"{place} was built from other inputs (with my-debugger>=0.13)" in done.out
    (place.resolve() / "pyvenv.cfg").unlink()
    done = world.run("run", *options[:2], "--", "demo")
    assert done.err.splitlines()[-1] == f"hint: run `mlenv sync --env '{place}'`"


@pytest.mark.parametrize("words", [("check",), ("sync", "--cpu", "--check"), ("run",)])
def test_what_is_missing_is_called_as_it_was_asked_for(world: World, words: tuple[str, ...]) -> None:
    command = ("--", "demo") if words == ("run",) else ()
    done = world.run(*words, "--env", "envs/mine", *command)
    said = done.out + done.err
    assert done.code == 1
    assert "error: envs/mine does not exist" in said
    assert "--env envs/mine`" in said
