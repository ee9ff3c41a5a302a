"""A C++ extension of our own, built by ``mlenv sync`` against the real torch. 3 GB with a cold cache."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from uv import find_uv_bin

pytestmark = pytest.mark.network

ROOT = Path(__file__).parent.parent.parent
SETUP = """
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    name="our-kernels",
    version="1.0",
    install_requires=["torch"],
    ext_modules=[CppExtension("our_kernels", ["our_kernels.cpp"])],
    cmdclass={"build_ext": BuildExtension},
)
"""
CODE = """
#include <torch/extension.h>
at::Tensor doubled(at::Tensor given) { return given + given; }
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("doubled", &doubled);
  m.attr("built_against") = TORCH_VERSION;
}
"""
METADATA = "Metadata-Version: 2.2\nName: our-kernels\nVersion: 1.0\nRequires-Dist: torch\n"
USE = (
    "import torch, our_kernels as k; print(k.doubled(torch.ones(2)).tolist(), k.built_against == torch.__version__[:6])"
)


def _sdist(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "our_kernels-1.0.tar.gz", "w:gz") as archive:
        for name, text in {"setup.py": SETUP, "our_kernels.cpp": CODE, "PKG-INFO": METADATA}.items():
            entry = tarfile.TarInfo(f"our_kernels-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def mlenv(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """With a cache of mlenv's for this test, and the machine's own of uv's."""
    wheels = subprocess.run([find_uv_bin(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    env = {"UV_HTTP_RETRIES": "8", "UV_CACHE_DIR": wheels, **os.environ, "XDG_CACHE_HOME": str(cwd / "cache")}
    command = [sys.executable, "-m", "mlenv", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_an_extension_is_built_against_the_real_torch(tmp_path: Path) -> None:
    _sdist(tmp_path / "wheels")
    (tmp_path / "constraints").mkdir()
    shutil.copy(ROOT / "constraints/cu132.txt", tmp_path / "constraints/cu132.txt")
    index = '[[index]]\nname = "ours"\nurl = "./wheels"\nformat = "flat"\nexplicit = true\n'
    (tmp_path / "uv.toml").write_text(index)
    settings = 'build-against-foundation = ["our-kernels"]\n[tool.mlenv.index]\nour-kernels = "ours"\n'
    (tmp_path / "pyproject.toml").write_text("[tool.mlenv]\n" + settings)
    (tmp_path / "requirements.in").write_text("our-kernels\n")
    done = mlenv("sync", "--cuda13", cwd=tmp_path)
    if done.returncode == 3:  # torch requires setuptools for some Pythons only
        (tmp_path / "requirements.in").write_text("our-kernels\nsetuptools\n")
        assert mlenv("lock", cwd=tmp_path).returncode == 0
        done = mlenv("sync", "--cuda13", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "building our-kernels 1.0 against torch" in done.stderr
    used = subprocess.run([tmp_path / ".venv/bin/python", "-c", USE], capture_output=True, text=True, check=False)
    assert used.stdout == "[2.0, 2.0] True\n", used
    again = mlenv("sync", "--cuda13", "--rebuild", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "building our-kernels" not in again.stderr
