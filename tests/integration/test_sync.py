"""``mlenv sync`` with the real uv against loopback indexes."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.pylock import Pylock

from support.index import IndexSettings, LoopbackIndex, Status, WrongHash, unreachable_url
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Build, Package, fake_foundation, fake_nccl, fake_torch
from support.world import DEMO, LOCAL_BACKEND, World, indexes_toml, make_world, site_of

ORDINARY = {"filelock": "3.20.0", "mpmath": "1.3.0", "sympy": "1.14.0"}
TAMPERED = {"demo_app/__init__.py": "print('other bytes')\n"}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


# ---------------------------------------------------------------------------------------------------- what is installed


def test_the_environment_is_exactly_foundation_and_lock(world: World) -> None:
    done = world.run("sync", "--cuda13")
    assert done.code == 0, done
    family = {"torch": "2.14.1+cu130", "torchvision": "0.29.1+cu130", "torchaudio": "2.11.0+cu130"}
    companions = {p.name: p.version for p in world.foundations["cu130"].companions}
    assert world.installed == {**family, **companions, **ORDINARY, "demo-app": "1.0"}
    assert "cu130 (the newest CUDA 13 backend of this project" in done.out
    assert "torch        2.14.1+cu130 from the pytorch-cu130 index" in done.out
    assert "packages     8 foundation, 4 application" in done.out
    assert f"source {world.environment}/bin/activate" in done.out
    record = Pylock.from_dict(_toml(world.generation / "pylock.cu130.toml"))
    assert {str(package.name) for package in record.packages} == {*family, *companions}
    assert all(wheel.hashes["sha256"] for package in record.packages for wheel in package.wheels or ())
    plan = Pylock.from_dict(_toml(world.generation / "pylock.plan.toml"))
    assert {str(package.name) for package in plan.packages} == set(world.installed)
    assert world.run("check").code == 0


def _toml(path: Path) -> dict[str, object]:
    import tomllib

    return tomllib.loads(path.read_text())


def test_unchanged_inputs_start_nothing_and_ask_nobody(world: World) -> None:
    world.sync()
    before, asked = world.manifest, len(world.index.requests)
    broken = Path(__file__).parents[1] / "support"  # a folder without any program
    shutil.rmtree(world.root.parent / "uv-cache")
    probe = (
        "import sys\n"
        "from mlenv.system import process\n"
        "def refuse(*args, **kwargs): raise SystemExit(f'started {args}')\n"
        "process.run = process.call = process.subprocess.Popen = refuse\n"
        "from mlenv import cli\n"
        "sys.argv = ['mlenv', 'sync', '--cpu']\n"
        "cli.main()\n"
    )
    done = _python(world, "-c", probe, path=str(broken))
    assert (done[0], done[1]) == (0, "nothing to do: .venv is in sync (cpu)\n"), done
    assert world.manifest == before
    assert len(world.index.requests) == asked


def _python(world: World, *args: str, path: str) -> tuple[int, str, str]:
    import os
    import subprocess

    variables = {name: value for name, value in world.variables.items() if value is not None}
    env = {**os.environ, **variables, "PATH": path, "HOME": str(world.home)}
    done = subprocess.run([sys.executable, *args], cwd=world.root, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_another_backend_and_back_is_a_flip(world: World) -> None:
    world.sync()
    first = world.generation
    world.sync("--cuda13")
    second = world.generation
    asked = len(world.index.requests)
    assert world.json("sync", "--cpu")["action"] == "flipped"
    assert world.generation == first
    assert world.json("sync", "--backend", "cu130")["action"] == "flipped"
    assert world.generation == second
    assert len(world.index.requests) == asked


@pytest.mark.parametrize(
    ("setting", "words", "backend", "why"),
    [
        ("", [], "cpu", "no NVIDIA GPU"),
        ('backend = "cu130"', [], "cu130", "the setting says so"),
    ],
)
def test_the_backend_is_the_flags_else_the_settings_else_detected(
    world: World, setting: str, words: list[str], backend: str, why: str
) -> None:
    if setting:
        world.configure(setting + "\n")
    done = world.run("sync", "--dry-run", *words)
    assert done.code == 0, done
    assert f"would build .venv for {backend}:" in done.out
    assert why in done.out


@pytest.mark.parametrize(
    ("words", "env", "code", "told"),
    [
        ([], {"CI": "1"}, 2, "a backend is not guessed here"),
        (["--cuda12"], {}, 3, "CUDA 12"),
        (["--backend", "cu118"], {}, 3, "no backend cu118"),
        (["--cpu", "--backend", "cu130"], {}, 2, "both choose a backend"),
        (["--cpu", "--with", "not a requirement"], {}, 2, "is not a requirement"),
        (["--cpu", "--env", "."], {}, 2, "can't be an environment"),
        (["--cpu", "--env", ".mlenv/gen/mine"], {}, 2, "can't be an environment"),
    ],
)
def test_wrong_usage_changes_nothing(
    world: World, words: list[str], env: dict[str, str | None], code: int, told: str
) -> None:
    done = world.run("sync", *words, env=env)
    assert (done.code, world.environment.exists()) == (code, False), done
    assert told in done.err
    assert "hint: " in done.err


# ------------------------------------------------------------------------------------------------------------- the lock


def test_a_missing_lock_is_made(world: World) -> None:
    text = (world.root / "requirements.txt").read_text()
    (world.root / "requirements.txt").unlink()
    assert "there is no requirements.txt yet; making it" in world.sync()
    assert (world.root / "requirements.txt").read_text() == text


@pytest.mark.parametrize(("words", "env"), [(["--locked"], {}), ([], {"CI": "true"})])
def test_a_missing_lock_is_refused_where_nothing_may_write_one(
    world: World, words: list[str], env: dict[str, str | None]
) -> None:
    (world.root / "requirements.txt").unlink()
    done = world.run("sync", "--cpu", *words, env=env)
    assert done.code == 1
    assert "requirements.txt is missing" in done.err
    assert "hint: run `mlenv lock`" in done.err
    assert not (world.root / "requirements.txt").exists()


def test_a_stale_lock_is_refused_with_reason_and_command(world: World) -> None:
    world.sync()
    before = world.generation
    (world.root / "requirements.in").write_text("demo-app>=1\nmpmath\n")
    done = world.run("sync", "--cpu")
    assert done.code == 1
    assert "requirements.in was changed since the lock was made" in done.err
    assert "hint: run `mlenv lock`" in done.err
    assert world.generation == before


# ------------------------------------------------------------------------------------------ changed behind mlenv's back


def test_what_uv_installed_through_the_link_is_named_and_gone(world: World, run_uv: RunProgram) -> None:
    world.sync()
    first = world.generation
    world.publish(Package("stray", "3.0"))
    python = world.environment / "bin" / "python"
    words = ("--python", python, "--index-url", world.index.url("pypi"))
    assert run_uv("pip", "install", *words, "stray", "mpmath==1.3.0", cwd=world.root).code == 0
    assert run_uv("pip", "uninstall", "--python", python, "filelock", cwd=world.root).code == 0
    check = world.run("sync", "--cpu", "--check")
    assert check.code == 1
    assert {".venv: stray 3.0 was installed", ".venv: filelock 3.20.0 was removed"} <= _messages(check.out)
    said = world.sync()
    assert "changed behind mlenv's back" in said
    assert "  stray 3.0 was installed" in said
    assert "  filelock 3.20.0 was removed" in said
    assert world.generation != first
    assert world.installed == {**_cpu(world), **ORDINARY, "demo-app": "1.0"}


def _messages(out: str) -> set[str]:
    return {line.removeprefix("error: ") for line in out.splitlines()}


def _cpu(world: World) -> dict[str, str]:
    return {package.name: package.version for package in world.foundations["cpu"].family}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("demo_app", "site-packages/demo_app was deleted"),
        ("demo_app-1.0.dist-info", "demo-app 1.0 was removed"),
        ("../../../pyvenv.cfg", "pyvenv.cfg was deleted"),
    ],
)
def test_what_was_deleted_is_named_and_rebuilt(world: World, damage: str, told: str) -> None:
    world.sync()
    path = world.site / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"  {told}\n" in world.sync()
    assert world.run("check").code == 0


def test_a_changed_generation_is_not_flipped_to(world: World) -> None:
    world.sync()
    shutil.rmtree(world.site / "demo_app")
    world.sync("--cuda13")
    assert "site-packages/demo_app was deleted" in world.sync()
    assert world.run("check").code == 0


def test_a_project_that_was_moved_is_rebuilt(world: World) -> None:
    """Scripts and activate name the folder they were built in."""
    world.sync()
    moved = replace(world, root=world.root.with_name("moved"))
    world.root.rename(moved.root)
    assert f"  it was built at {world.root}/.mlenv/gen/" in moved.sync()
    assert str(moved.root) in (moved.environment / "bin" / "activate").read_text()


# ---------------------------------------------------------------------------------------------------------------- trust


def test_a_file_that_was_replaced_on_the_index_is_refused(world: World) -> None:
    """Its page tells the new hash, the lock the old one."""
    world.sync()
    before = world.generation
    world.index.add("pypi", replace(DEMO, files=TAMPERED))
    shutil.rmtree(world.root.parent / "uv-cache")
    shutil.rmtree(world.generation / "lib")  # so that something is to be built
    done = world.run("sync", "--cpu", "--rebuild")
    assert done.code == 7, done
    assert "demo-app" in done.err
    assert world.generation == before
    assert world.generations == [before.name]


def test_bytes_that_differ_from_the_listed_hash_are_refused(world: World) -> None:
    world.index.fail("pytorch-cpu", WrongHash(), package="torch")
    done = world.run("sync", "--cpu")
    assert done.code == 7, done
    assert "torch" in done.err
    assert not world.environment.exists()
    assert world.generations == []


def test_nothing_shadows_a_package_of_another_index(world: World) -> None:
    """Both indexes offer everything, newer or the same: torch is the backend's, a company's package the company's."""
    company = Package("company-tool", "1.0")
    world.publish(company, index="company")
    world.configure('[tool.mlenv.index]\n"company-*" = "company"\n')
    text = indexes_toml(world.index, "cpu", "cu130")
    text += f'\n[[index]]\nname = "company"\nurl = "{world.index.url("company")}"\nexplicit = true\n'
    (world.root / "uv.toml").write_text(text)
    evil = {"evil.py": "raise SystemExit('shadowed')\n"}
    shadows = [Package("torch", "2.14.1", files=evil), Package("torch", "99.0", files=evil)]
    shadows += [Package("company-tool", "9.0", files=evil), Package("torchvision", "0.29.1+cpu", files=evil)]
    world.publish(*shadows)
    world.publish(Package("sympy", "9.9", files=evil), Package("mpmath", "9.9", files=evil), index="pytorch-cpu")
    world.publish(Package("demo-app", "9.9", files=evil), index="company")
    world.require("demo-app", "company-tool")
    world.index.requests.clear()
    world.sync()
    assert world.installed == {**_cpu(world), **ORDINARY, "demo-app": "1.0", "company-tool": "1.0"}
    paths = {request.path for request in world.index.requests}
    family = ("torch", "torchvision", "torchaudio")
    assert not any(
        f"/pypi/simple/{name}/" in path or f"/pypi/files/{name}-" in path for path in paths for name in family
    )
    assert not any("/pypi/" in path and "company" in path for path in paths)
    foreign = [path for path in paths if path.startswith("/pytorch-cpu/") and not any(name in path for name in family)]
    assert foreign == []
    assert all("company_tool" in path or "company-tool" in path for path in paths if path.startswith("/company/"))


def test_the_next_source_serves_the_whole_foundation(world: World) -> None:
    equal = fake_foundation("cu130", source="default")
    world.publish(*equal.family)
    world.index.fail("pypi", Status(503), package="torchvision")
    said = world.sync("--cuda13")
    assert "the whole foundation comes from pytorch-cu130, as default can't serve it" in said
    family = [world.installed[name] for name in ("torch", "torchvision", "torchaudio")]
    assert family == ["2.14.1+cu130", "0.29.1+cu130", "2.11.0+cu130"]


@pytest.mark.parametrize("sources", [["default", "pytorch-cu130"], ["pytorch-cu130", "default"]])
def test_a_hiccup_of_the_default_index_is_waited_out_although_another_source_is_at_hand(
    world: World, sources: list[str]
) -> None:
    world.configure(f"[tool.mlenv.backends.cu130]\nsources = {json.dumps(sources)}\n")
    world.lock()
    world.index.fail("pypi", Status(503), package="demo-app", part="page", times=1)
    world.sync("--cuda13", env={"UV_HTTP_RETRIES": None})
    assert world.installed["torch"] == "2.14.1+cu130"


def test_the_default_index_alone_is_enough_where_its_torch_is_that_build(world: World) -> None:
    equal = fake_foundation("cu130", source="default")
    world.publish(*equal.family)
    dead = unreachable_url()
    env = {"MLENV_INDEX_URL_PYTORCH_CU130": dead, "MLENV_INDEX_URL_PYTORCH_CPU": dead}
    said = world.sync("--cuda13", env=env)
    assert "from the default index" in said
    assert world.installed["torch"] == "2.14.1"


def test_a_broken_default_index_is_not_called_pytorchs(world: World) -> None:
    world.index.fail("pypi", Status(500), package="torch")
    world.index.fail("pytorch-cu130", Status(404))
    done = world.run("sync", "--cuda13", env={"UV_HTTP_RETRIES": "0"})
    assert done.code == 6, done
    assert "MLENV_INDEX_URL_DEFAULT=<URL>" in done.err


SECRET = "s3cret-t0ken"


def test_a_mirrors_credentials_are_used_and_never_told(world: World) -> None:
    for name in ("pytorch-cpu", "pypi"):
        world.index.configure(name, IndexSettings(credentials=("user", SECRET)))

    def mirror(name: str) -> str:
        return world.index.url(name).replace("http://", f"http://user:{SECRET}@")

    env = {"MLENV_INDEX_URL_PYTORCH_CPU": mirror("pytorch-cpu"), "UV_DEFAULT_INDEX": mirror("pypi")}
    argv = _spy_on_arguments(world)
    said = world.sync("-v", env={**env, **argv})
    assert world.installed["torch"] == "2.14.1+cpu"
    done = world.run("sync", "--cpu", "--rebuild", "--json", env=env)
    assert done.code == 0, done
    export = world.run("export", "--format", "pylock.toml", "--cpu", env=env)
    assert export.code == 0, export
    told = [said, done.out, done.err, export.out, export.err, (world.root / "requirements.txt").read_text()]
    kept = [path.read_text(errors="replace") for path in (world.root / ".mlenv").rglob("*") if path.is_file()]
    assert [text for text in (*told, *kept) if SECRET in text] == []
    assert (world.root / "argv.log").read_text().count("mlenv") > 0
    assert SECRET not in (world.root / "argv.log").read_text()


def _spy_on_arguments(world: World) -> dict[str, str | None]:
    """Every process of Python's is asked what it starts, through an audit hook."""
    folder = world.root.parent / "spy"
    folder.mkdir()
    hook = (
        "import sys\n"
        f"def hook(event, args, log={str(world.root / 'argv.log')!r}):\n"
        "    if event == 'subprocess.Popen':\n"
        "        open(log, 'a').write('mlenv ' + repr(args[1]) + chr(10))\n"
        "sys.addaudithook(hook)\n"
    )
    (folder / "sitecustomize.py").write_text(hook)
    return {"PYTHONPATH": str(folder)}


def test_wrong_credentials_are_not_told_either(world: World) -> None:
    world.index.configure("pytorch-cpu", IndexSettings(credentials=("user", "other")))
    url = world.index.url("pytorch-cpu").replace("http://", f"http://user:{SECRET}@")
    done = world.run("sync", "--cpu", "-vv", env={"MLENV_INDEX_URL_PYTORCH_CPU": url})
    assert done.code == 6, done
    assert SECRET not in done.out + done.err


def test_a_mirror_that_took_another_place_is_used_for_a_rebuild(world: World) -> None:
    """The plan that was kept names the old one's URLs."""
    world.sync()
    world.publish(*world.foundations["cpu"].family, index="mirror")
    world.index.fail("pytorch-cpu", Status(503))
    shutil.rmtree(world.root.parent / "uv-cache")
    env: dict[str, str | None] = {"MLENV_INDEX_URL_PYTORCH_CPU": world.index.url("mirror")}
    assert "the plan of the last build can't be had any more" in world.sync("--rebuild", env=env)
    assert world.index.count("/mirror/files/torch-") > 0


# -------------------------------------------------------------------------------------------------------------- options


def test_personal_additions_are_in_this_environment_only(world: World) -> None:
    lock = (world.root / "requirements.txt").read_text()
    world.publish(Package("my-debugger", "0.13", requires=("my-colours",)), Package("my-colours", "2.0"))
    world.sync("--with", "my-debugger>=0.13")
    assert world.installed == {**_cpu(world), **ORDINARY, "demo-app": "1.0", "my-debugger": "0.13", "my-colours": "2.0"}
    assert (world.root / "requirements.txt").read_text() == lock
    assert world.run("check").code == 0
    world.sync()
    assert "my-debugger" not in world.installed


def test_dry_run_and_check_write_nothing(world: World) -> None:
    before = _tree(world.root)
    plan = world.run("sync", "--cpu", "--dry-run")
    assert plan.code == 0
    assert "would build .venv for cpu: 7 packages" in plan.out
    assert "+ torch 2.14.1+cpu" in plan.out
    check = world.run("sync", "--cpu", "--check")
    assert (check.code, "error: .venv does not exist" in check.out) == (1, True), check
    assert "hint: run `mlenv sync --backend cpu`" in check.out
    assert _tree(world.root) == before


def test_dry_run_and_check_of_a_finished_environment(world: World) -> None:
    world.sync()
    before = _tree(world.root)
    assert "nothing to do" in world.run("sync", "--cpu", "--dry-run").out
    assert world.json("sync", "--cpu", "--check")["in_sync"] is True
    other = world.run("sync", "--cuda13", "--check")
    assert other.code == 1
    assert (
        ".venv was built from other inputs (backend cpu); cu130 is what it should be: the newest CUDA 13" in other.out
    )
    assert "or check what is there: `mlenv sync --check --backend cpu`" in other.out
    difference = world.run("sync", "--cuda13", "--dry-run").out
    assert "~ torch 2.14.1+cpu → 2.14.1+cu130" in difference
    assert "+ triton 3.8.0" in difference
    assert _tree(world.root) == before
    overlay = world.root / "constraints/cpu.txt"
    overlay.write_text(overlay.read_text() + "numpy<9\n")
    world.lock()
    assert "other inputs (constraints/cpu.txt)" in world.run("sync", "--cpu", "--check").out


def _tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in root.rglob("*") if path != root}


def test_rebuild_makes_a_new_generation_from_the_cache(world: World) -> None:
    world.sync()
    first, files = world.generation, world.index.count("/files/")
    world.sync("--rebuild")
    assert world.generation != first
    assert world.index.count("/files/") == files


def test_offline_works_with_a_warm_cache_and_says_so_with_a_cold_one(world: World) -> None:
    cold = world.run("sync", "--cpu", "--offline")
    assert cold.code == 6, cold
    assert "the network is switched off" in cold.err
    assert world.index.count("/files/") == 0 or not world.environment.exists()
    world.sync()
    asked = len(world.index.requests)
    world.sync("--offline", "--rebuild")
    shutil.rmtree(world.root / ".mlenv")
    world.environment.unlink()
    world.sync("--offline")
    assert len(world.index.requests) == asked


def test_another_path_for_the_environment(world: World, tmp_path: Path) -> None:
    path = tmp_path / "else where" / "env"
    said = world.sync("--env", path)
    assert f"source '{path}/bin/activate'" in said
    assert path.resolve().parent == world.root / ".mlenv" / "gen"
    assert not world.environment.exists()
    assert world.run("check", "--env", path).code == 0
    done = world.run("run", "--env", path, "--", "demo")
    assert done.code == 0, done


def test_a_python_that_the_lock_is_not_made_for(world: World, private_python: Path) -> None:
    done = world.run("sync", "--cpu", "--python", "3.9")
    assert done.code == 3
    assert (
        f"the lock is made for Python {sys.version_info[0]}.{sys.version_info[1]}; Python 3.9 was asked for" in done.err
    )
    assert 'hint: make it for the other: [tool.mlenv] python = "3.9", then `mlenv lock`' in done.err
    missing = world.run("sync", "--cpu", "--python", "/nowhere/python")
    assert (missing.code, "there is no Python at /nowhere/python" in missing.err) == (3, True)
    world.sync("--python", private_python)
    assert f"home = {private_python.parent}" in (world.environment / "pyvenv.cfg").read_text()
    world.sync()
    assert f"home = {private_python.parent}" not in (world.environment / "pyvenv.cfg").read_text()


# -------------------------------------------------------------------------------------- local projects, source archives


LOCAL = """
    [build-system]
    requires = []
    build-backend = "build_backend"
    backend-path = ["."]

    [project]
    name = "my-library"
    version = "0.1"
    dependencies = ["mpmath"]
"""


def test_a_local_project_is_installed_editable_after_the_rest(world: World) -> None:
    folder = world.root / "libs" / "mine"
    (folder / "src").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("\n".join(line.strip() for line in LOCAL.splitlines()))
    (folder / "build_backend.py").write_text(LOCAL_BACKEND)
    (folder / "src" / "my_library.py").write_text("HERE = 'first'\n")
    world.require("demo-app", "-e ./libs/mine")
    assert "my-library" not in (world.root / "requirements.txt").read_text().split("# inputs")[-1].split("# via")[0]
    world.sync()
    show = ("run", "--", "python", "-c", "import my_library; print(my_library.HERE)")
    assert world.run(*show).out == "first\n"
    (folder / "src" / "my_library.py").write_text("HERE = 'edited'\n")
    assert world.run(*show).out == "edited\n"
    assert world.run("check").code == 0
    assert "nothing to do" in world.sync()


def test_a_source_distribution_is_built_only_where_it_is_named(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    world.publish(Package("only-source", "1.0", kind="sdist", build=Build(marker=marker)))
    (world.root / "requirements.in").write_text("demo-app\nonly-source\n")
    refused = world.run("sync", "--cpu", "--with", "only-source")
    assert refused.code == 1
    (world.root / "requirements.in").write_text("demo-app\n")
    refused = world.run("sync", "--cpu", "--with", "only-source")
    assert refused.code == 5, refused
    assert '[tool.mlenv] build = ["only-source"]' in refused.err
    assert not marker.exists()
    world.configure('build = ["only-source"]\n')
    world.require("demo-app", "only-source")
    marker.unlink(missing_ok=True)
    world.sync()
    assert world.installed["only-source"] == "1.0"
    assert marker.exists()


# ------------------------------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("torch/__init__.py", "evil and torch both own torch/__init__.py"),
        ("evil-1.0.data/data/pyvenv.cfg", "evil wrote over pyvenv.cfg"),
    ],
)
def test_a_wheel_that_writes_over_what_is_not_its_own_fails_the_gate(world: World, path: str, told: str) -> None:
    world.sync()
    before = world.generation
    world.publish(Package("evil", "1.0", files={path: "#!/bin/sh\nraise SystemExit('evil')\n"}))
    world.require("demo-app", "evil")
    done = world.run("sync", "--cpu")
    assert done.code == 1, done
    assert "did not pass the gate; the old one still stands" in done.err
    assert told in done.err
    assert (world.generation, world.generations) == (before, [before.name])
    assert world.run("run", "--", "demo").out == "demo-app 1.0\n"


def test_a_cpu_torch_where_cuda_was_asked_for_fails_the_gate(world: World) -> None:
    wrong = fake_torch("2.14.1+cu130", cuda=None, build="2.14.1+cpu", requires=("filelock", "sympy"))
    world.index.add("pytorch-cu130", wrong)
    done = world.run("sync", "--cuda13")
    assert done.code == 1, done
    told = "torch 2.14.1+cpu is a CPU build; backend cu130 needs a CUDA 13.0 build"
    assert f"the new environment did not pass the gate: {told}" in done.err
    assert "hint: `mlenv sync --backend cu130 --rebuild` builds it anew" in done.err
    assert not world.environment.exists()


def test_two_cuda_families_are_refused_before_anything_is_installed(world: World) -> None:
    world.publish(fake_nccl("cu12"), Package("boosting", "1.0", requires=("nvidia-nccl-cu12",)))
    done = world.run("sync", "--cuda13", "--with", "boosting")
    assert done.code == 1, done
    assert "nvidia-nccl-cu12 and nvidia-nccl-cu13 are two CUDA families" in done.err
    assert world.generations == []


def test_what_would_overwrite_the_foundation_is_refused_before_it_is_fetched(world: World) -> None:
    own = {"nvidia/cu13/lib/libcublas.so.13": "other bytes\n", "nvidia/cu13/own.h": ""}
    world.publish(Package("nvidia-tweaks", "1.0", files=own))
    world.publish(Package("tweaked", "1.0", requires=("nvidia-tweaks",)))
    whole = [request for request in world.index.requests if request.path.endswith(".whl")]
    asked = ("sync", "--cuda13", "--with", "tweaked", "--verify", "metadata")
    for words in (asked, (*asked, "--dry-run")):
        done = world.run(*words)
        assert done.code == 5, done
        assert "nvidia-cublas 13.0.1.1 and nvidia-tweaks 1.0: nvidia/cu13/lib/libcublas.so.13\n" in done.err
    assert world.generations == []
    fetched = [request for request in world.index.requests if request.path.endswith(".whl") and not request.range]
    assert fetched == whole
    shutil.rmtree(world.home / "cache")
    world.index.configure("pypi", IndexSettings(ranges=False))
    done = world.run(*asked, "-v")
    assert done.code == 1, done  # the gate
    assert "nvidia-cublas and nvidia-tweaks both own" in done.err
    assert "the files of nvidia-tweaks are not known before it is installed" in done.err
    assert world.run("sync", "--cuda13", "--with", "tweaked", "--verify", "none").code == 0


def test_a_root_that_does_not_import_fails_the_gate(world: World) -> None:
    torch = world.foundations["cpu"].family[0]
    files = {**(torch.files or {}), "torch/__init__.py": "import missing_library\n"}
    world.index.add("pytorch-cpu", replace(torch, files=files))
    done = world.run("sync", "--cpu", "--verify", "import")
    assert done.code == 1, done
    assert "torch: ModuleNotFoundError: No module named 'missing_library'" in done.err
    assert world.generations == []


def test_what_was_built_without_a_gate_is_built_again_for_who_wants_one(world: World) -> None:
    world.sync("--verify", "none")
    ungated = world.generation
    assert "nothing to do" in world.sync("--verify", "none")
    world.sync()
    assert world.generation != ungated


def test_a_wheel_whose_record_keeps_quiet_about_a_file_is_found_out(world: World) -> None:
    """uv completes the RECORD when it installs."""
    evil = Package("evil", "1.0", files={"evil.py": "", "torch/__init__.py": "evil = True\n"})
    evil.__dict__["data"] = _without_row(evil.data, "torch/")
    world.publish(evil)
    world.require("demo-app", "evil")
    done = world.run("sync", "--cpu")
    assert (done.code, "evil and torch both own torch/__init__.py" in done.err) == (1, True), done


def _without_row(wheel: bytes, start: str) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(wheel)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            lines = source.read(name).splitlines(keepends=True)
            kept = [line for line in lines if not (name.endswith("/RECORD") and line.startswith(start.encode()))]
            archive.writestr(name, b"".join(kept))
    return target.getvalue()


def test_a_folder_with_spaces_and_letters_of_other_scripts(world: World) -> None:
    moved = replace(world, root=world.root.with_name("my prøject 計算"))
    world.root.rename(moved.root)
    moved.sync()
    assert moved.run("run", "--", "demo").out == "demo-app 1.0\n"
    assert moved.run("check").code == 0


def test_json_says_what_was_done(world: World) -> None:
    told = world.json("sync", "--cpu", "--verify", "metadata")
    assert told["action"] == "built"
    assert told["packages"] == {"foundation": 3, "application": 4}
    assert (told["backend"], told["torch"], told["source"]) == ("cpu", "2.14.1+cpu", "pytorch-cpu")
    assert Path(told["generation"]) == world.generation
    assert json.loads((site_of(world.generation).parents[2] / "mlenv.json").read_text())["key"].startswith("sha256:")


def test_the_gpu_level_is_refused_before_anything_is_built_where_no_gpu_is_visible(world: World) -> None:
    done = world.run("sync", "--cuda13", "--verify", "gpu", env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert (done.code, "hint: --verify import" in done.err) == (2, True), done
    assert not world.environment.exists()
