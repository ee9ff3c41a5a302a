"""``mlenv doctor``: every area is looked at, whatever is wrong with the others."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.index import CaptivePortal, Dropped, Fault, LoopbackIndex, Slow, Status
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, make_world

CUPY = ("cupy-cuda12x", "cupy-cuda13x")
MACHINE_AREAS = ["driver", "uv", "disks", "variables"]
PROJECT_AREAS = ["project", "overlays", "lock", "packages", "environment"]
H100 = {
    "os": "linux",
    "arch": "x86_64",
    "driver": "580.65.06",
    "cuda": "13.0",
    "gpus": [{"name": "NVIDIA H100", "compute_capability": "9.0"}],
}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    """A locked project on a machine without GPU."""
    made = make_world(index, project, run_mlenv)
    (made.root / "nogpu.json").write_text(json.dumps({"os": "linux", "arch": "x86_64"}))
    return made


def _areas(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {area["name"]: area for area in document["areas"]}


def _kinds(document: dict[str, Any], area: str) -> list[tuple[str, str]]:
    """(kind, severity) of an area's findings; but for which source serves a backend."""
    found = _areas(document)[area]["findings"]
    return [(finding["kind"], finding["severity"]) for finding in found if finding["kind"] != "index-note"]


def _wrong(document: dict[str, Any]) -> list[str | None]:
    """The file of each finding that is more than a note."""
    return [finding.get("path") for finding in document["findings"] if finding["severity"] != "note"]


def test_a_healthy_project_has_nothing_wrong_and_nothing_is_written(world: World) -> None:
    world.sync()
    before = {path: path.lstat().st_mtime_ns for path in world.root.rglob("*")}
    document = world.json("doctor")
    assert document["healthy"] is True
    assert [area["name"] for area in document["areas"]] == [*MACHINE_AREAS, *PROJECT_AREAS, "indexes"]
    assert _areas(document)["indexes"]["seen"] == "cpu from pytorch-cpu, cu130 from pytorch-cu130"
    assert _areas(document)["environment"] == {
        "name": "environment", "state": "ok", "seen": ".venv, cpu, 7 packages", "findings": []
    }  # fmt: skip
    assert {path: path.lstat().st_mtime_ns for path in world.root.rglob("*")} == before


def test_people_see_a_line_for_each_area_and_each_finding_below_its_own(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app>1\n")
    done = world.run("doctor", "--offline", "--color", "never")
    lines = done.out.splitlines()
    assert (done.code, lines[-1]) == (1, "2 things are wrong"), done
    place = next(number for number, line in enumerate(lines) if line.startswith("error    lock "))
    assert lines[place + 1].startswith("  error: requirements.txt:")
    assert lines[place + 2] == "    hint: run `mlenv lock`"
    assert "skipped  indexes      not looked at: --offline" in lines


def test_offline_no_index_is_asked(world: World) -> None:
    asked = world.index.count()
    document = world.json("doctor", "--offline")
    assert _areas(document)["indexes"]["state"] == "skipped"
    assert world.index.count() == asked


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (Dropped(), "index-unreachable", "can't be reached"),
        (CaptivePortal(), "index-without-pin", "pytorch-cpu/simple/torch"),
        (Status(403), "index-without-pin", "403"),
    ],
    ids=["down", "a page", "403"],
)
def test_an_index_that_does_not_serve_the_pin_is_told(world: World, fault: Fault, kind: str, told: str) -> None:
    world.index.fail("pytorch-cpu", fault)
    document = world.json("doctor", code=1)
    assert _kinds(document, "indexes") == [(kind, "error")]
    finding = _areas(document)["indexes"]["findings"][0]
    assert told in finding["message"]
    assert "would fail" in finding["why"]
    assert "cu130 from pytorch-cu130" in _areas(document)["indexes"]["seen"]


def test_a_pin_that_the_index_does_not_carry_is_told(world: World) -> None:
    world.index.remove("pytorch-cu130", "torch")
    world.publish(Package("torch", "2.13.0+cu130"), index="pytorch-cu130")
    document = world.json("doctor", code=1)
    assert _kinds(document, "indexes") == [("index-without-pin", "warning")]
    assert _areas(document)["indexes"]["seen"] == "cpu from pytorch-cpu, cu130 not carried"


def test_an_unreachable_index_of_a_backend_that_is_not_needed_here_is_a_note(world: World) -> None:
    world.index.fail("pytorch-cu130", Dropped())
    document = world.json("doctor")
    assert _kinds(document, "indexes") == [("index-unreachable", "note")]


def test_an_index_that_never_answers_does_not_keep_it_waiting(world: World) -> None:
    world.index.fail("pytorch-cpu", Slow(60))
    began = time.monotonic()
    document = world.json("doctor", code=1)
    assert time.monotonic() - began < 20
    assert _areas(document)["indexes"]["findings"][0]["severity"] == "error"


def test_a_damaged_environment_is_found_by_the_gate(world: World) -> None:
    world.sync()
    (world.site / "torch" / "version.py").unlink()
    document = world.json("doctor", "--offline", code=1)
    assert ("file-missing", "error") in _kinds(document, "environment")
    hints = {finding["hint"] for finding in _areas(document)["environment"]["findings"]}
    assert hints == {"run `mlenv sync --backend cpu --rebuild`"}


def test_an_environment_that_is_older_than_the_lock_is_stale(world: World) -> None:
    world.sync()
    world.publish(Package("other", "1.0"))
    world.require("demo-app", "other")
    document = world.json("doctor", "--offline", code=1)
    assert _kinds(document, "environment") == [("environment-stale", "warning")]
    assert _kinds(document, "lock") == []
    world.sync()
    assert _kinds(world.json("doctor", "--offline"), "environment") == []


def test_what_an_interrupted_build_left_is_noted(world: World) -> None:
    world.sync()
    (world.root / ".mlenv/gen/cpu-torn").mkdir()
    document = world.json("doctor", "--offline")
    assert _kinds(document, "environment") == [("environment-leftovers", "note")]
    world.sync("--rebuild")
    assert _kinds(world.json("doctor", "--offline"), "environment") == []


def test_a_stale_lock_is_found(world: World) -> None:
    (world.root / "constraints/cpu.txt").write_text("torch==2.14.1+cpu\n")
    document = world.json("doctor", "--offline", code=1)
    assert _kinds(document, "lock") == [("lock-overlay-changed", "error")]


def test_coupled_packages_are_judged_by_the_overlays(world: World) -> None:
    world.publish(Package("onnxruntime", "1.31.1"), Package("onnxruntime-gpu", "1.31.1"), Package("vllm", "0.33.0"))
    world.publish(Package("embedder", "1.0", requires=("onnxruntime",)), *(Package(name, "14.2.0") for name in CUPY))
    elsewhere = 'cupy-cuda12x; sys_platform == "win32"'  # never beside the other one
    world.require("demo-app", "embedder", "onnxruntime-gpu", "vllm", "cupy-cuda13x", elsewhere)
    document = world.json("doctor", "--offline", code=1)
    told = {finding["package"]: finding["message"] for finding in _areas(document)["packages"]["findings"]}
    assert told == {"onnxruntime-gpu": "onnxruntime-gpu and onnxruntime are both required"}, "the lock is proven"
    (world.root / "constraints/cpu.txt").write_text("torch==2.14.1+cpu\n")  # and now it isn't current
    document = world.json("doctor", "--offline", code=1)
    told = {finding["package"]: finding["message"] for finding in _areas(document)["packages"]["findings"]}
    assert told["vllm"] == "vllm 0.33.0 needs torch==2.14.0; cpu pins 2.14.1, cu130 pins 2.14.1"


def test_dropped_variables_are_listed_and_are_not_wrong(world: World) -> None:
    document = world.json("doctor", "--offline", env={"UV_TORCH_BACKEND": "cpu", "PIP_NO_DEPS": "1"})
    assert _kinds(document, "variables") == [("variable-dropped", "note")]
    assert "PIP_NO_DEPS, UV_TORCH_BACKEND" in _areas(document)["variables"]["findings"][0]["message"]


def test_a_library_path_with_another_cudnn_is_wrong(world: World, tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda/libcudnn_ops.so.9").touch()
    document = world.json("doctor", "--offline", env={"LD_LIBRARY_PATH": str(tmp_path / "cuda")}, code=1)
    assert _kinds(document, "variables") == [("variable-libraries", "warning")]


def test_a_broken_project_file_is_one_finding_and_the_machine_is_still_shown(world: World) -> None:
    world.configure("platforms = [")
    document = world.json("doctor", code=1)
    areas = _areas(document)
    assert [areas[name]["state"] for name in ("driver", "uv", "disks")] == ["ok", "ok", "ok"]
    assert _wrong(document) == ["pyproject.toml"]
    assert {areas[name]["state"] for name in PROJECT_AREAS[1:]} == {"skipped"}


def test_a_broken_requirements_file_leaves_the_other_areas(world: World) -> None:
    world.sync()
    (world.root / "requirements.in").write_text("--index-url https://example.com\n")
    document = world.json("doctor", code=1)
    areas = _areas(document)
    assert _wrong(document) == ["requirements.in"]
    assert areas["project"]["state"] == "error"
    assert areas["overlays"]["state"] == "note"
    assert areas["lock"]["seen"] == "not looked at: requirements.in comes first"


def test_outside_a_project_the_machine_alone_is_looked_at(run_mlenv: RunProgram, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done = run_mlenv("doctor", "--json", cwd=folder)
    assert done.code == 0, done
    document = json.loads(done.out)
    assert [area["name"] for area in document["areas"]] == [*MACHINE_AREAS, "indexes"]
    assert document["project"] is None
    assert list(folder.iterdir()) == []


def test_another_machine_is_judged_without_what_is_about_this_one(world: World) -> None:
    (world.root / "node7.json").write_text(json.dumps(H100))
    document = world.json("doctor", "--machine", "node7.json")
    areas = _areas(document)
    assert areas["driver"]["seen"].endswith("NVIDIA H100 (9.0); gets cu130")
    skipped = [name for name, area in areas.items() if area["seen"].startswith("not looked at: --machine")]
    assert skipped == ["uv", "disks", "variables", "environment"]


@pytest.mark.parametrize(
    ("machine", "hint"),
    [
        ({**H100, "arch": "aarch64"}, 'platforms = ["linux-x86_64", "linux-aarch64"], then `mlenv lock`'),
        ({"os": "macos", "arch": "x86_64"}, "mlenv makes locks for linux-x86_64, "),
    ],
    ids=["aarch64", "an old Mac"],
)
def test_a_platform_that_the_lock_is_not_made_for_is_wrong(world: World, machine: dict[str, Any], hint: str) -> None:
    (world.root / "node7.json").write_text(json.dumps(machine))
    document = world.json("doctor", "--machine", "node7.json", "--offline", code=1)
    assert _kinds(document, "lock") == [("lock-platform", "error")]
    assert hint in _areas(document)["lock"]["findings"][0]["hint"]


def test_a_target_python_that_is_not_here_is_wrong(world: World) -> None:
    world.configure('python = "3.99"')
    document = world.json("doctor", "--offline", code=1)
    assert _kinds(document, "uv") == [("python-missing", "error")]
    assert "Python 3.99 is not on this machine" in _areas(document)["uv"]["findings"][0]["message"]


def test_a_machine_that_no_backend_fits_is_wrong(world: World) -> None:
    old = {**H100, "driver": "470.57.02", "cuda": "11.4"}
    (world.root / "node7.json").write_text(json.dumps(old))
    document = world.json("doctor", "--machine", "node7.json", "--offline", code=1)
    assert _kinds(document, "driver") == [("no-backend", "error")]


def test_a_machine_file_that_is_not_there_is_wrong_usage(world: World) -> None:
    assert world.run("doctor", "--machine", "node8.json").code == 2


def test_a_cache_that_can_not_be_used_is_a_finding_and_no_fault(world: World) -> None:
    blocked = world.root / "blocked"
    blocked.write_text("")
    document = world.json("doctor", env={"UV_CACHE_DIR": str(blocked / "cache")}, code=1)
    assert _kinds(document, "disks") == [("cache-not-writable", "error")]
    assert _areas(document)["indexes"]["state"] == "skipped"
    assert _areas(document)["lock"]["state"] == "ok"


def test_what_uv_toml_says_counts_and_what_is_dropped_is_noted(world: World) -> None:
    path = world.root / "uv.toml"
    path.write_text('cache-dir = "own-cache"\nlink-mode = "copy"\nresolution = "lowest"\n' + path.read_text())
    document = world.json("doctor", "--offline", env={"UV_CACHE_DIR": None}, code=1)
    areas = _areas(document)
    assert f"cache {world.root / 'own-cache'} " in areas["disks"]["seen"]
    assert _kinds(document, "disks") == [("link-mode-copy", "warning")]
    assert [finding["severity"] for finding in areas["project"]["findings"]] == ["note"]
    assert "resolution" in areas["project"]["findings"][0]["message"]


def test_a_backend_whose_index_is_named_nowhere_is_told(world: World) -> None:
    path = world.root / "uv.toml"
    path.write_text(path.read_text().replace('name = "pytorch-cpu"', 'name = "another"'))
    document = world.json("doctor", code=1)
    assert _kinds(document, "indexes") == [("index-missing", "error")]
    assert _areas(document)["indexes"]["seen"] == "cpu not carried, cu130 from pytorch-cu130"
    assert "mlenv init" in _areas(document)["indexes"]["findings"][0]["hint"]


def test_quiet_says_only_what_is_wrong(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app>1\n")
    done = world.run("doctor", "--offline", "-q", "--color", "never")
    assert done.code == 1
    assert [line.split()[1] for line in done.out.splitlines() if not line.startswith(" ")] == ["lock"]
    assert done.err == ""


def test_each_record_that_sync_would_refuse_is_told_with_what_mends_it(world: World) -> None:
    assert world.run("lock").code == 0
    assert world.run("foundation", "record").code == 0
    folder = world.root / "constraints"
    assert [kind for kind, _ in _kinds(world.json("doctor", "--offline"), "overlays") if "record" in kind] == []
    (folder / "pylock.cpu.toml").write_text("garbage")
    (folder / "pylock.cu999.toml").write_text("garbage")
    overlay = folder / "cu130.txt"
    overlay.write_text(overlay.read_text().replace("torch==2", "torch==1.2", 1))
    found = _areas(world.json("doctor", "--offline", code=1))["overlays"]["findings"]
    told = {one["path"]: one for one in found if one["kind"].startswith("record-")}
    assert told.keys() == {f"constraints/pylock.{name}.toml" for name in ("cpu", "cu130", "cu999")}
    assert "`mlenv foundation record --backend cpu` writes it anew" in told["constraints/pylock.cpu.toml"]["hint"]
    assert "constraints/cu130.txt pins torch==1.2" in told["constraints/pylock.cu130.toml"]["message"]
    assert told["constraints/pylock.cu999.toml"]["hint"].startswith("`rm constraints/pylock.cu999.toml`")
