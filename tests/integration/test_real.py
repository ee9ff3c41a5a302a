"""The main job on real packages from PyPI: this repository's own CUDA 13 environment. 3 GB with a cold cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from mlenv import lockfile

pytestmark = pytest.mark.network

ROOT = Path(__file__).parent.parent.parent
PROJECT_FILES = ("pyproject.toml", "uv.toml", "requirements.in", "requirements.txt", "constraints")
IMPORTS = "import torch, transformers, accelerate, bitsandbytes, peft, trl, datasets"


def mlenv(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {"UV_HTTP_RETRIES": "8", **os.environ}  # what is tried here is not the network
    command = [sys.executable, "-m", "mlenv", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository's project files with its environment built, beside the repository for hard links."""
    root = tmp_path_factory.mktemp("real")
    for name in PROJECT_FILES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
    done = mlenv("sync", "--cuda13", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


def test_the_environment_is_a_cuda_13_build_that_imports(project: Path) -> None:
    script = f"{IMPORTS}; print(torch.version.cuda)"
    done = subprocess.run(
        [project / ".venv/bin/python", "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("13")


def test_the_gate_finds_nothing(project: Path) -> None:
    done = mlenv("check", "--json", cwd=project)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["whole"] is True


def test_a_second_sync_has_nothing_to_do(project: Path) -> None:
    done = mlenv("sync", "--cuda13", "--json", cwd=project)
    assert json.loads(done.stdout)["action"] == "nothing"


def test_the_lock_holds_no_foundation_and_is_current(project: Path) -> None:
    assert mlenv("lock", "--check", cwd=project).returncode == 0
    names = {pin.name for pin in lockfile.parse_pins((project / "requirements.txt").read_text())}
    assert not {name for name in names if name.startswith(("torch", "nvidia-", "triton", "cuda-", "tensorflow"))}
    assert {"sympy", "jinja2", "transformers"} <= names


def test_pip_is_content_with_the_lock_over_the_environment(project: Path) -> None:
    install = ["install", "--dry-run", "--require-hashes", "-r", str(project / "requirements.txt")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(project / ".venv/bin/python"), *install],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_an_upgrade_to_an_older_release_moves_only_what_it_forces(project: Path) -> None:
    done = mlenv("lock", "-P", "transformers==5.20.0", "--dry-run", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    changes = {change["name"]: change["after"] for change in json.loads(done.stdout)["changes"]}
    assert changes.pop("transformers") == "5.20.0"
    assert set(changes) <= {"tokenizers", "huggingface-hub", "safetensors"}


def test_the_built_wheel_brings_its_data_and_runs_by_uvx(tmp_path: Path) -> None:
    uv = find_uv_bin()
    subprocess.run([uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path, ROOT], check=True)
    [wheel] = tmp_path.glob("*.whl")
    (tmp_path / "project").mkdir()
    done = subprocess.run(
        [uv, "tool", "run", "--quiet", "--python", sys.executable, "--from", wheel, "mlenv", "init"],
        cwd=tmp_path / "project",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "project/constraints/cu132.txt").is_file()


def test_pip_audit_reads_the_lock(project: Path) -> None:
    words = ["--dry-run", "--disable-pip", "--require-hashes", "-r", str(project / "requirements.txt")]
    done = subprocess.run(
        [find_uv_bin(), "tool", "run", "--quiet", "--python", sys.executable, "pip-audit", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pins = lockfile.parse_pins((project / "requirements.txt").read_text())
    assert f"{len(pins)} packages" in done.stdout + done.stderr
