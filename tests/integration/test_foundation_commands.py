"""``mlenv foundation`` and ``sync`` with records and nightlies, with the real uv against loopback indexes."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.pylock import Pylock

from support.index import CaptivePortal, Dropped, IndexSettings, LoopbackIndex, Status
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package, fake_foundation, fake_torch
from support.world import World, indexes_toml, make_world

NIGHTLY = "2.16.0.dev20261120"
OLDER = "2.16.0.dev20261119"


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    return make_world(index, project, run_mlenv)


def publish_nightlies(world: World, *versions: str, vision: bool = True, triton: str | None = None) -> None:
    """The family of each nightly on the index ``pytorch-nightly-cu130``, which uv.toml then has."""
    needed = [package for package in world.foundations["cu130"].companions if package.name != "triton"]
    requires = [f"{package.name}=={package.version}" for package in needed]
    requires += [f"triton=={triton}"] if triton else []
    for version in versions:
        torch = fake_torch(f"{version}+cu130", cuda="13.0", requires=(*requires, "filelock", "sympy>=1.13.3"))
        family = [torch, Package("torchaudio", f"{version.replace('2.16', '2.11')}+cu130")]
        if vision:
            vision_version = f"{version.replace('2.16', '0.31')}+cu130"
            family.append(Package("torchvision", vision_version, requires=(f"torch=={version}",)))
        world.publish(*family, index="pytorch-nightly-cu130")
    (world.root / "uv.toml").write_text(indexes_toml(world.index, "cpu", "cu130", "nightly-cu130"))


def record_of(world: World, name: str = "cu130") -> dict[str, object]:
    return tomllib.loads((world.root / f"constraints/pylock.{name}.toml").read_text())


def hashes_of(document: dict[str, object], name: str) -> set[str]:
    packages: list[dict[str, object]] = document["packages"]  # type: ignore[assignment]
    wheels = next(p["wheels"] for p in packages if p["name"] == name)
    return {wheel["hashes"]["sha256"] for wheel in wheels}  # type: ignore[attr-defined]


def test_the_list_invents_no_backend(world: World) -> None:
    done = world.run("foundation", "list", "--offline", "--backend", "foo")
    assert done.code == 3, done
    assert "backend foo has no overlay" in done.err
    assert (
        world.run("foundation", "list", "--offline", "--backend", "cu118").code == 0
    )  # known, and not of this project


# ------------------------------------------------------------------------------------------------------------ records


def test_a_record_holds_every_file_of_the_foundation_and_nothing_else(world: World) -> None:
    done = world.run("foundation", "record", "--backend", "cu130")
    assert done.code == 0, done
    assert "wrote constraints/pylock.cu130.toml: 8 packages" in done.out
    document = record_of(world)
    foundation = world.foundations["cu130"]
    recorded = {str(package.name): package for package in Pylock.from_dict(document).packages}
    assert recorded.keys() == {p.normalized for p in (*foundation.family, *foundation.companions)}
    assert hashes_of(document, "torch") == {foundation.family[0].sha256}
    assert document["tool"]["mlenv"]["sources"] == {"linux-x86_64": "pytorch-cu130"}  # type: ignore[index]


def test_a_dry_run_writes_nothing_at_all(world: World) -> None:
    (world.root / ".mlenv").write_text("a file, so that nothing can be written below it")
    for command in ("record", "upgrade"):
        done = world.run("foundation", command, "--backend", "cu130", "--dry-run")
        assert done.code == 0, done
    assert not (world.root / "constraints/pylock.cu130.toml").exists()


def test_recording_again_changes_no_byte(world: World) -> None:
    world.run("foundation", "record", "--backend", "cu130")
    path = world.root / "constraints/pylock.cu130.toml"
    before = path.read_text().replace("recorded = 2", "recorded = 1")  # an older day
    path.write_text(before)
    done = world.run("foundation", "record", "--backend", "cu130")
    assert "is unchanged" in done.out
    assert path.read_text() == before


def test_sync_installs_exactly_the_recorded_files_although_newer_ones_are_there(world: World) -> None:
    cublas = next(p for p in world.foundations["cu130"].companions if p.name == "nvidia-cublas")
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    world.publish(replace(cublas, version="13.99.0"))  # the fake torch pins it; a float is published beside it
    said = world.sync("--cuda13")
    assert "as constraints/pylock.cu130.toml records it" in said
    assert world.installed["nvidia-cublas"] == cublas.version


def test_a_recorded_file_that_was_replaced_is_refused(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    torch = world.foundations["cu130"].family[0]
    files = {**(torch.files or {}), "torch/extra.py": "print('other bytes')\n"}
    world.publish(replace(torch, files=files), index="pytorch-cu130")
    done = world.run("sync", "--cuda13", "--verify", "metadata")
    assert done.code == 7, done
    assert (
        "torch 2.14.1+cu130: no file that the index offers has the hash that constraints/pylock.cu130.toml" in done.err
    )
    assert not world.environment.exists()


def test_an_overlay_that_moved_does_not_fit_the_record(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    world.publish(*fake_foundation("cu130", torch="2.13.0").family, index="pytorch-cu130")
    overlay = world.root / "constraints/cu130.txt"
    overlay.write_text("torch==2.13.0\ntorchvision==0.28.0\ntorchaudio==2.11.0\n")
    world.lock()
    done = world.run("sync", "--cuda13", "--verify", "metadata")
    assert done.code == 1, done
    assert "constraints/cu130.txt pins torch==2.13.0, the record has 2.14.1+cu130" in done.err
    assert "hint: if the change is wanted, record it anew: `mlenv foundation record --backend cu130`" in done.err


def test_an_application_that_brings_more_foundation_does_not_fit_the_record(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    world.publish(Package("nvidia-curand", "10.4.0"), Package("boosted", "1.0", requires=("nvidia-curand",)))
    world.require("demo-app", "boosted")
    done = world.run("sync", "--cuda13", "--verify", "metadata")
    assert done.code == 1, done
    assert "the record lacks nvidia-curand, which is needed now" in done.err


def test_where_a_record_exists_there_is_no_other_source(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    plain = fake_foundation("cu130", source="default")
    world.publish(*plain.family)
    world.index.fail("pytorch-cu130", Status(403))
    done = world.run("sync", "--cuda13", "--verify", "metadata", env={"UV_HTTP_RETRIES": "0"})
    assert done.code == 6, done
    world.index.mend("pytorch-cu130")
    assert "from the pytorch-cu130 index" in world.sync("--cuda13")


def test_a_record_from_an_index_that_is_not_there_is_refused(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    record = world.root / "constraints/pylock.cu130.toml"
    record.write_text(record.read_text().replace('linux-x86_64 = "pytorch-cu130"', 'linux-x86_64 = "gone"'))
    done = world.run("sync", "--cuda13")
    assert done.code == 3, done
    assert "constraints/pylock.cu130.toml: the record's files come from the index 'gone'" in done.err


def test_a_mirror_on_this_machine_serves_the_recorded_files(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    world.publish(*world.foundations["cu130"].family, index="mirror")
    world.index.fail("pytorch-cu130", Dropped())
    done = world.run(
        "sync",
        "--cuda13",
        "--verify",
        "metadata",
        env={"MLENV_INDEX_URL_PYTORCH_CU130": world.index.url("mirror"), "UV_HTTP_RETRIES": "0"},
    )
    assert done.code == 0, done
    assert world.installed["torch"] == "2.14.1+cu130"


def test_where_an_index_lists_no_hash_the_file_is_fetched_and_hashed(world: World) -> None:
    world.index.configure("pytorch-cu130", IndexSettings(hashes=False))
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    torch = world.foundations["cu130"].family[0]
    assert hashes_of(record_of(world), "torch") == {torch.sha256}
    world.sync("--cuda13")
    world.publish(replace(torch, files={**(torch.files or {}), "torch/extra.py": "1\n"}), index="pytorch-cu130")
    done = world.run("sync", "--cuda13", "--rebuild", "--verify", "metadata", env={"UV_CACHE_DIR": str(world.home)})
    assert done.code == 7, done


def test_a_record_never_holds_credentials(world: World) -> None:
    world.publish(*world.foundations["cu130"].family, index="mirror")
    url = world.index.url("mirror").replace("://", "://me:s3cret@")
    done = world.run("foundation", "record", "--backend", "cu130", env={"MLENV_INDEX_URL_PYTORCH_CU130": url})
    assert done.code == 0, done
    assert "s3cret" not in (world.root / "constraints/pylock.cu130.toml").read_text()


def test_a_backend_that_cannot_be_recorded_does_not_keep_the_others_from_it(world: World) -> None:
    world.index.fail("pytorch-cpu", Status(403))
    done = world.run("foundation", "record", env={"UV_HTTP_RETRIES": "0"})
    assert done.code == 6, done
    assert "cpu was not recorded" in done.out
    assert (world.root / "constraints/pylock.cu130.toml").is_file()


def test_a_stale_lock_is_not_recorded(world: World) -> None:
    (world.root / "requirements.in").write_text("demo-app\nfilelock\n")
    done = world.run("foundation", "record", "--backend", "cu130")
    assert done.code == 1, done
    assert "hint: run `mlenv lock`" in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("torch = [", "is not valid TOML"),
        ('lock-version = "1.0"\ncreated-by = "me"\npackages = []\n', "is no record"),
        ('lock-version = "9.0"\ncreated-by = "me"\npackages = []\n', "is no PEP 751 lock"),
    ],
)
def test_a_file_that_is_no_record_is_named(world: World, text: str, told: str) -> None:
    (world.root / "constraints/pylock.cu130.toml").write_text(text)
    done = world.run("sync", "--cuda13", "--verify", "metadata")
    assert done.code == 3, done
    assert f"constraints/pylock.cu130.toml: {told}" in done.err
    assert world.run("foundation", "record", "--backend", "cu130").code == 0


# --------------------------------------------------------------------------------------------------------------- diff


def test_a_record_and_the_environment_built_from_it_hold_the_same(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    world.sync("--cuda13")
    done = world.run("foundation", "diff", "cu130")
    assert done.code == 0, done
    assert "hold the same foundation" in done.out


def test_a_machine_that_says_nothing_of_its_foundation_is_not_called_the_same(world: World) -> None:
    machine = world.root / "node.json"
    machine.write_text('{"os": "linux", "arch": "x86_64"}')
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    done = world.run("foundation", "diff", str(machine), "cu130")
    assert (done.code, "says nothing of what is installed" in done.err) == (2, True), done
    alike = world.run("foundation", "diff", str(machine), str(machine))
    assert (alike.code, "says nothing of what is installed" in alike.out) == (0, True), alike


def test_what_differs_between_two_records_is_named(world: World) -> None:
    for backend in ("cpu", "cu130"):
        assert world.run("foundation", "record", "--backend", backend).code == 0
    document = world.json("foundation", "diff", "cpu", "cu130", code=1)
    rows = {row["name"]: (row["left"], row["right"]) for row in document["differences"]}
    assert rows["torch"] == ("2.14.1+cpu", "2.14.1+cu130")
    assert rows["backend"] == ("cpu", "cu130")
    assert rows["nvidia-cublas"][0] == "-"


def test_another_file_of_the_same_release_is_a_difference(world: World) -> None:
    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    path = world.root / "constraints/pylock.cu130.toml"
    other = world.root / "other.toml"
    other.write_text(path.read_text().replace(world.foundations["cu130"].family[0].sha256, "0" * 64))
    document = world.json("foundation", "diff", "cu130", str(other), code=1)
    assert [row["name"] for row in document["differences"]] == ["torch"]
    assert "sha256" in document["differences"][0]["left"]


def test_two_machines(world: World) -> None:
    world.sync("--cuda13")
    mine = world.json("detect")
    assert mine["environment"]["foundation"]["torch"]["version"] == "2.14.1+cu130"
    theirs = json.loads(json.dumps(mine))
    theirs["machine"]["driver"] = "535.54.03"
    theirs["environment"]["foundation"]["torch"]["version"] = "2.13.0+cu130"
    for name, document in (("mine", mine), ("theirs", theirs)):
        (world.root / f"{name}.json").write_text(json.dumps(document))
    done = world.json("foundation", "diff", str(world.root / "mine.json"), str(world.root / "theirs.json"), code=1)
    rows = {row["name"]: (row["left"], row["right"]) for row in done["differences"]}
    assert rows == {"driver": ("none", "535.54.03"), "torch": ("2.14.1+cu130", "2.13.0+cu130")}
    pointless = world.run("foundation", "diff", "mine.json", "theirs.json", "--machine", "mine.json")
    assert pointless.code == 2, pointless
    assert world.run("foundation", "record", "--backend", "cu130", "--backend", "cpu").code == 0
    mine["machine"]["arch"] = "aarch64"
    (world.root / "grace.json").write_text(json.dumps(mine))
    elsewhere = world.run("foundation", "diff", "cu130", "cpu", "--machine", "grace.json")
    assert elsewhere.code == 2, elsewhere
    assert "constraints/pylock.cu130.toml has no files for linux-aarch64" in elsewhere.err


def test_what_can_not_be_compared_is_wrong_usage(world: World) -> None:
    done = world.run("foundation", "diff", "cu999")
    assert done.code == 2, done
    assert "hint: name a backend that has a record" in done.err
    done = world.run("foundation", "diff", "cu130")
    assert done.code == 2, done
    assert "hint: `mlenv foundation record --backend cu130` writes it" in done.err


# ------------------------------------------------------------------------------------------------------------ upgrade


def test_an_overlay_moves_to_the_newest_and_keeps_its_comments(world: World) -> None:
    world.publish(*fake_foundation("cu130", torch="2.15.0").family, index="pytorch-cu130")
    overlay = world.root / "constraints/cu130.txt"
    overlay.write_text("# ours\nTorch==2.14.1+cu130  # the one\n\ntorchvision==0.29.1\nnumpy<3 # why\n")
    world.lock()
    shown = world.run("foundation", "upgrade", "--backend", "cu130", "--dry-run")
    assert "would be moved" in shown.out
    assert "Torch==2.14.1+cu130" in overlay.read_text()
    done = world.run("foundation", "upgrade", "--backend", "cu130")
    assert done.code == 0, done
    assert "↑ torch 2.14.1 → 2.15.0" in done.out
    assert "next: `mlenv lock`" in done.out
    newer = fake_foundation("cu130", torch="2.15.0").family[1].version.partition("+")[0]
    expected = f"# ours\nTorch==2.15.0+cu130  # the one\n\ntorchvision=={newer}\nnumpy<3 # why\n"
    assert overlay.read_text() == expected
    again = world.run("foundation", "upgrade", "--backend", "cu130")
    assert "constraints/cu130.txt is at the newest" in again.out


def test_a_pin_for_another_platform_stays_and_every_change_is_shown(world: World) -> None:
    world.publish(*fake_foundation("cu130", torch="2.15.0").family, index="pytorch-cu130")
    overlay = world.root / "constraints/cu130.txt"
    overlay.write_text(
        "torch==2.13.0; sys_platform == 'win32'\n"
        "torch==2.14.1; sys_platform == 'linux' and python_version < '3.99'\n"
        "torch==2.14.1; sys_platform == 'linux' and python_version > '3.0'\n"
    )
    done = world.run("foundation", "upgrade", "--backend", "cu130")
    assert done.code == 0, done
    assert overlay.read_text() == (
        "torch==2.13.0; sys_platform == 'win32'\n"
        "torch==2.15.0; sys_platform == 'linux' and python_version < '3.99'\n"
        "torch==2.15.0; sys_platform == 'linux' and python_version > '3.0'\n"
    )
    for bound in ('< "3.99"', '> "3.0"'):
        assert f'↑ torch 2.14.1 → 2.15.0 (sys_platform == "linux" and python_version {bound})' in done.out
    assert 'note: torch==2.13.0; sys_platform == "win32" is for no platform of the project and stays' in done.out


def test_a_source_that_cannot_be_asked_leaves_its_overlay_alone(world: World) -> None:
    world.publish(*fake_foundation("cu130", torch="2.15.0").family, index="pytorch-cu130")
    before = (world.root / "constraints/cpu.txt").read_text()
    world.index.fail("pytorch-cpu", CaptivePortal())
    done = world.run("foundation", "upgrade", env={"UV_HTTP_RETRIES": "0"})
    assert done.code == 6, done
    assert "constraints/cpu.txt stays as it is" in done.out
    assert (world.root / "constraints/cpu.txt").read_text() == before
    assert "torch==2.15.0" in (world.root / "constraints/cu130.txt").read_text()


def test_an_overlay_without_torch_is_left_alone_and_that_is_no_fault(world: World) -> None:
    world.publish(Package("tensorflow", "2.21.0"))
    (world.root / "constraints/cpu.txt").write_text("tensorflow==2.21.0\n")
    done = world.run("foundation", "upgrade", "--backend", "cpu")
    assert done.code == 0, done
    assert "constraints/cpu.txt stays as it is\n  note: it pins no torch" in done.out


def test_fit_says_that_a_torchaudio_which_the_application_needs_is_nowhere(world: World) -> None:
    (world.root / "constraints/cu130.txt").write_text("torch==2.14.1\ntorchaudio==2.11.0\n")
    world.require("demo-app", "torchaudio")
    world.index.remove("pytorch-cu130", "torchaudio")
    done = world.run("foundation", "upgrade", "--fit", "--backend", "cu130")
    assert done.code == 5, done
    assert "requirements.in:2 requires torchaudio" in done.err
    assert 'hint: leave the backend out of the lock: [tool.mlenv] unproven = ["cu130"]' in done.err


def test_fit_takes_the_newest_at_which_nothing_is_held_back(world: World) -> None:
    world.publish(*fake_foundation("cu130", torch="2.15.0").family, index="pytorch-cu130")
    world.publish(
        Package("server", "1.0", requires=("torch>=2",)),
        Package("server", "2.0", requires=("torch==2.14.1",)),
    )
    (world.root / "requirements.in").write_text("demo-app\nserver\n")
    (world.root / "constraints/cu130.txt").write_text("torch==2.13.0\ntorchvision==0.28.0\n")
    world.publish(*fake_foundation("cu130", torch="2.13.0").family, index="pytorch-cu130")
    done = world.run("foundation", "upgrade", "--fit", "--backend", "cu130")
    assert done.code == 0, done
    assert "↑ torch 2.13.0 → 2.14.1" in done.out


def test_list_shows_overlay_source_and_what_is_known(world: World) -> None:
    world.publish(*fake_foundation("cu130", torch="2.15.0").family, index="pytorch-cu130")
    document = world.json("foundation", "list")
    row = next(row for row in document["backends"] if row["backend"] == "cu130")
    assert (row["overlay"], row["newest"], row["source"]) == ("2.14.1", "2.15.0", "pytorch-cu130")
    assert "2.14.1" in row["known"]
    assert row["nightly"] is None
    publish_nightlies(world, OLDER, NIGHTLY)
    assert f"nightly of cu130: torch {NIGHTLY}" in world.run("foundation", "list", "--backend", "cu130").out
    asked = len(world.index.requests)
    offline = world.run("foundation", "list", "--offline")
    assert "no source was asked" in offline.out
    assert len(world.index.requests) == asked


# ------------------------------------------------------------------------------------------------------------ nightly


def test_nightly_pins_and_records_the_newest_and_leaves_the_lock_alone(world: World) -> None:
    publish_nightlies(world, OLDER, NIGHTLY)
    stable = world.root / "constraints/cu130.txt"
    stable.write_text("# The foundation of backend cu130: as `mlenv init` heads it.\n" + stable.read_text())
    lock = (world.root / "requirements.txt").read_text()
    said = world.sync("--cuda13", "--nightly")
    assert f"wrote constraints/nightly-cu130.txt and constraints/pylock.nightly-cu130.toml: torch {NIGHTLY}" in said
    assert world.installed["torch"] == f"{NIGHTLY}+cu130"
    assert world.installed["torchvision"] == "0.31.0.dev20261120+cu130"
    assert world.installed["sympy"] == "1.14.0"
    assert (world.root / "requirements.txt").read_text() == lock
    overlay = (world.root / "constraints/nightly-cu130.txt").read_text()
    assert f"torch=={NIGHTLY}+cu130" in overlay
    assert overlay.count("# The foundation of") + overlay.count("# The nightly foundation of") == 1
    assert record_of(world, "nightly-cu130")["tool"]["mlenv"]["channel"] == "nightly"  # type: ignore[index]
    assert world.run("lock", "--check").code == 0
    assert world.run("check").code == 0


def _of_environment(world: World, code: int = 0) -> dict[str, str]:
    """What doctor has against the environment: kind → hint."""
    areas = world.json("doctor", "--offline", code=code)["areas"]
    [found] = [area["findings"] for area in areas if area["name"] == "environment"]
    return {finding["kind"]: finding["hint"] for finding in found}


def test_the_nightly_stays_until_it_is_moved(world: World) -> None:
    publish_nightlies(world, OLDER)
    world.sync("--cuda13", "--nightly")
    publish_nightlies(world, NIGHTLY)
    assert "nothing to do" in world.sync("--cuda13", "--nightly")
    done = world.run("foundation", "upgrade", "--nightly", "--backend", "cu130")
    assert done.code == 0, done
    assert f"↑ torch {OLDER} → {NIGHTLY}" in done.out
    assert _of_environment(world, code=1) == {"environment-stale": "run `mlenv sync --backend cu130 --nightly`"}
    world.sync("--cuda13", "--nightly")
    assert world.installed["torch"] == f"{NIGHTLY}+cu130"
    assert _of_environment(world) == {}, "it is judged by the channel that it was built for"
    assert "flipped" in world.sync("--cuda13") or world.installed["torch"] == "2.14.1+cu130"


def test_an_expired_nightly_names_the_nearest_that_is_there(world: World) -> None:
    publish_nightlies(world, OLDER)
    assert world.run("foundation", "upgrade", "--nightly", "--backend", "cu130").code == 0
    world.index.remove("pytorch-nightly-cu130", "torch")
    world.index.remove("pytorch-nightly-cu130", "torchvision")
    world.index.remove("pytorch-nightly-cu130", "torchaudio")
    publish_nightlies(world, NIGHTLY, "2.16.0.dev20261124")
    done = world.run("sync", "--cuda13", "--nightly", "--verify", "metadata")
    assert done.code == 5, done
    assert f"torch=={OLDER}" in done.err
    assert "has expired" in done.err
    assert f"torch {NIGHTLY} is the nearest that is still there" in done.err
    assert "hint: `mlenv foundation upgrade --nightly --backend cu130` takes the newest" in done.err


def test_an_expired_nightly_is_told_and_moved_although_its_page_is_cached(world: World) -> None:
    world.index.configure("pytorch-nightly-cu130", IndexSettings(cache_control="max-age=600"))
    publish_nightlies(world, OLDER)
    fresh = {"UV_CACHE_DIR": str(world.home / "cache")}
    assert world.run("foundation", "upgrade", "--nightly", "--backend", "cu130", env=fresh).code == 0
    for name in ("torch", "torchvision", "torchaudio"):
        world.index.remove("pytorch-nightly-cu130", name)
    publish_nightlies(world, NIGHTLY)
    done = world.run("sync", "--cuda13", "--nightly", "--verify", "metadata", env=fresh)
    assert done.code == 5, done
    assert f"torch {NIGHTLY} is the nearest that is still there" in done.err
    done = world.run("foundation", "upgrade", "--nightly", "--backend", "cu130", env=fresh)
    assert f"↑ torch {OLDER} → {NIGHTLY}" in done.out, done


def test_nightlies_of_different_days_are_told(world: World) -> None:
    publish_nightlies(world, OLDER, NIGHTLY)
    assert world.run("foundation", "upgrade", "--nightly", "--backend", "cu130").code == 0
    overlay, older = world.root / "constraints/nightly-cu130.txt", OLDER.replace("2.16", "0.31")
    overlay.write_text(overlay.read_text().replace("torchvision==0.31.0.dev20261120", f"torchvision=={older}"))
    done = world.run("foundation", "record", "--nightly", "--backend", "cu130")
    assert done.code == 5, done
    assert "pins nightlies of different days: torch 20261120, torchvision 20261119" in done.err
    assert "hint: `mlenv foundation upgrade --nightly --backend cu130` takes" in done.err
    world.index.fail("pytorch-nightly-cu130", Status(500))
    failed = world.run("foundation", "record", "--nightly", "--backend", "cu130", env={"UV_HTTP_RETRIES": "0"})
    assert "MLENV_INDEX_URL_PYTORCH_NIGHTLY_CU130=<URL>" in failed.err, failed


def test_a_nightly_that_does_not_go_with_the_lock_is_refused(world: World) -> None:
    world.publish(Package("strict", "1.0", requires=("torch<2.15",)))
    world.require("demo-app", "strict")
    publish_nightlies(world, NIGHTLY)
    done = world.run("sync", "--cuda13", "--nightly", "--verify", "metadata")
    assert done.code == 5, done
    assert "strict" in done.err
    assert not (world.root / "constraints/nightly-cu130.txt").exists()


def test_no_prerelease_of_the_application_comes_with_a_nightly(world: World) -> None:
    world.publish(Package("sympy", "1.15.0rc1"), Package("filelock", "4.0.0b1"))
    publish_nightlies(world, NIGHTLY)
    world.sync("--cuda13", "--nightly")
    assert world.installed["sympy"] == "1.14.0"
    assert world.installed["filelock"] == "3.20.0"


def test_a_nightly_takes_its_own_triton_or_a_release(world: World) -> None:
    publish_nightlies(world, NIGHTLY, triton="3.9.0+git1a2b3c")
    world.publish(Package("triton", "3.9.0+git1a2b3c"), index="pytorch-nightly-cu130")
    world.sync("--cuda13", "--nightly")
    assert world.installed["triton"] == "3.9.0+git1a2b3c"


def test_a_nightly_without_its_own_triton_takes_a_release(world: World) -> None:
    triton = next((p.version for p in world.foundations["cu130"].companions if p.name == "triton"), "3.8.0")
    publish_nightlies(world, NIGHTLY, triton=triton)
    world.publish(Package("triton", triton))
    world.sync("--cuda13", "--nightly")
    assert world.installed["triton"] == triton


def test_what_has_no_nightly_is_left_out_and_said(world: World) -> None:
    publish_nightlies(world, NIGHTLY, vision=False)
    done = world.run("foundation", "upgrade", "--nightly", "--backend", "cu130")
    assert done.code == 0, done
    assert "pytorch-nightly-cu130 has no torchvision for torch" in done.out
    assert "# torchvision==" in (world.root / "constraints/nightly-cu130.txt").read_text()


def test_without_a_nightly_index_the_command_that_adds_it_is_named(world: World) -> None:
    done = world.run("sync", "--cuda13", "--nightly", "--verify", "metadata")
    assert done.code == 3, done
    assert 'has no index "pytorch-nightly-cu130"' in done.err
    assert "hint: `mlenv init --nightly --backend cu130` adds it" in done.err
    assert world.run("init", "--nightly", "--backend", "cu130").code == 0
    names = [table["name"] for table in tomllib.loads((world.root / "uv.toml").read_text())["index"]]
    assert names.count("pytorch-nightly-cu130") == 1


def test_locked_finds_no_nightly(world: World) -> None:
    publish_nightlies(world, NIGHTLY)
    done = world.run("sync", "--cuda13", "--nightly", "--locked", "--verify", "metadata")
    assert done.code == 3, done
    assert "constraints/nightly-cu130.txt is missing" in done.err
    assert not Path(world.root / "constraints/nightly-cu130.txt").exists()


def test_detect_says_what_sync_gets_where_the_setting_names_a_backend(world: World) -> None:
    world.configure('backend = "cu130"\n')
    assert world.json("detect")["backend"] == "cu130"
    assert world.json("detect", "--cpu")["backend"] == "cpu"
