"""The maintainers' script that compares the catalogue with an index, against the loopback index."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.index import IndexSettings, LoopbackIndex, Status, unreachable_url
from support.wheels import Package

SCRIPT = Path(__file__).parents[2] / "scripts/refresh_catalogue.py"
LINUX, ARM, WINDOWS = "manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "win_amd64"
MACOS = "macosx_14_0_arm64"
ON_LINUX = "platform_system == 'Linux'"
CUDA_13 = f"cuda-toolkit[cublas,cudart]==13.2.2; {ON_LINUX}"
CUDA_12 = f"nvidia-cuda-runtime-cu12==12.8.90; {ON_LINUX} and platform_machine == 'x86_64'"
CATALOGUE = """# Kept: the comment on top.
schema = 1

[[driver_family]]
cuda_major = 13
linux = "580"  # kept, too
source = "release notes"

# ---- releases, newest first

[[release]]
torch = "2.10.0"
date = 2026-01-21
torchvision = "0.25.0"
torchaudio = "2.10.0"
# Kept: a comment in a row.
python = ["3.11", "3.12"]
backends = ["cpu", "cu128"]  # kept at the end of a line
unconfirmed = ["cu129"]
pypi = { linux-x86_64 = "cu128", linux-aarch64 = "cpu", windows-x86_64 = "cpu", macos-arm64 = "cpu" }
source = "metadata"

[[release]]
torch = "2.9.0"
date = 2025-10-15
torchvision = "0.24.0"
torchaudio = "2.9.0"
python = ["3.12"]
backends = ["cpu", "cu128"]
pypi = { linux-x86_64 = "cu128" }
source = "metadata"
"""


def _torch(version: str, tag: str, *requires: str, uploaded: str, yanked: bool = False) -> Package:
    when = f"{uploaded}T12:00:00Z"
    return Package("torch", version, tag=tag, requires=requires, upload_time=when, yanked=yanked)


def _plain(name: str, version: str, *requires: str) -> Package:
    return Package(name, version, requires=requires, tag=f"cp312-cp312-{LINUX}")


@pytest.fixture
def index(index: LoopbackIndex) -> LoopbackIndex:
    """An index that says what CATALOGUE says."""
    for python in ("cp311-cp311", "cp312-cp312"):
        index.add("pypi", _torch("2.10.0", f"{python}-{LINUX}", CUDA_12, "sympy", uploaded="2026-01-21"))
        index.add("pypi", _torch("2.10.0", f"{python}-{ARM}", CUDA_12, uploaded="2026-01-21"))
        index.add("pypi", _torch("2.10.0", f"{python}-{WINDOWS}", CUDA_12, uploaded="2026-01-21"))
    index.add("pypi", _torch("2.10.0", f"cp312-none-{MACOS}", uploaded="2026-01-22"))
    index.add("pypi", _torch("2.10.0", f"cp314-cp314t-{LINUX}", CUDA_12, uploaded="2026-01-21"))
    index.add("pypi", _torch("2.9.0", f"cp312-cp312-{LINUX}", CUDA_12, uploaded="2025-10-15"))
    index.add("pypi", _torch("2.8.0", f"cp312-cp312-{LINUX}", CUDA_12, uploaded="2025-08-06"))
    index.add("pypi", _torch("2.16.0rc1", f"cp312-cp312-{LINUX}", CUDA_13, uploaded="2026-11-20"))
    index.add("pypi", _plain("torchvision", "0.24.0", "torch==2.9.0"))
    index.add("pypi", _plain("torchvision", "0.25.0", "torch==2.10.0", "numpy"))
    index.add("pypi", _plain("torchaudio", "2.9.0"), _plain("torchaudio", "2.10.0"))
    return index


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    file = tmp_path / "catalogue.toml"
    file.write_text(CATALOGUE)
    return file


def _run(catalogue: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_"))}
    command = [sys.executable, str(SCRIPT), "--catalogue", str(catalogue), *words]
    return subprocess.run(command, env={**kept, **(env or {})}, capture_output=True, text=True, check=False)


def _changed(text: str) -> list[str]:
    """The lines that a unified difference takes away and adds."""
    return [line for line in text.splitlines() if re.match(r"[-+](?![-+])", line)]


def test_a_catalogue_that_is_up_to_date_has_no_difference(index: LoopbackIndex, catalogue: Path) -> None:
    ran = _run(catalogue, "--index", index.url("pypi"), "--write")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert catalogue.read_text() == CATALOGUE


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "PIP_INDEX_URL"])
def test_the_index_is_the_one_that_uv_or_pip_are_set_to(index: LoopbackIndex, catalogue: Path, name: str) -> None:
    assert _run(catalogue, env={name: index.url("pypi")}).returncode == 0
    assert index.count("/pypi/simple/torch") > 0


@pytest.mark.parametrize("metadata", [True, False], ids=["PEP 658", "ranges"])
def test_a_missing_release_becomes_a_row_in_its_place(index: LoopbackIndex, catalogue: Path, metadata: bool) -> None:
    index.configure("pypi", IndexSettings(metadata=metadata))
    index.add("pypi", _torch("2.15.0", f"cp312-cp312-{LINUX}", CUDA_13, uploaded="2026-10-28"))
    index.add("pypi", _torch("2.15.0", f"cp313-cp313-{ARM}", CUDA_13, uploaded="2026-10-29"))
    index.add("pypi", _torch("2.15.0", f"cp313-cp313-{WINDOWS}", CUDA_13, uploaded="2026-10-29"))
    index.add(
        "pypi", _plain("torchvision", "0.29.0", "torch==2.15.0"), _plain("torchvision", "0.29.1", "torch==2.15.0")
    )
    ran = _run(catalogue, "--index", index.url("pypi"), "--write")
    assert ran.returncode == 1, ran
    assert not [line for line in _changed(ran.stdout) if line.startswith("-")]
    rows = tomllib.loads(catalogue.read_text())["release"]
    assert [row["torch"] for row in rows] == ["2.15.0", "2.10.0", "2.9.0"]
    source = rows[0].pop("source")
    assert source.startswith("metadata of the index")
    assert {key: str(value) if key == "date" else value for key, value in rows[0].items()} == {
        "torch": "2.15.0",
        "date": "2026-10-28",
        "torchvision": "0.29.1",
        "torchaudio": "2.10.0",
        "python": ["3.12", "3.13"],
        "backends": ["cpu", "cu132"],
        "pypi": {"linux-x86_64": "cu132", "linux-aarch64": "cu132", "windows-x86_64": "cpu"},
    }
    assert index.count(".metadata") > 0 if metadata else index.count(".metadata") == 0
    assert _run(catalogue, "--index", index.url("pypi")).returncode == 0


def test_what_differs_is_changed_and_every_comment_stays(index: LoopbackIndex, catalogue: Path) -> None:
    old = CATALOGUE.replace('"cu128", linux-a', '"cu126", linux-a').replace("date = 2025-10-15\n", "")
    catalogue.write_text(old.replace('torchvision = "0.25.0"', 'torchvision = "0.24.9"'))
    shown = _run(catalogue, "--index", index.url("pypi"))
    assert shown.returncode == 1
    assert _changed(shown.stdout) == [
        '-torchvision = "0.24.9"',
        '+torchvision = "0.25.0"',
        '-pypi = { linux-x86_64 = "cu126", linux-aarch64 = "cpu", windows-x86_64 = "cpu", macos-arm64 = "cpu" }',
        '+pypi = { linux-x86_64 = "cu128", linux-aarch64 = "cpu", windows-x86_64 = "cpu", macos-arm64 = "cpu" }',
        "+date = 2025-10-15",
    ]
    assert catalogue.read_text() != CATALOGUE
    assert _run(catalogue, "--index", index.url("pypi"), "--write").returncode == 1
    assert catalogue.read_text() == CATALOGUE


def test_a_yanked_release_and_one_that_is_gone_are_told_and_kept(index: LoopbackIndex, catalogue: Path) -> None:
    index.add("pypi", _torch("2.9.0", f"cp312-cp312-{LINUX}", CUDA_12, uploaded="2025-10-15", yanked=True))
    gone = CATALOGUE.replace('"2.10.0"\ndate', '"2.10.7"\ndate')
    catalogue.write_text(gone)
    index.remove("pypi", "torchvision")
    index.add("pypi", _plain("torchvision", "0.24.0", "torch==2.9.0"))
    ran = _run(catalogue, "--index", index.url("pypi"))
    assert ran.returncode == 1
    assert "torch 2.9.0: is yanked; remove its row?" in ran.stdout
    assert "torch 2.10.7: is not on the index; remove its row?" in ran.stdout
    assert catalogue.read_text() == gone


def test_an_index_of_one_backend_tells_which_releases_have_it(index: LoopbackIndex, catalogue: Path) -> None:
    index.add("cu129", _torch("2.10.0+cu129", f"cp312-cp312-{LINUX}", uploaded="2026-01-21"))
    index.add("cu128", _torch("2.10.0+cu128", f"cp312-cp312-{LINUX}", uploaded="2026-01-21"))
    backends = [f"--backend-index={name}={index.url(name)}" for name in ("cu128", "cu129")]
    ran = _run(catalogue, "--index", index.url("pypi"), *backends, "--write")
    assert ran.returncode == 1
    assert "torch 2.9.0: is not on the index of cu128" in ran.stdout
    newest = tomllib.loads(catalogue.read_text())["release"][0]
    assert newest["backends"] == ["cpu", "cu128", "cu129"]
    assert "unconfirmed" not in newest
    assert "# Kept: a comment in a row." in catalogue.read_text()


@pytest.mark.parametrize("reach", ["nobody", "no json", "broken", "no ranges"])
def test_an_index_that_can_not_be_read_changes_nothing(index: LoopbackIndex, catalogue: Path, reach: str) -> None:
    url = index.url("pypi")
    if reach == "nobody":
        url = unreachable_url()
    elif reach == "broken":
        index.fail("pypi", Status(503), package="torchvision")
    else:
        json, ranges = reach != "no json", reach != "no ranges"
        index.configure("pypi", IndexSettings(json=json, ranges=ranges, metadata=ranges))
    ran = _run(catalogue, "--index", url, "--write")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ")
    assert catalogue.read_text() == CATALOGUE


def test_without_an_index_it_asks_for_one(catalogue: Path) -> None:
    ran = _run(catalogue, env={"PIP_CONFIG_FILE": os.devnull})
    assert ran.returncode == 2
    assert "--index URL" in ran.stderr
