"""The ground the other tests stand on, proven with the real uv against the loopback index."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from support.index import (
    CaptivePortal,
    Dropped,
    Fault,
    IndexSettings,
    LoopbackIndex,
    Slow,
    Status,
    Truncated,
    WrongHash,
    unreachable_url,
)
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Build, Package, fake_foundation, fake_nccl, fake_torch, write

DEMO = Package("Demo.App", "1.0", requires=("dep>=1",), extras={"gpu": ("dep2; python_version > '3'",)})
DEP = Package("dep", "1.5")
DEP2 = Package("dep2", "2.0")
HELPED = Package("helped", "1.0", entry_points={"helped": "helped:main"})


def compile_(
    run_uv: RunProgram,
    folder: Path,
    url: str,
    *lines: str,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Finished:
    (folder / "requirements.in").write_text("\n".join(lines) + "\n")
    argv = ("pip", "compile", "requirements.in", "--no-header", "--no-annotate", "-q", "--default-index", url, *options)
    return run_uv(*argv, "--python", sys.executable, cwd=folder, env=env)


def install(run_uv: RunProgram, folder: Path, url: str, *words: str) -> Finished:
    argv = ("pip", "install", "--target", "out", "--default-index", url, "--python", sys.executable, "-q", *words)
    return run_uv(*argv, cwd=folder)


# --- wheels


def test_same_description_gives_the_same_bytes() -> None:
    assert replace(DEMO).data == DEMO.data
    sdist = Package("a", "1", kind="sdist")
    assert replace(sdist).data == sdist.data


def test_files_carry_no_time_of_their_making() -> None:
    with zipfile.ZipFile(io.BytesIO(DEMO.data)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    sdist = Package("a", "1", kind="sdist").data
    assert sdist[4:8] == bytes(4), "gzip's own timestamp"
    with tarfile.open(fileobj=io.BytesIO(sdist)) as archive:
        assert {entry.mtime for entry in archive.getmembers()} == {0}


def test_different_description_gives_different_bytes() -> None:
    assert replace(DEP, files={"dep/__init__.py": "changed"}).sha256 != DEP.sha256


@pytest.mark.parametrize(
    ("package", "filename"),
    [
        (Package("Demo.App", "1.0"), "demo_app-1.0-py3-none-any.whl"),
        (
            Package("a", "1+cu130", build_tag="3", tag="cp311-cp311-linux_x86_64"),
            "a-1+cu130-3-cp311-cp311-linux_x86_64.whl",
        ),
        (Package("Demo.App", "1.0", kind="sdist"), "demo_app-1.0.tar.gz"),
    ],
)
def test_file_name(package: Package, filename: str) -> None:
    assert package.filename == filename


def test_record_lists_every_file_of_the_wheel() -> None:
    with zipfile.ZipFile(io.BytesIO(HELPED.data)) as archive:
        rows = archive.read("helped-1.0.dist-info/RECORD").decode().splitlines()
        assert [row.split(",")[0] for row in rows] == archive.namelist()
        assert rows[-1] == "helped-1.0.dist-info/RECORD,,"


def test_requirement_of_an_extra_keeps_its_own_marker() -> None:
    assert "Requires-Dist: dep2; (python_version > '3') and extra == \"gpu\"" in DEMO.metadata.decode()


def test_write_puts_the_file_into_a_folder(tmp_path: Path) -> None:
    path = write(DEP, tmp_path / "wheels")
    assert path.name == DEP.filename
    assert path.read_bytes() == DEP.data


def test_static_sdist_declares_its_requirements(tmp_path: Path) -> None:
    sdist = Package("native", "0.1", kind="sdist", requires=("dep",), requires_python=">=3.9", extras={"x": ("dep2",)})
    with tarfile.open(fileobj=io.BytesIO(sdist.data)) as archive:
        archive.extractall(tmp_path, filter="data")
    info = (tmp_path / "native-0.1" / "PKG-INFO").read_text()
    assert info.startswith("Metadata-Version: 2.2\n")
    assert "Requires-Dist: dep\n" in info
    declared = tomllib.loads((tmp_path / "native-0.1" / "pyproject.toml").read_text())["project"]
    assert (declared["dependencies"], declared["optional-dependencies"]) == (["dep"], {"x": ["dep2"]})


# --- the fake foundation


@pytest.mark.parametrize(
    ("torch", "version", "cuda"),
    [
        (fake_torch("2.14.1", cuda="13.0"), "2.14.1+cu130", "13.0"),
        (fake_torch("2.14.1+cu126", cuda="12.6"), "2.14.1+cu126", "12.6"),
        (fake_torch("2.14.1", cuda=None), "2.14.1+cpu", None),
        (fake_torch("2.14.1", cuda=None, build="2.14.1"), "2.14.1", None),
    ],
)
def test_torch_says_its_build(torch: Package, version: str, cuda: str | None, tmp_path: Path) -> None:
    with zipfile.ZipFile(write(torch, tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    script = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert done.stdout == f"{version} {cuda} False\n", done.stderr


@pytest.mark.parametrize("source", ["pytorch", "default"])
@pytest.mark.parametrize(
    ("backend", "nccl"), [("cpu", None), ("cu126", "nvidia-nccl-cu12"), ("cu130", "nvidia-nccl-cu13")]
)
def test_foundation_resolves_and_imports(
    backend: str, nccl: str | None, source: str, index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    foundation = fake_foundation(backend, source="pytorch" if source == "pytorch" else "default")
    index.add("all", *foundation.everything)
    (tmp_path / "overlay.txt").write_text(foundation.overlay)
    done = install(run_uv, tmp_path, index.url("all"), "-r", "overlay.txt")
    assert done.code == 0, done.err
    installed = {path.name.partition("-")[0].replace("_", "-") for path in (tmp_path / "out").glob("*.dist-info")}
    assert installed == {package.normalized for package in foundation.everything}
    assert {name for name in installed if "nccl" in name} == ({nccl} if nccl else set())
    imported = subprocess.run([sys.executable, "-c", "import torch"], env={"PYTHONPATH": str(tmp_path / "out")})
    assert imported.returncode == 0


def test_labels_are_on_the_versions_of_the_backend_s_own_index_only() -> None:
    assert fake_foundation("cu130").overlay.splitlines()[0] == "torch==2.14.1+cu130"
    assert fake_foundation("cu130", source="default").overlay.splitlines()[0] == "torch==2.14.1"


def test_another_family_s_nccl_breaks_the_import_of_torch(tmp_path: Path) -> None:
    foundation = fake_foundation("cu130")
    for package in (*foundation.everything, fake_nccl("cu12")):
        with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
            archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert "undefined symbol: ncclCommResume" in done.stderr


# --- the index


@pytest.mark.parametrize("json", [True, False])
@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_uv_locks_with_hashes(
    json: bool, metadata: bool, ranges: bool, index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    index.add("default", DEMO, DEP, DEP2)
    index.configure("default", IndexSettings(json=json, metadata=metadata, ranges=ranges))
    done = compile_(run_uv, tmp_path, index.url("default"), "demo-app", options=["--generate-hashes"])
    assert done.code == 0, done.err
    expected = f"demo-app==1.0 \\\n    --hash=sha256:{DEMO.sha256}\ndep==1.5 \\\n    --hash=sha256:{DEP.sha256}\n"
    assert done.out == expected
    ranged = any(request.range for request in index.requests)
    assert (index.count(".metadata") > 0, ranged) == (metadata, ranges and not metadata)


def test_extras_bring_their_requirements(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", DEMO, DEP, DEP2)
    done = compile_(run_uv, tmp_path, index.url("default"), "demo-app[gpu]")
    assert done.out.split() == ["demo-app==1.0", "dep==1.5", "dep2==2.0"]


def test_uv_installs_a_wheel_that_works(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", HELPED)
    assert install(run_uv, tmp_path, index.url("default"), "helped").code == 0
    script = tmp_path / "out" / "bin" / "helped"
    done = subprocess.run([script], env={"PYTHONPATH": str(tmp_path / "out")}, capture_output=True, text=True)
    assert done.stdout == "helped 1.0\n"


def test_indexes_are_apart(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", DEP).add("cu130", DEP2)
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").code == 0
    assert compile_(run_uv, tmp_path, index.url("default"), "dep2").code != 0
    assert compile_(run_uv, tmp_path, index.url("cu130"), "dep2").code == 0


def test_local_version_can_be_downloaded(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("cu130", fake_torch("2.14.1+cu130", cuda="13.0"))
    done = install(run_uv, tmp_path, index.url("cu130"), "torch==2.14.1+cu130")
    assert done.code == 0, done.err
    assert "__version__ = '2.14.1+cu130'" in (tmp_path / "out" / "torch" / "version.py").read_text()


@pytest.mark.parametrize("json", [True, False])
def test_uv_obeys_requires_python_and_yanked(
    json: bool, index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    index.configure("default", IndexSettings(json=json))
    newer = Package("dep", "1.6", requires_python=">=4")
    index.add("default", DEP, newer, Package("dep", "1.7", yanked="broken"))
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").out == "dep==1.5\n"


def test_uv_reads_the_upload_time(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", DEP, Package("dep", "1.6", upload_time="2026-06-01T00:00:00Z"))
    options = ["--exclude-newer", "2026-03-01T00:00:00Z"]
    assert compile_(run_uv, tmp_path, index.url("default"), "dep", options=options).out == "dep==1.5\n"


def test_changes_are_seen_at_once(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", DEP)
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").out == "dep==1.5\n"
    index.add("default", Package("dep", "1.6"))
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").out == "dep==1.6\n"
    index.remove("default", "dep")
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").code != 0


def test_an_unchanged_page_is_answered_304(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", DEP)
    for _ in range(2):
        compile_(run_uv, tmp_path, index.url("default"), "dep")
    assert [r.status for r in index.requests if r.path == "/default/simple/dep/"] == [200, 304]


def test_ranges(index: LoopbackIndex) -> None:
    index.add("default", DEP)
    size = len(DEP.data)
    table = {"bytes=0-39": DEP.data[:40], "bytes=-5": DEP.data[-5:], f"bytes={size - 2}-{size + 50}": DEP.data[-2:]}
    for header, expected in table.items():
        with urlopen(Request(index.file_url("default", DEP), headers={"Range": header})) as answer:
            assert (answer.status, answer.read()) == (206, expected)
            start = DEP.data.rindex(expected)
            assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{size}"
    with pytest.raises(HTTPError) as raised:
        urlopen(Request(index.file_url("default", DEP), headers={"Range": f"bytes={size}-"}))
    assert raised.value.code == 416


# --- source distributions


@pytest.mark.parametrize("static", [True, False])
def test_only_a_dynamic_sdist_runs_code_at_lock_time(
    static: bool, index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    index.add(
        "default",
        Package("native", "0.1", kind="sdist", requires=("dep",), build=Build(marker=marker, static=static)),
        DEP,
    )
    done = compile_(run_uv, tmp_path, index.url("default"), "native")
    assert done.out.split() == ["dep==1.5", "native==0.1"], done.err
    assert marker.exists() is not static


def test_installing_an_sdist_runs_its_code(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    index.add("default", Package("native", "0.1", kind="sdist", build=Build(marker=marker)))
    done = install(run_uv, tmp_path, index.url("default"), "native")
    assert done.code == 0, done.err
    assert set(marker.read_text().split()) == {"build_backend"}
    assert (tmp_path / "out" / "native" / "__init__.py").is_file()


def test_setup_py_leaves_its_mark_too(tmp_path: Path) -> None:
    sdist = Package("native", "0.1", kind="sdist", build=Build(marker=tmp_path / "ran"))
    with tarfile.open(fileobj=io.BytesIO(sdist.data)) as archive:
        archive.extractall(tmp_path, filter="data")
    subprocess.run([sys.executable, tmp_path / "native-0.1" / "setup.py"], check=True)
    assert (tmp_path / "ran").read_text() == "setup.py\n"


def test_a_build_that_imports_torch_needs_it_beside(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", Package("kernels", "1.0", kind="sdist", build=Build(imports=("torch",))))
    index.add("default", fake_torch("2.14.1", cuda="13.0"))
    run_uv("venv", "env", "--python", sys.executable, cwd=tmp_path)
    options = ("--default-index", index.url("default"), "--python", "env", "--no-build-isolation")
    assert "No module named 'torch'" in run_uv("pip", "install", "kernels", *options, cwd=tmp_path).err
    assert run_uv("pip", "install", "torch", *options, cwd=tmp_path).code == 0
    assert run_uv("pip", "install", "kernels", *options, cwd=tmp_path).code == 0


# --- faults


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Status(401), "401"),
        (Status(403), "403"),
        (Status(404), "not found"),
        (Status(429, {"Retry-After": "1"}), "429"),
        (Status(500), "500"),
        (Status(503), "503"),
        (CaptivePortal(), "no versions of dep"),
        (Dropped(), "connection closed before message completed"),
        (Truncated(), "end of file before message length"),
    ],
)
def test_uv_meets_a_failing_page(
    fault: Fault, words: str, index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    index.add("default", DEP).fail("default", fault)
    done = compile_(run_uv, tmp_path, index.url("default"), "dep")
    assert done.code != 0
    assert words.lower() in done.err.lower()
    index.mend("default")
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").code == 0


def test_a_fault_of_one_package_leaves_the_others_alone(
    index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    index.add("default", DEP, DEP2).fail("default", Status(500), package="dep")
    assert compile_(run_uv, tmp_path, index.url("default"), "dep2").code == 0
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").code != 0


def test_a_fault_of_files_leaves_pages_and_metadata_alone(
    index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    index.add("default", DEP).fail("default", Truncated(), part="file")
    assert compile_(run_uv, tmp_path, index.url("default"), "dep").code == 0
    assert install(run_uv, tmp_path, index.url("default"), "dep").code != 0


def test_a_fault_can_be_for_a_number_of_times(index: LoopbackIndex) -> None:
    index.add("default", DEP).fail("default", Status(503), times=2)
    seen = []
    for _ in range(3):
        try:
            seen.append(urlopen(index.url("default") + "/dep/").status)
        except HTTPError as error:
            seen.append(error.code)
    assert seen == [503, 503, 200]


def test_uv_refuses_a_wrong_hash(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", DEP).fail("default", WrongHash(), package="dep")
    locked = compile_(run_uv, tmp_path, index.url("default"), "dep", options=["--generate-hashes"])
    assert DEP.sha256 not in locked.out
    (tmp_path / "lock.txt").write_text(locked.out)
    done = install(run_uv, tmp_path, index.url("default"), "--require-hashes", "-r", "lock.txt")
    assert done.code != 0
    assert "Hash mismatch" in done.err


def test_uv_goes_by_the_lock_where_the_index_lists_another_hash(
    index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path
) -> None:
    index.add("default", DEP).fail("default", WrongHash(), package="dep")
    (tmp_path / "lock.txt").write_text(f"dep==1.5 --hash=sha256:{DEP.sha256}\n")
    assert install(run_uv, tmp_path, index.url("default"), "--require-hashes", "-r", "lock.txt").code == 0


def test_uv_refuses_a_file_that_was_replaced(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("default", replace(DEP, files={"dep/__init__.py": "evil = True\n"}))
    (tmp_path / "lock.txt").write_text(f"dep==1.5 --hash=sha256:{DEP.sha256}\n")
    done = install(run_uv, tmp_path, index.url("default"), "--require-hashes", "-r", "lock.txt")
    assert done.code != 0
    assert "Hash mismatch" in done.err


def test_slow_index_waits(index: LoopbackIndex) -> None:
    index.add("default", DEP).fail("default", Slow(0.2))
    started = time.monotonic()
    urlopen(index.url("default") + "/dep/").read()
    assert time.monotonic() - started >= 0.2


def test_a_waiting_request_does_not_keep_the_server_from_closing() -> None:
    with LoopbackIndex() as index:
        index.add("default", DEP).fail("default", Slow(30))
        client = socket.create_connection(("127.0.0.1", int(index.root.rpartition(":")[2])))
        client.sendall(b"GET /default/simple/dep/ HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
        started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5


def test_credentials_open_the_door(index: LoopbackIndex, run_uv: RunProgram, tmp_path: Path) -> None:
    index.add("private", DEP)
    index.configure("private", IndexSettings(credentials=("ann", "s3cret")))
    assert "401" in compile_(run_uv, tmp_path, index.url("private"), "dep").err
    assert not any(request.authorized for request in index.requests)
    named = f"private={index.url('private')}"
    for password, opens in (("wrong", False), ("s3cret", True)):
        env = {"UV_INDEX_PRIVATE_USERNAME": "ann", "UV_INDEX_PRIVATE_PASSWORD": password}
        done = compile_(run_uv, tmp_path, named, "dep", env=env)
        assert (done.code == 0) is opens, done.err
    assert index.requests[-1].authorized


def test_the_log_counts(index: LoopbackIndex) -> None:
    index.add("default", DEP)
    urlopen(index.url("default") + "/dep/").read()
    urlopen(Request(index.file_url("default", DEP), method="HEAD")).read()
    assert (index.count(), index.count("simple/dep"), index.count("files", method="HEAD")) == (2, 1, 1)


def test_unreachable_index_refuses(run_uv: RunProgram, tmp_path: Path) -> None:
    done = compile_(run_uv, tmp_path, unreachable_url(), "dep")
    assert done.code != 0
    assert "refused" in done.err


# --- interpreters and fixtures


def test_private_python_is_its_own_base(private_python: Path, tmp_path: Path, run_uv: RunProgram) -> None:
    assert run_uv("venv", "env", "--python", private_python, cwd=tmp_path).code == 0
    (tmp_path / "env" / "pyvenv.cfg").unlink()
    script = "import sys; print(sys.base_prefix)"
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", script], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == private_python.parent.parent
    assert private_python.is_relative_to(tmp_path)


def test_what_uv_does_to_an_environment_without_pyvenv_cfg_stays_private(
    private_python: Path, index: LoopbackIndex, tmp_path: Path, run_uv: RunProgram
) -> None:
    index.add("default", HELPED)
    run_uv("venv", "env", "--python", private_python, cwd=tmp_path)
    (tmp_path / "env" / "pyvenv.cfg").unlink()
    python = tmp_path / "env" / "bin" / "python"
    done = run_uv("pip", "install", "helped", "--python", python, "--default-index", index.url("default"), cwd=tmp_path)
    assert done.code == 0, done.err
    made = [path for path in private_python.parent.parent.rglob("helped*") if not path.is_symlink()]
    assert {path.name for path in made} >= {"helped", "helped-1.0.dist-info"}


def test_base_python_is_no_environment(base_python: Path) -> None:
    script = "import sys; print(sys.prefix == sys.base_prefix)"
    assert subprocess.run([base_python, "-I", "-c", script], capture_output=True, text=True).stdout == "True\n"


@pytest.fixture
def dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set by the test's own fixture, so after ``clean_env``: what a run must not see."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere/else")


def test_environment_is_clean() -> None:
    assert not [name for name in os.environ if name.startswith(("MLENV_", "UV_", "PIP_", "CONDA_"))]
    assert not {"CI", "VIRTUAL_ENV"} & set(os.environ)
    assert "127.0.0.1" in os.environ["NO_PROXY"]


@pytest.mark.usefixtures("dirty")
def test_run_mlenv_returns_what_it_wrote_and_reads_no_user_s_settings(run_mlenv: RunProgram, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    (probe / "mlenv").mkdir(parents=True)
    (probe / "mlenv" / "__init__.py").touch()
    (probe / "mlenv" / "__main__.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1:], os.environ['UV_CACHE_DIR'], os.environ['XDG_CONFIG_HOME'], os.environ.get('LANG'))\n"
        "sys.exit(7)\n"
    )
    done = run_mlenv("a", tmp_path, cwd=probe, env={"PYTHONPATH": str(probe), "LANG": None})
    assert done.code == 7
    assert done.out == f"['a', {str(tmp_path)!r}] {tmp_path / 'uv-cache'} {tmp_path / 'home' / 'config'} None\n"


def test_projects_have_folders_of_their_own(project: ProjectFactory) -> None:
    first = project({"requirements.in": "dep\n", "constraints/cpu.txt": "    torch==2.14.1\n"})
    second = project({})
    assert (first / "constraints" / "cpu.txt").read_text() == "torch==2.14.1\n"
    assert second != first
    assert not list(second.iterdir())
