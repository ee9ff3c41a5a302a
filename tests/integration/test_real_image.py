"""The two layers of an image with a small real stack from PyPI: jax for the CPU, 0.2 GB with a cold cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.network

FILES = {
    "pyproject.toml": '[tool.mlenv]\nbackend = "cpu"\n[tool.mlenv.foundation]\nroots = ["jaxlib"]\n',
    "constraints/cpu.txt": "jax==0.5.3\njaxlib==0.5.3\n",
    "requirements.in": "rich\n",
}


def mlenv(*words: str | Path, cwd: Path) -> str:
    env = {"UV_HTTP_RETRIES": "8", **os.environ}  # what is tried here is not the network
    command = [sys.executable, "-m", "mlenv", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_jax_is_the_first_layer_and_what_it_needs_the_second(tmp_path: Path) -> None:
    root, path = tmp_path / "project", tmp_path / "venv"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    told = mlenv("sync", "--image", "--env", path, "--only", "foundation", cwd=root)
    assert "2 foundation" in told
    assert "warning" not in told
    mlenv("lock", cwd=root)
    below = {file: file.stat().st_ctime_ns for file in path.rglob("*") if file.is_file() and file.name != ".lock"}
    assert "complete" in mlenv("sync", "--image", "--env", path, "--only", "application", cwd=root)
    assert {file: file.stat().st_ctime_ns for file in below} == below
    mlenv("run", "--env", path, "--", "python", "-c", "import jax, rich; jax.numpy.ones(3)", cwd=root)
