"""A backend of one's own: by rows of the project, and by an installed package; and machines from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import fake_foundation
from support.world import World, indexes_toml, make_world

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example"
ROWS = """
[[tool.mlenv.catalogue.backend]]
name = "cu140"
code = [{ torch = ["2.16"], x86_64 = [90, 100] }]

[[tool.mlenv.catalogue.release]]
torch = "2.16.0"
torchvision = "0.30.0"
torchaudio = "2.11.0"
python = ["3.10", "3.11", "3.12", "3.13", "3.14"]
backends = ["cpu", "cu140"]

[[tool.mlenv.catalogue.driver_family]]
cuda_major = 14
linux = "650"
windows = "650"
"""
H100 = {
    "os": "linux",
    "arch": "x86_64",
    "driver": "650.1",
    "cuda": "14.0",
    "gpus": [{"name": "H100", "compute_capability": "9.0"}],
}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


def _described(world: World, name: str = "node.json", **other: object) -> str:
    (world.root / name).write_text(json.dumps({**H100, **other}))
    return name


def _with_cu140(world: World) -> None:
    """The world with one more backend, which mlenv's own catalogue doesn't know."""
    foundation = fake_foundation("cu140")
    (world.root / "constraints/cu140.txt").write_text(foundation.overlay)
    (world.root / "uv.toml").write_text(indexes_toml(world.index, "cpu", "cu130", "cu140"))
    world.publish(*foundation.family, index="pytorch-cu140")
    world.publish(*foundation.companions)


def test_init_writes_the_overlay_of_a_backend_from_the_projects_rows(world: World) -> None:
    world.configure(ROWS)
    world.json("init", "--backend", "cu140")
    assert "torch==2.16.0\ntorchvision==0.30.0\n" in (world.root / "constraints/cu140.txt").read_text()
    assert 'name = "pytorch-cu140"' in (world.root / "uv.toml").read_text()


def test_init_names_the_pythons_that_have_wheels(world: World) -> None:
    world.configure(ROWS.replace('"3.10", "3.11", "3.12", "3.13", "3.14"', '"3.15", "3.16"'))
    done = world.run("init", "--backend", "cu140")
    assert done.code == 2, done
    assert "has wheels for Python 3.11; there are for 3.15, 3.16" in done.err
    assert "hint: make the project for one of these: `mlenv init --backend cu140 --python 3.16`" in done.err


def test_the_projects_rows_choose_lock_and_sync(world: World) -> None:
    _with_cu140(world)
    more = '\n[[tool.mlenv.catalogue.release]]\ntorch = "2.14.1"\nbackends = ["cu140"]\n'
    world.configure(ROWS.replace('["2.16"]', '["2.14"]') + more)
    world.lock()
    told = world.json("detect", "--machine", _described(world))
    assert (told["backend"], told["notes"]) == ("cu140", [])
    world.sync("--backend", "cu140")
    assert world.installed["torch"] == "2.14.1+cu140"


def test_a_row_makes_the_lock_stale_and_its_source_does_not(world: World) -> None:
    world.configure(ROWS)
    told = world.json("lock", "--check", code=1)
    assert [finding["kind"] for finding in told["findings"]] == ["lock-settings-changed"]
    assert world.run("lock").code == 0
    world.configure(ROWS.replace('name = "cu140"', 'name = "cu140"\nsource = "seen on the index"'))
    assert world.json("lock", "--check")["current"]


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ('torchvision = "0.30.0"\n', "", 7, "catalogue.release[1] 2.16.0 is new and has no torchvision"),
        (
            'name = "cu140"',
            'name = "cu140"\nindex = "https://me:pw@x.example"',
            5,
            "catalogue.backend[1].index carries",
        ),
        ('"cu140"]', '"cu14O"]', 12, "catalogue.release[1].backends has an item that is 'cu14O'"),
        ('"cu140"]', '"cu141"]', 12, "catalogue.release[1].backends has the unknown backend 'cu141'"),
        ("windows =", "window =", 17, "catalogue.driver_family[1].window is an unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_line(world: World, old: str, new: str, line: int, told: str) -> None:
    world.configure(ROWS.replace(old, new))
    done = world.run("detect")
    assert done.code == 3, done
    assert f"pyproject.toml:{line}: {told}" in done.err
    assert "pw@" not in done.err
    assert "Traceback" not in done.err


# ---- an installed package


def _plugin(world: World) -> dict[str, str | None]:
    foundation = fake_foundation("cu132")
    (world.root / "constraints/acme132.txt").write_text(foundation.overlay)
    (world.root / "uv.toml").write_text(indexes_toml(world.index, "cpu", "cu130", "acme132"))
    world.publish(*foundation.family, index="pytorch-acme132")
    world.publish(*foundation.companions)
    return {"PYTHONPATH": str(EXAMPLE)}


def test_a_package_brings_a_backend_that_is_locked_chosen_and_built(world: World) -> None:
    env = _plugin(world)
    done = world.run("lock", env=env)
    assert done.code == 0, done
    machine = _described(world, facts={"acme.board": "X1"})
    told = world.json("detect", "--machine", machine, "--why", env=env)
    assert told["backend"] == "acme132"
    assert {"plugin": "yes"}.items() <= {c["criterion"]: c["verdict"] for c in told["why"][0]["criteria"]}.items()
    world.sync("--backend", "acme132", env=env)
    assert world.installed["torch"] == "2.14.1+cu132"


def test_a_lock_made_with_a_package_is_refused_without_it_and_names_it(world: World) -> None:
    env = _plugin(world)
    done = world.run("lock")
    assert done.code == 0, done
    told = world.json("lock", "--check", env=env, code=1)
    assert [finding["message"] for finding in told["findings"]] == [
        "mlenv-acme brings acme132 and is new since the lock was made"
    ]
    world.run("lock", env=env)
    assert world.run("lock", "--check", env=env).code == 0
    lock = (world.root / "requirements.txt").read_text()
    for words, code in ((("lock", "--check"), 1), (("lock",), 3), (("sync", "--cpu"), 1)):
        done = world.run(*words)
        assert done.code == code, done
        assert "acme132 is brought by mlenv-acme, which isn't installed here" in done.out + done.err
    assert (world.root / "requirements.txt").read_text() == lock
    line = next(line for line in lock.splitlines(keepends=True) if line.startswith("# mlenv plugin: "))
    (world.root / "requirements.txt").write_text(lock.replace(line, ""))  # as the hint says
    assert world.run("lock").code == 0
    assert world.run("lock", "--check").code == 0


def test_init_writes_the_index_of_a_package(world: World) -> None:
    world.json("init", "--backend", "acme132", env={"PYTHONPATH": str(EXAMPLE)})
    assert "https://wheels.acme.example/simple" in (world.root / "uv.toml").read_text()


def test_what_it_sees_is_told_and_carried(world: World) -> None:
    told = world.json("detect", "--cpu", env={"PYTHONPATH": str(EXAMPLE), "ACME_GFX": "gfx942"})
    assert told["machine"]["facts"] == {"acme.gfx": "gfx942"}


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('no licence')", "catalogue = 3", "import sys; print('noise'); sys.exit(0)"]
)
def test_a_broken_package_is_a_finding_of_detect_and_an_error_elsewhere(
    world: World, tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "site"
    metadata = folder / "mlenv_bad-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mlenv-bad\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[mlenv.backends]\nbad = mlenv_bad\n")
    (folder / "mlenv_bad.py").write_text(text)
    env = {"PYTHONPATH": str(folder)}
    told = world.json("detect", "--cpu", env=env)
    assert [(f["kind"], f["package"]) for f in told["findings"]] == [("plugin-broken", "mlenv-bad")]
    done = world.run("sync", "--cpu", env=env)
    assert done.code == 3, done
    assert "the plugin bad of mlenv-bad 0.1" in done.err
    assert "hint: upgrade mlenv-bad" in done.err
    assert "Traceback" not in done.err
    assert world.run("lock", "--check", env=env).code == 0


# ---- machines from files


def test_a_lock_for_described_machines_is_the_lock_and_serves_them(world: World) -> None:
    gpu = _described(world)
    none = _described(world, "laptop.json", gpus=[], driver=None, cuda=None)
    before = (world.root / "requirements.txt").read_text()
    done = world.run("lock", "--machine", gpu, "--machine", none)
    assert done.code == 0, done
    assert "node.json gets cu130" in done.err
    assert "laptop.json gets cpu" in done.err
    assert (world.root / "requirements.txt").read_text() == before
    assert world.run("lock", "--check", "--machine", gpu).code == 0
    world.configure('backends = ["cpu", "cu130"]\nunproven = ["cu130"]\n')
    done = world.run("lock", "--machine", gpu)
    assert done.code == 3
    assert "node.json: gets cu130, which [tool.mlenv] unproven leaves out" in done.err


@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="needs /dev/stdin")
def test_a_machine_may_come_through_a_pipe(world: World, word: str) -> None:
    words = [sys.executable, "-m", "mlenv", "detect", "--json", "--machine", word]
    done = subprocess.run(words, cwd=world.root, input=json.dumps(H100), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["machine"]["gpus"][0]["name"] == "H100"


def test_one_machine_is_judged_at_a_time(world: World) -> None:
    done = world.run("detect", "--machine", _described(world), "--machine", _described(world, "other.json"))
    assert done.code == 2, done
    assert "this command judges one machine" in done.err


def test_a_machine_that_the_lock_is_not_made_for_is_refused(world: World) -> None:
    world.configure('platforms = ["linux-x86_64", "macos-arm64"]\n')
    done = world.run("lock", "--machine", _described(world, arch="aarch64"))
    assert done.code == 3
    assert "node.json: is linux-aarch64, and the lock is made for linux-x86_64, macos-arm64" in done.err
    assert 'platforms = ["linux-x86_64", "linux-aarch64", "macos-arm64"]' in done.err
    assert (
        "hint: mlenv makes locks for"
        in world.run("lock", "--machine", _described(world, os="macos", arch="x86_64")).err
    )


def test_a_machine_that_nothing_fits_is_named(world: World) -> None:
    old = [{"name": "K80", "compute_capability": "3.7"}]
    done = world.run("lock", "--machine", _described(world, gpus=old))
    assert done.code == 4
    assert "node.json: no backend of this project runs on this machine's GPUs" in done.err


def test_a_dry_run_is_for_the_described_machine(world: World) -> None:
    world.sync("--backend", "cu130")  # what stands here counts for nothing there
    told = world.json("sync", "--dry-run", "--machine", _described(world))
    assert (told["action"], told["backend"]) == ("build", "cu130")
    assert told["packages"]["foundation"]["torch"] == "2.14.1+cu130"


def test_a_dry_run_for_another_machine_needs_no_python_of_the_target(world: World) -> None:
    world.configure('python = "3.10"\n')  # wherever this runs: the catalogue has it, this machine need not
    assert world.run("lock").code == 0
    nowhere = {"UV_PYTHON_SEARCH_PATH": "", "PATH": "/nowhere"}
    for more in ((), ("--python", "3.10")):
        told = world.json("sync", "--dry-run", "--machine", _described(world), *more, env=nowhere)
        assert told["packages"]["foundation"]["torch"] == "2.14.1+cu130"


def test_nothing_is_built_for_another_machine(world: World) -> None:
    done = world.run("sync", "--machine", _described(world))
    assert done.code == 2
    assert "hint: add --dry-run" in done.err
    assert world.generations == []
