"""What a build against the foundation needs, is keyed by, and how its failures are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlenv import against, local_projects, plan
from mlenv.errors import EnvironmentBuildError
from mlenv.machine import Gpu, Machine
from mlenv.plan import Plan, Planned
from mlenv.system import cache

MARKERS = {"python_version": "3.11", "sys_platform": "linux"}
GPU = Gpu(index=0, name="H100", uuid="GPU-1", memory_mib=80000, compute_capability=(9, 0), visible=True)
BARE = Machine(os="linux", arch="x86_64")
SETUP = """
import os, sys
from packaging.version import parse
from setuptools import setup
try:
    import numpy
except ImportError:
    numpy = None
def late():
    import psutil, torch.utils
"""


def planned(name: str, sha256: str, layer: str = plan.APPLICATION) -> Planned:
    table = {"name": name, "sdist": {"hashes": {"sha256": sha256}}}
    return Planned(name=name, version="1.0", layer=layer, table=table)


def chosen(torch: str = "aa", backend: str = "cu130") -> Plan:
    return Plan(backend=backend, source="default", packages=(planned("torch", torch, plan.FOUNDATION),))


def key(
    source: str = "bb",
    *,
    made: Plan | None = None,
    python: str = "3.11",
    machine: Machine = BARE,
    variables: dict[str, str] | None = None,
) -> str:
    package = planned("flashy", source)
    return against.key_of(package, made or chosen(), python=python, machine=machine, variables=variables or {})


def test_a_wheel_is_kept_by_what_decides_it() -> None:
    keys = [
        key(),
        key("cc"),
        key(made=chosen("dd")),
        key(made=chosen(backend="cpu")),
        key(python="3.12"),
        key(machine=replace(BARE, arch="aarch64")),
        key(machine=replace(BARE, gpus=(GPU,))),
        key(variables={"TORCH_CUDA_ARCH_LIST": "9.0"}),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    on_cpu = chosen(backend="cpu")
    assert key(made=on_cpu, machine=replace(BARE, gpus=(GPU,))) == key(made=on_cpu)


@pytest.mark.parametrize(
    ("pyproject", "setup", "needed"),
    [
        ('[build-system]\nrequires = ["hatchling>=1"]\n', None, ("hatchling>=1",)),
        ('[build-system]\nrequires = ["torch", "Setuptools"]\n', SETUP, ("torch", "Setuptools", "packaging", "psutil")),
        ("[project]\nname = 'x'\n", SETUP, ("setuptools", "packaging", "psutil")),
        (None, "this is no python", ("setuptools",)),
        ("broken = [", None, ("setuptools",)),
    ],
)
def test_what_a_build_needs_is_what_it_declares_and_imports(
    pyproject: str | None, setup: str | None, needed: tuple[str, ...]
) -> None:
    assert against.required_tools(pyproject, setup) == needed


def test_what_the_plan_lacks_of_it() -> None:
    declared = [
        "torch==1.0",
        "setuptools>=90",
        "ninja; sys_platform == 'win32'",
        "Packaging",
        "wheel",
        "no requirement!",
    ]
    have = {"torch": "2.15.0", "setuptools": "84.0", "packaging": "26.0"}
    assert against.lacking(declared, have, markers=MARKERS) == ("setuptools>=90", "wheel")


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("ModuleNotFoundError: No module named 'packaging'", "needs packaging and does not say so"),
        ("OSError: CUDA_HOME environment variable is not set.", "install the CUDA toolkit 13.0 (it brings nvcc)"),
        ("FileNotFoundError: No such file or directory: '/usr/local/cuda/bin/nvcc'", "set CUDA_HOME"),
        ("The detected CUDA version (12.4) mismatches the version that was used to compile", "which torch was built"),
        ("error: command 'g++' failed: No such file or directory", "install a C++ compiler"),
        ("sh: 1: c++: not found", "install a C++ compiler"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "MAX_JOBS=2"),
        ("fatal error: Python.h: No such file or directory", "the headers of this Python"),
        ("/bin/sh: 1: /usr/local/cuda/bin/nvcc: not found", "set CUDA_HOME"),
        ("No CUDA runtime is found, using CUDA_HOME='/usr/local'", "run again with -v"),
        ("no idea", "run again with -v"),
    ],
)
def test_a_failed_build_has_its_remedy(output: str, told: str) -> None:
    assert told in against.remedy(output, backend="cu130")


def test_a_failed_build_shows_the_end_of_its_output() -> None:
    error = against.failure("flashy 2.0", "torch 2.15.0 (cu132)", "\n".join(map(str, range(99))), backend="cu132")
    assert isinstance(error, EnvironmentBuildError)
    assert (
        error.message.splitlines()[0] == "flashy 2.0 could not be built against torch 2.15.0 (cu132); its output ends:"
    )
    assert error.message.splitlines()[-1] == "  98"
    assert len(error.message.splitlines()) == 16
    assert error.detail is not None
    assert error.detail.startswith("0\n1\n")


def test_a_wheel_is_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache")
    built = tmp_path / "flashy-2.0-py3-none-any.whl"
    built.write_bytes(b"first")
    assert cache.wheel("key") is None
    made = cache.put_wheel("key", built)
    assert made == cache.wheel("key")
    assert made.path != built
    built.write_bytes(b"second")
    assert cache.put_wheel("key", built).path == made.path  # another mlenv was faster
    made.path.write_bytes(b"damaged")
    assert cache.wheel("key") is None
    assert cache.put_wheel("key", built) == cache.wheel("key")
    assert made.path.read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "cache/built").iterdir()] == ["key"]


def test_without_a_cache_the_wheel_is_the_one_just_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "file" / "cache")
    built = tmp_path / "flashy-2.0-py3-none-any.whl"
    built.write_bytes(b"first")
    assert cache.put_wheel("key", built).path == built
    assert cache.writable(cache.folder() / "sources", otherwise=tmp_path) == tmp_path


def test_a_copy_to_build_from_holds_what_belongs_to_the_project(tmp_path: Path) -> None:
    project, copy = tmp_path / "kernels", tmp_path / "copy"
    for name in ("setup.py", "src/a.cpp", "src/build/b.cpp", "build/a.o", "dist/x.whl", "k.egg-info/PKG-INFO"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    for name in (".git", ".venv", "__pycache__"):
        (project / name).mkdir()
        (project / name / "file").touch()
    (tmp_path / "data").mkdir()
    (project / "data").symlink_to("../data")
    local_projects.copy_to(project, copy)
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file() and path.parts}
    assert found - {".git/file"} == {"setup.py", "src/a.cpp", "src/build/b.cpp"}
    assert ((copy / "data").resolve(), (copy / ".git").resolve()) == (tmp_path / "data", project / ".git")
