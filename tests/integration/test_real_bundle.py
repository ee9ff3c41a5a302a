"""A bundle of real packages with mlenv and uv in it, used where there is no network: a namespace without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.network


@pytest.fixture
def alone() -> tuple[str, ...]:
    """What starts a program without a network, where that may be done."""
    words = ("unshare", "--net")
    if not shutil.which(words[0]) or subprocess.run([*words, "true"], check=False).returncode != 0:
        pytest.skip("no right to make a network namespace here")
    return words


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a program that must succeed; what it wrote."""
    command = [str(word) for word in words]
    merged = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=cwd, env=merged, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_machine_without_network_gets_mlenv_and_the_environment(tmp_path: Path, alone: tuple[str, ...]) -> None:
    project, bundle, tool = tmp_path / "project", tmp_path / "carried", tmp_path / "tool"
    (project / "constraints").mkdir(parents=True)
    (project / "requirements.in").write_text("idna\n-e .\n")
    (project / "constraints" / "cpu.txt").write_text("# no foundation\n")
    system = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    stated = '[project]\nname = "mine"\nversion = "1"\ndependencies = ["pyyaml"]\n'
    (project / "pyproject.toml").write_text(f"{system}\n{stated}")
    (project / "mine").mkdir()
    (project / "mine" / "__init__.py").touch()
    mlenv = (sys.executable, "-m", "mlenv")
    run(*mlenv, "lock", cwd=project)
    run(*mlenv, "bundle", "-o", bundle, cwd=project)
    there = tmp_path / "there"
    shutil.copytree(project, there, ignore=shutil.ignore_patterns(".mlenv"))
    env = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_CONFIG_FILE": os.devnull}
    run(sys.executable, "-m", "venv", tool, cwd=there)
    install = ("-m", "pip", "install", "--no-index", "--find-links", bundle / "tool", "mlenv")
    run(*alone, tool / "bin/python", *install, cwd=there, env=env)
    run(*alone, tool / "bin/mlenv", "lock", "--check", cwd=there, env=env)
    run(*alone, tool / "bin/mlenv", "sync", "--cpu", "--bundle", bundle, cwd=there, env=env)
    run(*alone, tool / "bin/mlenv", "check", "--deep", cwd=there, env=env)
    run(*alone, tool / "bin/mlenv", "run", "--", "python", "-c", "import idna, mine, yaml", cwd=there, env=env)
