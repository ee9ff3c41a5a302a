"""Records, the fleet and the foundation commands on real packages from PyPI; nothing of the CUDA stack is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.pylock import Pylock

pytestmark = pytest.mark.network

ROOT = Path(__file__).parent.parent.parent
PROJECT_FILES = ("pyproject.toml", "uv.toml", "requirements.in", "requirements.txt", "constraints")
H100 = {"name": "NVIDIA H100", "compute_capability": "9.0"}
V100 = {"name": "Tesla V100", "compute_capability": "7.0"}


def mlenv(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {"UV_HTTP_RETRIES": "8", **os.environ}
    command = [sys.executable, "-m", "mlenv", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in PROJECT_FILES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def test_the_cuda_stack_is_recorded_whole_and_planned_from_the_record(project: Path) -> None:
    done = mlenv("foundation", "record", "--backend", "cu132", cwd=project)
    assert done.returncode == 0, done.stderr
    document = tomllib.loads((project / "constraints/pylock.cu132.toml").read_text())
    packages = {str(package.name): package for package in Pylock.from_dict(document).packages}
    assert str(packages["torch"].version) == "2.15.0"
    assert {"triton", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "cuda-toolkit"} <= packages.keys()
    assert not {"sympy", "jinja2", "filelock"} & packages.keys()
    assert sum(wheel.size or 0 for package in packages.values() for wheel in package.wheels or ()) > 2e9
    planned = mlenv("sync", "--cuda13", "--dry-run", "--json", cwd=project)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)["packages"]["foundation"]
    assert plan == {name: str(package.version) for name, package in packages.items()}


def test_a_fleet_is_proven_from_here(project: Path) -> None:
    machines = {
        "h100": {"driver": "595.45.04", "cuda": "13.2", "gpus": [H100]},
        "v100": {"driver": "580.65.06", "cuda": "13.0", "gpus": [V100]},
        "laptop": {},
    }
    (project / "fleet").mkdir()
    for name, fields in machines.items():
        text = json.dumps({"os": "linux", "arch": "x86_64", **fields})
        (project / "fleet" / f"{name}.json").write_text(text)
    files = [f"fleet/{name}.json" for name in machines]
    done = mlenv("fleet", "check", "--json", *files, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    chosen = {Path(m["file"]).stem: m["backend"] for m in json.loads(done.stdout)["machines"]}
    assert chosen == {"h100": "cu132", "v100": "cu126", "laptop": "cpu"}
    assert mlenv("fleet", "check", "--check", cwd=project).returncode == 0


def test_an_old_overlay_moves_to_the_newest_torch_on_the_default_index(project: Path) -> None:
    overlay = project / "constraints/cu130.txt"
    overlay.write_text("# ours\ntorch==2.13.0  # for now\ntorchvision==0.28.0\ntorchaudio==2.11.0\n")
    done = mlenv("foundation", "upgrade", "--backend", "cu130", cwd=project)
    assert done.returncode == 0, done.stderr
    text = overlay.read_text()
    assert text.startswith("# ours\ntorch==2.14.")
    assert "# for now" in text
    assert "torchvision==0.29." in text
