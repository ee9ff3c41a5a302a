"""``mlenv bundle`` and ``mlenv sync --bundle`` with the real uv: from loopback indexes, then without them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.index import LoopbackIndex, Status, Truncated
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Build, Package
from support.world import LOCAL_BACKEND, World, make_world

DEAD = "http://127.0.0.1:9/simple"
SOURCES = {"demo_app/__init__.py": "print('other bytes')\n"}


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    made = make_world(index, project, run_mlenv)
    tool = [Requirement(line) for line in importlib.metadata.requires("mlenv") or ()]
    named = [need.name for need in tool if need.marker is None]
    made.publish(*(Package(name, importlib.metadata.version(name)) for name in named))
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundle of the first test stays: no URL is in it, so it is that of every other as well."""
    return tmp_path_factory.mktemp("kept") / "bundle"


@pytest.fixture
def bundle(world: World, kept: Path) -> Path:
    """A bundle of both backends, beside the project."""
    path = world.root.parent / "carried"
    if not kept.exists():
        done = world.run("bundle", "-o", kept)
        assert done.code == 0, done
    shutil.copytree(kept, path)
    return path


def elsewhere(world: World, name: str) -> tuple[Path, dict[str, str | None]]:
    """A copy of the project on a machine without network and with an empty cache, and that machine's variables."""
    root = world.root.parent / name
    shutil.copytree(world.root, root, ignore=shutil.ignore_patterns(".mlenv", ".venv"))
    text = (root / "uv.toml").read_text()
    (root / "uv.toml").write_text(text.replace(world.index.root, "http://127.0.0.1:9"))
    return root, {"UV_DEFAULT_INDEX": DEAD, "UV_CACHE_DIR": str(world.root.parent / f"cache-of-{name}")}


def manifest(bundle: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((bundle / "bundle.json").read_text())
    return document


def test_an_environment_from_a_bundle_is_the_one_from_the_indexes(world: World, bundle: Path) -> None:
    root, alone = elsewhere(world, "node")
    asked = len(world.index.requests)
    done = world.program("sync", "--cuda13", "--bundle", bundle, "--json", cwd=root, env=alone)
    assert done.code == 0, done
    assert json.loads(done.out)["action"] == "built"
    assert len(world.index.requests) == asked
    assert world.program("check", "--deep", cwd=root, env=alone).code == 0
    world.sync("--cuda13")
    there = world.generation / "mlenv.json"
    here = json.loads((root / ".venv" / "mlenv.json").read_text())
    assert here["planned"] == json.loads(there.read_text())["planned"]
    assert here["foundation"] == json.loads(there.read_text())["foundation"]
    flipped = world.run("sync", "--cuda13", "--bundle", bundle)  # the same inputs, wherever the files come from
    assert (flipped.code, flipped.out) == (0, "nothing to do: .venv is in sync (cu130)\n"), flipped
    repaired = world.program("sync", "--cuda13", "--rebuild", "--bundle", bundle, cwd=root, env=alone)
    assert repaired.code == 0, repaired


def test_a_bundle_names_no_index_and_fetches_nothing_twice(world: World, bundle: Path) -> None:
    texts = [path.read_text() for path in bundle.rglob("*") if path.suffix in (".json", ".toml", ".txt")]
    assert not any("http" in text for text in texts)
    names = {path.name for path in (bundle / "tool").iterdir()}
    assert f"uv-{importlib.metadata.version('uv')}-py3-none-any.whl" in names
    assert any(name.startswith("mlenv-") for name in names)
    assert (bundle / "project" / "requirements.txt").read_text() == (world.root / "requirements.txt").read_text()
    before = (bundle / "bundle.json").read_bytes()

    def fetched() -> list[str]:
        """The wheels that were asked for whole: their RECORDs are looked at, too."""
        return [r.path for r in world.index.requests if r.path.endswith(".whl") and r.range is None]

    earlier = fetched()
    again = world.json("bundle", "-o", bundle)
    assert again["fetched"] == {"files": 0, "bytes": 0}
    assert fetched() == earlier
    assert (bundle / "bundle.json").read_bytes() == before
    wheel = next((bundle / "wheels").glob("demo_app-*"))
    wheel.write_bytes(bytes(wheel.stat().st_size))
    assert world.json("bundle", "-o", bundle)["fetched"] == {"files": 1, "bytes": wheel.stat().st_size}
    narrower = world.json("bundle", "-o", bundle, "--cpu", "--without-mlenv")
    assert narrower["parts"] == [{"backend": "cpu", "platform": "linux-x86_64"}]
    assert not any("cu130" in path.name for path in (bundle / "wheels").iterdir())
    assert not list((bundle / "tool").iterdir())


def test_a_dry_run_writes_nothing(world: World) -> None:
    done = world.run("bundle", "-o", world.root.parent / "carried", "--backend", "cpu", "--dry-run")
    assert done.code == 0, done
    assert "would fetch" in done.out
    assert "cpu on linux-x86_64" in done.out
    assert not (world.root.parent / "carried").exists()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder as a mount that nobody can write to."""
    here = str(folder)
    words = [["mount", "--bind", here, here], ["mount", "-o", "remount,ro,bind", here]]
    for command in words:
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", folder], capture_output=True, check=False)
            pytest.skip("no right to mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_many_nodes_read_one_read_only_mount_at_once(world: World, bundle: Path) -> None:
    nodes = [elsewhere(world, f"node-{number}") for number in range(3)]
    command = [sys.executable, "-m", "mlenv", "sync", "--cpu", "--verify", "metadata", "--bundle", str(bundle)]
    with read_only(bundle):
        with pytest.raises(OSError, match="Read-only"):
            (bundle / "probe").touch()
        started = []
        for root, alone in nodes:
            env = {**os.environ, "HOME": str(world.home), **{k: v for k, v in alone.items() if v is not None}}
            started.append(subprocess.Popen(command, cwd=root, env=env, stderr=subprocess.PIPE, text=True))
        ends = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert [code for _, code in ends] == [0, 0, 0], ends
    for root, alone in nodes:
        assert world.program("check", cwd=root, env=alone).code == 0


def test_a_bundle_of_another_lock_or_for_other_targets_is_refused(world: World, bundle: Path) -> None:
    root, alone = elsewhere(world, "node")

    def sync(*words: str | Path) -> tuple[int, str]:
        done = world.program("sync", "--verify", "metadata", *words, cwd=root, env=alone)
        return done.code, done.err

    code, told = sync("--cpu", "--bundle", bundle / "wheels")
    assert (code, "is no bundle" in told) == (2, True), told
    code, told = sync("--cpu", "--bundle", bundle, "--with", "demo-app")
    assert code == 2, told
    assert world.json("bundle", "-o", bundle, "--backend", "cpu")["parts"]
    code, told = sync("--backend", "cu130", "--bundle", bundle)
    assert code == 3, told
    assert "holds nothing for cu130 on linux-x86_64; it is for cpu on linux-x86_64" in told
    overlay = root / "constraints" / "cpu.txt"
    overlay.write_text(overlay.read_text() + "mpmath<9\n")
    lock = world.root / "constraints" / "cpu.txt"
    lock.write_text(overlay.read_text())
    assert world.run("lock").code == 0
    shutil.copy(world.root / "requirements.txt", root)
    code, told = sync("--cpu", "--bundle", bundle)
    assert code == 1, told
    assert "another state of this project: requirements.txt, constraints/cpu.txt differ" in told
    (root / "requirements.txt").unlink()
    code, told = sync("--cpu", "--bundle", bundle)
    assert (code, "requirements.txt is missing" in told) == (1, True), told


def test_a_damaged_file_is_named(world: World, bundle: Path) -> None:
    root, alone = elsewhere(world, "node")
    [wheel] = (bundle / "wheels").glob("torch-*cpu*.whl")
    whole = wheel.read_bytes()

    def told(data: bytes | None) -> str:
        wheel.unlink() if data is None else wheel.write_bytes(data)
        done = world.program("sync", "--cpu", "--verify", "metadata", "--bundle", bundle, cwd=root, env=alone)
        assert done.code == 7, done
        assert wheel.name in done.err
        assert not (root / ".venv").exists()
        wheel.write_bytes(whole)
        return done.err

    assert "bytes instead of" in told(whole[:-9])
    middle = len(whole) // 2
    assert "its bytes differ" in told(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    assert "No such file" in told(None)
    [plan] = (bundle / "plans").glob("*cpu*")
    plan.write_text(plan.read_text().replace('"torch"', '"torchy"'))
    done = world.program("sync", "--cpu", "--bundle", bundle, cwd=root, env=alone)
    assert (done.code, plan.name in done.err) == (7, True), done


def test_a_wheel_that_the_lock_does_not_list_is_refused_though_the_manifest_knows_it(
    world: World, bundle: Path
) -> None:
    root, alone = elsewhere(world, "node")
    world.publish(Package("demo-app", "1.0", requires=("torch>=2",), files=SOURCES))
    document = json.loads((bundle / "bundle.json").read_text())
    part = next(part for part in document["parts"] if part["backend"] == "cpu")
    [entry] = [file for file in document["files"] if "demo_app" in file["path"]]
    data = world.published[-1].data
    plan = (bundle / part["plan"]).read_text()
    sha256 = hashlib.sha256(data).hexdigest()
    forged = plan.replace(entry["sha256"], sha256).replace(f"size = {entry['size']}", f"size = {len(data)}")
    (bundle / part["plan"]).write_text(forged)
    (bundle / entry["path"]).write_bytes(data)
    entry |= {"sha256": sha256, "size": len(data)}
    [listed] = [file for file in document["files"] if file["path"] == part["plan"]]
    listed |= {"sha256": hashlib.sha256(forged.encode()).hexdigest(), "size": len(forged)}
    (bundle / "bundle.json").write_text(json.dumps(document))
    done = world.program("sync", "--cpu", "--bundle", bundle, cwd=root, env=alone)
    assert done.code == 7, done
    assert "demo-app 1.0 in the bundle is no file that the lock lists" in done.err


def test_a_broken_download_is_gone_on_with_and_a_folder_of_something_else_left_alone(world: World) -> None:
    target = world.root.parent / "carried"
    words = ("bundle", "-o", target, "--backend", "cpu", "--without-mlenv")
    world.index.fail("pypi", Truncated(), package="demo-app", part="file")
    done = world.run(*words)
    assert (done.code, "demo_app" in done.err) == (6, True), done
    assert not (target / "bundle.json").exists()
    world.index.mend("pypi")
    world.index.fail("pypi", Status(503), package="demo-app", part="file", times=1)
    assert world.run(*words, env={"UV_HTTP_RETRIES": "2"}).code == 0
    rest = [r.range for r in world.index.requests if "demo_app" in r.path and (r.range or "").endswith("-")]
    assert rest, "the rest was asked for, not the whole"
    (target / "thesis.tex").write_text("mine")
    done = world.run(*words)
    assert (done.code, "thesis.tex" in done.err) == (2, True), done


def test_local_projects_and_what_is_built_from_source_are_there_too(world: World, tmp_path: Path) -> None:
    folder, marker, bundle = world.root / "libs" / "mine", tmp_path / "ran", world.root.parent / "carried"
    (folder / "src").mkdir(parents=True)
    system = 'requires = ["build-helper>=1"]\nbuild-backend = "build_backend"\nbackend-path = ["."]\n'
    project = 'name = "my-library"\nversion = "0.1"\ndependencies = ["mpmath"]\n'
    (folder / "pyproject.toml").write_text(f"[build-system]\n{system}\n[project]\n{project}")
    (folder / "build_backend.py").write_text(f"import build_helper\n{LOCAL_BACKEND}")
    (folder / "src" / "my_library.py").write_text("HERE = 'first'\n")
    source = Package("only-source", "1.0", kind="sdist", build=Build(marker=marker))
    world.publish(source, Package("build-helper", "1.0"))
    world.configure('build = ["only-source"]\n')
    world.require("demo-app", "only-source", "-e ./libs/mine")
    words = ("bundle", "-o", bundle, "--backend", "cpu", "--without-mlenv")
    assert world.run(*words).code == 0
    [built] = (bundle / "wheels").glob("only_source*.whl")
    times = marker.read_text()
    assert world.json(*words)["fetched"]["files"] == 0
    assert marker.read_text() == times, "what was built of the same source is taken again"
    root, alone = elsewhere(world, "node")
    done = world.program("sync", "--cpu", "--verify", "metadata", "--bundle", bundle, cwd=root, env=alone)
    assert done.code == 0, done
    script = "import my_library, only_source; print(my_library.HERE)"
    assert world.program("run", "--", "python", "-c", script, cwd=root, env=alone).out == "first\n"
    [damaged] = (root / ".venv").resolve().glob("lib/python3*/site-packages/only_source/__init__.py")
    damaged.unlink()
    repaired = world.program("check", "--repair", "--offline", cwd=root, env=alone)
    assert repaired.code == 0, repaired
    assert world.program("check", "--deep", cwd=root, env=alone).code == 0
    shutil.move(bundle, tmp_path / "gone")
    gone = world.program("sync", "--cpu", "--rebuild", "--bundle", bundle, cwd=root, env=alone)
    assert (gone.code, "is no bundle" in gone.err) == (2, True), gone
    assert built.name in {path.name for path in (tmp_path / "gone" / "wheels").iterdir()}
