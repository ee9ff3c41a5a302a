"""``mlenv fleet check``: described machines, the lock proven for each, and the certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import World, make_world

H100 = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}
GTX_1080 = {"name": "NVIDIA GeForce GTX 1080", "compute_capability": "6.1"}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    world = make_world(index, project, run_mlenv)
    describe(world, "node1", driver="580.65.06", cuda="13.0", gpus=[H100])
    describe(world, "laptop")
    return world


def describe(world: World, name: str, **fields: Any) -> Path:
    path = world.root / "fleet" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"os": "linux", "arch": "x86_64", **fields}))
    return path


def files(world: World) -> list[str]:
    return sorted(str(path) for path in (world.root / "fleet").glob("*.json"))


def certificate(world: World) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((world.root / "fleet-certificate.json").read_text())
    return document


def test_each_machine_gets_its_backend_and_the_certificate_says_so(world: World) -> None:
    done = world.run("fleet", "check", *files(world))
    assert done.code == 0, done
    rows = [line.split() for line in done.out.splitlines()]
    assert ["fleet/laptop.json", "linux-x86_64", "no", "GPU", "cpu", "2.14.1", "good"] in rows
    assert any(row[:1] == ["fleet/node1.json"] and row[-3:] == ["cu130", "2.14.1", "good"] for row in rows)
    assert "2 of 2 machines are served by this lock" in done.out
    verdicts = {entry["file"]: entry for entry in certificate(world)["machines"]}
    assert verdicts["fleet/node1.json"]["backend"] == "cu130"
    assert verdicts["fleet/node1.json"]["verdict"] == "good"
    assert set(certificate(world)["inputs"]) == {
        "constraints/cpu.txt",
        "constraints/cu130.txt",
        "fleet/laptop.json",
        "fleet/node1.json",
        "requirements.txt",
        "settings",
    }


def test_a_card_without_code_in_any_backend_is_named_and_fails(world: World) -> None:
    describe(world, "old", driver="580.65.06", cuda="13.0", gpus=[GTX_1080])
    done = world.run("fleet", "check", *files(world))
    assert done.code == 1, done
    assert "2 of 3 machines are served by this lock" in done.out
    assert "fleet/old.json" in done.out
    assert "6.1" in json.dumps(certificate(world))
    assert "hint: `mlenv detect --why --machine fleet/old.json`" in done.out


def test_a_platform_that_the_lock_is_not_made_for_fails(world: World) -> None:
    describe(world, "grace", arch="aarch64")
    done = world.run("fleet", "check", *files(world))
    assert done.code == 1, done
    assert "the lock is made for linux-x86_64, not for linux-aarch64" in done.out
    assert 'hint: add "linux-aarch64" to [tool.mlenv] platforms, then `mlenv lock`' in done.out


def test_a_lock_that_a_foundation_does_not_go_with_fails_for_its_machines_alone(world: World) -> None:
    lock = world.root / "requirements.txt"
    world.index.remove("pypi", "demo-app")
    world.publish(Package("demo-app", "1.0", requires=("torch<2",)))
    done = world.run("fleet", "check", *files(world))
    assert lock.exists()
    assert done.code == 1, done
    assert "0 of 2 machines" in done.out


def test_the_same_inputs_give_the_same_bytes(world: World) -> None:
    world.run("fleet", "check", *files(world))
    before = (world.root / "fleet-certificate.json").read_bytes()
    assert world.run("fleet", "check").code == 0  # the machines that the certificate names
    assert (world.root / "fleet-certificate.json").read_bytes() == before


def test_a_certificate_is_checked_by_digest_alone(world: World) -> None:
    world.run("fleet", "check", *files(world))
    asked = len(world.index.requests)
    nowhere: dict[str, str | None] = {"PATH": "/nowhere", "MLENV_BACKEND": "cu999"}
    done = world.run("fleet", "check", "--check", env=nowhere)
    assert done.code == 0, done
    assert "fleet-certificate.json is current (2 machines)" in done.out
    assert len(world.index.requests) == asked


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("constraints/cu130.txt", "torch==2.13.0\n", "constraints/cu130.txt changed since"),
        ("requirements.txt", "# another\n", "requirements.txt changed since"),
        ("fleet/node1.json", '{"os": "linux", "arch": "x86_64", "driver": "535"}', "fleet/node1.json changed since"),
        ("pyproject.toml", '[tool.mlenv]\nbackend = "cpu"\n', "settings changed since"),
        ("constraints/cu126.txt", "torch==2.14.1\n", "constraints/cu126.txt is new since"),
    ],
)
def test_what_made_a_certificate_stale_is_named(world: World, path: str, text: str, told: str) -> None:
    world.run("fleet", "check", *files(world))
    (world.root / path).write_text(text)
    done = world.run("fleet", "check", "--check")
    assert done.code == 1, done
    assert told in done.out
    assert "hint: run `mlenv fleet check`" in done.out


def test_a_machine_that_is_gone_or_new_makes_it_stale(world: World) -> None:
    world.run("fleet", "check", *files(world))
    describe(world, "node2", driver="580.65.06", cuda="13.0", gpus=[H100])
    assert "fleet/node2.json is new since" in world.run("fleet", "check", "--check", *files(world)).out
    fewer = world.run("fleet", "check", "--check", str(world.root / "fleet/node1.json"))
    assert fewer.code == 1, fewer
    assert "fleet/laptop.json is in it and was not named" in fewer.out
    assert "hint: run `mlenv fleet check fleet/node1.json`" in fewer.out
    (world.root / "fleet" / "node1.json").unlink()
    assert "fleet/node1.json is gone since" in world.run("fleet", "check", "--check").out
    mended = world.run("fleet", "check")  # as the hint says
    assert mended.code == 0, mended
    assert "fleet/node1.json is gone and leaves the certificate" in mended.err
    assert world.run("fleet", "check", "--check").code == 0
    fewer = world.run("fleet", "check", str(world.root / "fleet/node2.json"))
    assert "fleet/laptop.json was not named and leaves the certificate" in fewer.err


def test_an_edited_certificate_and_a_stale_lock_are_found_by_digest(world: World) -> None:
    describe(world, "old", driver="580.65.06", cuda="13.0", gpus=[GTX_1080])
    world.run("fleet", "check", *files(world))
    document = certificate(world)
    for entry in document["machines"]:
        entry |= {"problems": [], "verdict": "good"}
    (world.root / "fleet-certificate.json").write_text(json.dumps(document))
    (world.root / "requirements.in").write_text("demo-app\nfilelock\n")
    done = world.run("fleet", "check", "--check")
    assert done.code == 1, done
    assert "the certificate was changed outside mlenv" in done.out
    assert "requirements.in was changed since the lock was made" in done.out
    assert "hint: run `mlenv lock`" in done.out


def test_the_table_is_shown_where_the_certificate_can_not_be_written(world: World) -> None:
    done = world.run("fleet", "check", *files(world), "--certificate", "/proc/fleet.json")
    assert done.code == 8, done
    assert "2 of 2 machines are served by this lock" in done.out
    assert "/proc/fleet.json: can't be written" in done.out
    nowhere = world.run("fleet", "check", *files(world), "--certificate", "none/fleet.json")
    assert nowhere.code == 2, nowhere
    assert not (world.root / "none").exists()


def test_another_spelling_of_a_description_changes_nothing(world: World) -> None:
    world.run("fleet", "check", *files(world))
    path = world.root / "fleet" / "node1.json"
    document = json.loads(path.read_text())
    path.write_bytes(b"\xff\xfe" + json.dumps({"machine": document, "backend": "x"}, indent=4).encode("utf-16-le"))
    assert world.run("fleet", "check", "--check").code == 0


def test_a_certificate_with_a_bad_verdict_does_not_pass(world: World) -> None:
    describe(world, "old", driver="580.65.06", cuda="13.0", gpus=[GTX_1080])
    world.run("fleet", "check", *files(world))
    done = world.run("fleet", "check", "--check")
    assert done.code == 1, done
    assert "fleet/old.json: " in done.out


def test_a_folder_stands_for_the_machines_in_it(world: World) -> None:
    document = world.json("fleet", "check", str(world.root / "fleet"))
    assert [machine["file"] for machine in document["machines"]] == ["fleet/laptop.json", "fleet/node1.json"]


def test_wrong_usage_and_bad_files(world: World) -> None:
    assert world.run("fleet", "check").code == 2
    missing = world.run("fleet", "check", str(world.root / "fleet/none.json"))
    assert missing.code == 3
    assert "fleet/none.json: there is no such file" in missing.err
    describe(world, "bad", gpuz=[])
    bad = world.run("fleet", "check", *files(world))
    assert bad.code == 3
    assert "gpuz is not a field of it" in bad.err
    describe(world, "worse", drivr="1")
    both = world.run("fleet", "check", *files(world)).err
    assert "fleet/bad.json: gpuz" in both
    assert "fleet/worse.json: drivr" in both
    done = world.run("fleet", "check", "--check")
    assert done.code == 1
    assert "there is no certificate of the fleet" in done.out
    (world.root / "fleet-certificate.json").write_text("{}")
    assert world.run("fleet", "check", "--check").code == 3


@pytest.mark.parametrize("name", ["requirements.txt", "requirements.in", "uv.toml", "fleet/node1.json", "fleet"])
def test_a_certificate_overwrites_no_other_file(world: World, name: str) -> None:
    before = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    done = world.run("fleet", "check", *files(world), "--certificate", name)
    assert done.code == 2, done
    assert "is there and is no certificate" in done.err
    assert {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()} == before


def test_where_nothing_can_be_asked_no_machine_is_judged(world: World, tmp_path: Path) -> None:
    assert world.run("fleet", "check", *files(world)).code == 0
    before = certificate(world)
    done = world.run("fleet", "check", "--offline", env={"UV_CACHE_DIR": str(tmp_path / "empty")})
    assert done.code == 6, done
    assert certificate(world) == before
