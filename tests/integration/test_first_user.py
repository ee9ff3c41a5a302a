"""What the first user of mlenv broke, each as it was found; see the README for what they were promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, make_world, site_of


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


def rewrite(path: Path, data: bytes) -> None:
    """As an editor does it, so that uv's cache keeps its own file."""
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", [".", "code", "requirements.in"])
def test_an_environment_never_takes_the_place_of_something_else(world: World, name: str) -> None:
    (world.root / "code").mkdir()
    (world.root / "code/main.py").write_text("precious\n")
    done = world.run("sync", "--cpu", "--env", name)
    assert done.code == 2, done
    assert (world.root / "code/main.py").read_text() == "precious\n"
    assert not (world.root / "code").is_symlink()


def test_a_direct_requirement_of_the_foundation_is_installed(world: World) -> None:
    for name in ("pytorch-cpu", "pytorch-cu130"):
        world.publish(Package("torchcodec", "0.17.0"), index=name)
    world.require("demo-app", "torchcodec>=0.1")
    world.sync()
    assert (site_of(world.root / ".venv") / "torchcodec").is_dir()
    assert "torchcodec==" not in (world.root / "requirements.txt").read_text()


def test_a_damaged_generation_does_not_come_back(world: World) -> None:
    world.sync()
    damaged = (world.root / ".venv").resolve()
    module = site_of(damaged) / "sympy" / "__init__.py"
    rewrite(module, b"raise SystemExit('DAMAGED')\n")
    world.sync("--rebuild")
    (site_of(world.root / ".venv") / "intruder").mkdir()
    world.sync()
    assert (world.root / ".venv").resolve() != damaged
    assert world.run("run", "--", "python", "-c", "import sympy").code == 0


def test_an_edit_that_keeps_the_size_is_found(world: World) -> None:
    world.sync()
    module = site_of(world.root / ".venv") / "sympy" / "__init__.py"
    rewrite(module, module.read_bytes()[:-1] + b" ")
    findings = world.json("check", code=1)["findings"]
    assert [finding["kind"] for finding in findings] == ["file-changed"]
    assert "mlenv check --repair" in findings[0]["hint"]


def test_an_environment_whose_python_is_gone_is_rebuilt(world: World) -> None:
    world.sync()
    python = world.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/opt/gone/python3")
    assert world.run("sync", "--cpu", "--check").code == 1
    assert "its Python is gone" in world.sync()
    assert world.run("run", "--", "python", "-c", "pass").code == 0


def test_the_hashes_of_an_edited_lock_are_not_believed(world: World) -> None:
    world.publish(Package("mpmath", "1.2.0"))
    world.lock()
    lock = world.root / "requirements.txt"
    text = lock.read_text()
    assert "mpmath==1.3.0" in text
    lock.write_text(text.replace("mpmath==1.3.0", "mpmath==1.2.0"))
    assert world.run("lock").code == 0
    assert Package("mpmath", "1.2.0").sha256 in lock.read_text()
    world.sync()


def test_a_lock_of_a_newer_mlenv_is_not_written_over(world: World) -> None:
    world.lock()
    lock = world.root / "requirements.txt"
    newer = lock.read_text().replace("# mlenv scheme: 1", "# mlenv scheme: 99")
    lock.write_text(newer)
    done = world.run("lock")
    assert (done.code, lock.read_text()) == (1, newer)
    assert "hint: upgrade mlenv" in done.err


def test_two_flags_that_choose_a_backend_contradict(world: World) -> None:
    done = world.run("sync", "--cpu", "--cuda13")
    assert (done.code, done.err.splitlines()[0]) == (2, "error: --cpu and --cuda13 each choose a backend")


def test_options_of_every_command_stand_before_it_too(world: World, tmp_path: Path) -> None:
    world.lock()
    done = world.program("--project", world.root, "lock", "--check", cwd=tmp_path, env=world.variables)
    assert done.code == 0, done


def test_an_overlay_without_a_root_is_told(world: World) -> None:
    (world.root / "constraints/empty.txt").write_text("# nothing\n")
    done = world.run("lock")
    assert "constraints/empty.txt pins no root" in done.err


def test_ci_set_to_false_is_no_ci(world: World) -> None:
    done = world.run("sync", "--verify", "metadata", env={"CI": "false"})
    assert done.code == 0, done


def company(world: World, *packages: Package) -> None:
    """An index of the project's own for company-*."""
    table = f'\n[[index]]\nname = "company"\nurl = "{world.index.url("company")}"\nexplicit = true\n'
    (world.root / "uv.toml").write_text((world.root / "uv.toml").read_text() + table)
    (world.root / "pyproject.toml").write_text('[tool.mlenv.index]\n"company-*" = "company"\n')
    world.publish(*packages, index="company")


def test_a_shadow_of_a_transitive_company_package_hinders_nothing(world: World) -> None:
    """The name is met first on the default index, whose release does not fit; it was never that index's to say."""
    lib = Package("company-lib", "1.0", requires=("company-base<2",))
    company(world, lib, Package("company-base", "1.0"))
    world.publish(Package("company-base", "9.0"))
    world.require("demo-app", "company-lib")
    assert "company-base==1.0" in (world.root / "requirements.txt").read_text()


def test_a_root_is_imported_under_the_name_it_brings(world: World) -> None:
    kernels = Package("my-kernels", "1.0", files={"kernels_of_mine/__init__.py": ""})
    world.publish(kernels)
    for backend in ("cpu", "cu130"):
        overlay = world.root / f"constraints/{backend}.txt"
        overlay.write_text(overlay.read_text() + "my-kernels==1.0\n")
    (world.root / "pyproject.toml").write_text('[tool.mlenv.foundation]\nroots = ["my-kernels"]\n')
    world.lock()
    done = world.run("sync", "--cpu", "--verify", "import")
    assert done.code == 0, done


def test_a_wheel_url_passes_the_gate(world: World) -> None:
    wheel = Package("by-url", "1.5")
    world.index.add("files", wheel)
    url = world.index.file_url("files", wheel)
    world.require("demo-app", f"by-url @ {url}#sha256={wheel.sha256}")
    world.sync()
    assert (site_of(world.root / ".venv") / "by_url").is_dir()


def test_a_default_index_that_has_none_of_the_foundation_leaves_it_to_its_own_index(world: World) -> None:
    """For torch 2.14.1 the default index is as good as pytorch-cu130; this one has nothing that it is asked for."""
    world.index.remove("pypi", "demo-app")
    (world.root / "requirements.in").write_text("torch>=2\n")
    done = world.run("lock")
    assert done.code == 0, done


def test_a_typo_in_pyproject_is_no_wrong_address(world: World) -> None:
    """The keys of a pyproject.toml are no package names, and demo-app is there."""
    text = '[project]\nname = "mine"\nversion = "1"\ndependencies = ["demo-app", "nope-typo"]\n'
    (world.root / "pyproject.toml").write_text(text + '[tool.mlenv]\nrequirements = ["pyproject.toml"]\n')
    done = world.run("lock")
    assert (done.code, "nope-typo" in done.err) == (5, True), done


def test_init_tells_what_replaces_a_refused_line(world: World) -> None:
    (world.root / "requirements.in").write_text("--no-binary demo-app\n")
    assert 'instead: delete the line; name what may be built: [tool.mlenv] build = ["NAME"]' in world.run("init").out


# --- what the second one broke ---------------------------------------------------------------------------------------


def test_bounds_of_two_files_are_both_named_with_their_lines(world: World) -> None:
    world.publish(Package("net", "2.0", requires=("sockets",)), Package("sockets", "2.2"), Package("sockets", "2.5"))
    (world.root / "requirements.in").write_text("-r more.in\n-c limits.txt\n")
    (world.root / "more.in").write_text("# the rest\nnet\n")
    (world.root / "limits.txt").write_text("sockets<2.3\n")
    overlay = world.root / "constraints/cpu.txt"
    overlay.write_text(overlay.read_text() + "sockets==2.5\n")
    said = world.run("lock", "--backend", "cpu").err
    assert "limits.txt:1 allows sockets<2.3, and constraints/cpu.txt:4 allows sockets==2.5" in said


def test_an_unknown_name_in_an_included_file_is_told_with_that_file(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\n-r base.in\n")
    (world.root / "base.in").write_text("# a comment\nnosuch-abc>=1\n")
    assert "base.in:2 requires nosuch-abc>=1" in world.run("lock").err


def test_overlays_that_contradict_each_other_are_told_first(world: World) -> None:
    for backend, version in (("cpu", "1.13.3"), ("cu130", "1.14.0")):
        overlay = world.root / f"constraints/{backend}.txt"
        overlay.write_text(overlay.read_text() + f"sympy=={version}\n")
    done = world.run("lock")
    told = "constraints/cpu.txt:4 wants sympy==1.13.3, and constraints/cu130.txt:4 sympy==1.14.0"
    assert (done.code, told in done.err) == (5, True), done


def test_an_upgrade_that_nobody_has_is_blamed_on_the_command_line(world: World) -> None:
    done = world.run("lock", "-P", "demo-app==99")
    assert (done.code, "-P asks for demo-app==99" in done.err) == (5, True), done


def test_a_backend_that_was_left_out_is_not_gone(world: World) -> None:
    world.configure('unproven = ["cpu"]\n')
    said = world.run("lock", "--check").out
    assert "constraints/cpu.txt counts no more for this lock, by the settings or the command line" in said


def test_leaving_all_backends_out_is_told_as_such(world: World) -> None:
    world.configure('unproven = ["cpu", "cu130"]\n')
    done = world.run("lock")
    assert (done.code, "unproven leaves no backend" in done.err) == (3, True), done


def test_a_bound_on_upload_times_makes_the_lock_stale(world: World) -> None:
    assert world.run("lock", "--check").code == 0
    config = world.root / "uv.toml"
    config.write_text('exclude-newer = "2026-11-01T00:00:00Z"\n' + config.read_text())
    done = world.run("lock", "--check")
    assert (done.code, "the settings that shape the lock were changed" in done.out) == (1, True), done


def test_what_uv_is_not_handed_is_told_once(world: World) -> None:
    """As an error it would break whoever uses uv beside mlenv."""
    file = world.root / "uv.toml"
    file.write_text('prerelease = "allow"\n' + file.read_text() + "\n[pip]\nno-deps = true\n")
    (world.root / "requirements.txt").unlink()
    said = world.sync()
    line = file.read_text().split("\n").index("[pip]") + 1
    for told in (f"uv.toml:{line}: pip has no effect", "uv.toml:1: prerelease has no effect"):
        assert said.count(f"note: {told}: mlenv does not hand it to uv\n") == 1, said


def test_a_mistyped_key_of_uv_toml_is_refused(world: World) -> None:
    file = world.root / "uv.toml"
    file.write_text('exclude-never = "2026-01-01"\n' + file.read_text())
    done = world.run("lock")
    told = "error: uv.toml:1: has the unknown key 'exclude-never'\nhint: did you mean exclude-newer?\n"
    assert (done.code, done.err.endswith(told)) == (3, True), done


def test_a_backend_that_the_command_line_names_wrongly_is_wrong_usage(world: World) -> None:
    done = world.run("lock", "--backend", "cu133")
    assert done.code == 2, done
    assert "error: --backend cu133: there is no constraints/cu133.txt (there are: cpu, cu130)" in done.err


def test_a_backend_that_the_settings_name_wrongly_is_refused(world: World) -> None:
    world.configure('unproven = ["cu999"]\n')
    done = world.run("sync", "--cpu")
    assert done.code == 3, done
    assert "pyproject.toml:2: [tool.mlenv] unproven names cu999, and there is no constraints/cu999.txt" in done.err


# --- what the third one broke, who looked at the lock ----------------------------------------------------------------


def test_a_bound_on_upload_times_that_is_taken_away_is_noticed_too(world: World) -> None:
    config = world.root / "uv.toml"
    without = config.read_text()
    config.write_text('exclude-newer = "2026-11-01T00:00:00Z"\n' + without)
    assert world.run("lock").code == 0
    assert world.run("lock", "--check").code == 0
    config.write_text(without)
    assert world.run("lock", "--check").code == 1


@pytest.mark.parametrize("output", ["constraints/cpu.txt", "more.in", "train.py", "-", "dev.in"])
def test_a_lock_is_written_over_nothing_that_is_no_lock(world: World, output: str) -> None:
    files = {"dev.in": "-r more.in\n", "more.in": "demo-app\n", "train.py": "print('precious')\n"}
    for path, text in files.items():
        (world.root / path).write_text(text)
    before = {path: (world.root / path).read_text() for path in (*files, "constraints/cpu.txt")}
    done = world.run("lock", "dev.in", "-o", output)
    assert done.code == 2, done
    assert {path: (world.root / path).read_text() for path in before} == before


def test_a_uv_toml_that_cannot_be_used_is_told_by_check_too(world: World) -> None:
    with (world.root / "uv.toml").open("a") as file:
        file.write("[[[\n")
    assert world.run("lock", "--check").code == 3


def test_the_hint_makes_the_lock_that_was_asked_about(world: World) -> None:
    (world.root / "dev.in").write_text("demo-app\n")
    assert world.run("lock", "dev.in").code == 0
    (world.root / "dev.in").write_text("demo-app\nsympy\n")
    done = world.run("lock", "dev.in", "--check")
    assert "hint: run `mlenv lock --output-file=dev.txt dev.in`" in done.out, done


def test_the_hint_names_the_project_that_was_asked_about(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\nsympy\n")
    away = world.root.parent
    done = world.program("lock", "--check", "--project", world.root.name, cwd=away, env=world.variables)
    assert f"hint: run `mlenv --project {world.root.name} lock`" in done.out, done


def test_the_order_of_platforms_is_of_no_consequence(world: World) -> None:
    world.configure('platforms = ["linux-x86_64", "windows-x86_64"]\n')
    assert world.run("lock").code == 0
    world.configure('platforms = ["windows-x86_64", "linux-x86_64"]\n')
    done = world.run("lock", "--check")
    assert done.code == 0, done


def test_an_overlays_root_that_went_leaves_the_footer(world: World) -> None:
    overlays = [world.root / f"constraints/{backend}.txt" for backend in ("cpu", "cu130")]
    for overlay in overlays:
        overlay.write_text("".join(line for line in overlay.open() if not line.startswith("torchvision")))
    assert world.run("lock").code == 0
    assert "# torchvision" not in (world.root / "requirements.txt").read_text()


def test_a_dry_run_says_that_a_missing_lock_would_be_made(world: World) -> None:
    (world.root / "requirements.txt").unlink()
    done = world.run("sync", "--cpu", "--dry-run")
    assert (done.code, "would make requirements.txt" in done.out) == (0, True), done
    assert not (world.root / "requirements.txt").exists()


def test_an_empty_folder_is_no_project(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = world.program("sync", "--cpu", cwd=empty, env=world.variables)
    assert done.code == 3, done
    assert f"error: {empty}: there is no project here: neither requirements.in" in done.err
    assert "hint: `mlenv init` starts one" in done.err
    assert list(empty.iterdir()) == []
