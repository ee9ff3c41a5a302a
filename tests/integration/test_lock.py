"""``mlenv lock`` with the real uv, against loopback indexes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from filelock import FileLock

from mlenv import lockfile
from mlenv.lockfile import Lock, Pin
from support.index import Dropped, LoopbackIndex, Status
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Build, FakeFoundation, Package, fake_foundation, fake_nccl, fake_torch

CPU, CU126, CU130 = fake_foundation("cpu"), fake_foundation("cu126"), fake_foundation("cu130")
APP = Package("demo-app", "1.0", requires=("torch>=2", "demo-lib"))
LIB = Package("demo-lib", "1.0")
ORDINARY = ("filelock", "mpmath", "sympy")


@dataclass
class Bench:
    """A project, its indexes, and mlenv run in it. ``default`` is what stands for PyPI."""

    index: LoopbackIndex
    root: Path
    run: RunProgram
    env: Mapping[str, str | None] = field(default_factory=dict)

    def mlenv(self, *args: str, env: Mapping[str, str | None] | None = None) -> Finished:
        return self.run(
            *args, cwd=self.root, env={"UV_DEFAULT_INDEX": self.index.url("default"), **self.env, **(env or {})}
        )

    def lock(self, *args: str, env: Mapping[str, str | None] | None = None) -> Finished:
        """Lock; it must succeed."""
        done = self.mlenv("lock", *args, env=env)
        assert done.code == 0, done.err + done.out
        return done

    def refused(self, code: int, *args: str) -> str:
        """Lock; it must fail with ``code`` and leave the lock as it is. Returns what was said."""
        before = self.text if self.path.exists() else None
        done = self.mlenv("lock", *args)
        assert (done.code, "Traceback" in done.err) == (code, False), done.err + done.out
        assert (self.text if self.path.exists() else None) == before
        return done.err

    @property
    def path(self) -> Path:
        return self.root / "requirements.txt"

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def parsed(self) -> Lock:
        return lockfile.parse(self.text, path="requirements.txt")

    @property
    def pins(self) -> dict[str, str]:
        """name → version, without torch's ordinary dependencies."""
        return {pin.name: pin.version or pin.url or "" for pin in self.parsed.pins if pin.name not in ORDINARY}

    def pin(self, name: str) -> Pin:
        return next(pin for pin in self.parsed.pins if pin.name == name)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def publish(self, *packages: Package, index: str = "default") -> None:
        self.index.add(index, *packages)


class MakeBench(Protocol):
    """What the fixture ``bench`` is; ``named`` are more explicit indexes in uv.toml."""

    def __call__(
        self,
        requirements: str,
        *packages: Package,
        foundations: Sequence[FakeFoundation] = ...,
        settings: str = ...,
        files: Mapping[str, str] | None = ...,
        named: Sequence[str] = ...,
    ) -> Bench: ...


@pytest.fixture
def bench(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> MakeBench:
    def make(
        requirements: str,
        *packages: Package,
        foundations: Sequence[FakeFoundation] = (CPU,),
        settings: str = "",
        files: Mapping[str, str] | None = None,
        named: Sequence[str] = (),
    ) -> Bench:
        index.add("default", *packages)
        for foundation in foundations:
            index.add(f"pytorch-{foundation.backend}", *foundation.family)
            index.add("default", *foundation.companions, *foundation.ordinary)
        names = [*(f"pytorch-{foundation.backend}" for foundation in foundations), *named]
        tables = "".join(f'[[index]]\nname = "{n}"\nurl = "{index.url(n)}"\nexplicit = true\n' for n in names)
        overlays = {f"constraints/{foundation.backend}.txt": foundation.overlay for foundation in foundations}
        written = {"requirements.in": requirements, "uv.toml": tables, **overlays}
        if settings:
            written["pyproject.toml"] = f"[tool.mlenv]\n{settings}"
        return Bench(index=index, root=project({**written, **(files or {})}), run=run_mlenv)

    return make


# --- the two layers --------------------------------------------------------------------------------------------------


def test_the_application_is_locked_and_the_foundation_stays_out(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB, foundations=(CPU, CU130))
    made.lock()
    assert [pin.name for pin in made.parsed.pins] == ["demo-app", "demo-lib", "filelock", "mpmath", "sympy"]
    assert made.pin("sympy").via == ("torch",)
    assert made.parsed.excluded == tuple(sorted({p.name for p in (*CU130.family, *CU130.companions)}))


def test_the_hashes_of_every_platforms_files_are_there(bench: MakeBench) -> None:
    wheels = [Package("wide", "1.0", tag=f"cp311-cp311-{tag}") for tag in ("manylinux_2_28_x86_64", "win_amd64")]
    files = [*wheels, Package("wide", "1.0", tag="cp312-cp312-macosx_14_0_arm64"), Package("wide", "1.0", kind="sdist")]
    made = bench("wide\n", *files)
    made.lock()
    assert made.pin("wide").hashes == tuple(sorted(f"sha256:{file.sha256}" for file in files))


def test_what_only_the_foundations_own_packages_bring_is_foundation(bench: MakeBench) -> None:
    """triton alone brings setuptools; the Application's own use of a package keeps it in the lock."""
    triton = Package("triton", "3.8.0", requires=("only-tritons", "shared"))
    made = bench(
        "demo-lib\nshared\n", LIB, Package("only-tritons", "1.0"), Package("shared", "1.0"), foundations=(CU130,)
    )
    made.publish(triton)
    made.lock()
    assert made.pins == {"demo-lib": "1.0", "shared": "1.0"}
    assert "only-tritons" in made.parsed.excluded


def test_nvidia_ml_py_is_application(bench: MakeBench) -> None:
    made = bench("nvidia-ml-py\n", Package("nvidia-ml-py", "13.595.45"))
    made.lock()
    assert made.pins == {"nvidia-ml-py": "13.595.45"}


def test_a_foundation_name_in_the_requirements_constrains_and_stays_out(bench: MakeBench) -> None:
    made = bench("torch>=2.6\ndemo-lib\n", LIB)
    made.lock()
    assert made.pins == {"demo-lib": "1.0"}


def test_a_foundation_that_the_requirements_refuse_is_exit_5_with_both_sides(bench: MakeBench) -> None:
    made = bench("needy\n", Package("needy", "1.0", requires=("torch>=3",)))
    said = made.refused(5)
    assert "needy" in said
    assert "torch>=3" in said
    assert "constraints/cpu.txt:1 pins torch==2.14.1" in said


# --- foundation packages that the application brings -----------------------------------------------------------------

BOOST = Package("boost", "3.0", requires=("nvidia-nccl-cu13",))


def test_a_foundation_package_that_the_application_brings_belongs_to_the_backends(bench: MakeBench) -> None:
    made = bench("boost\n", BOOST, fake_nccl("cu13"))
    made.lock()
    assert made.pins == {"boost": "3.0"}
    assert "nvidia-nccl-cu13" in made.parsed.excluded


def _is_told_of_the_collision(said: str) -> None:
    assert "nvidia-nccl-cu12" in said
    assert "requirements.in → boost → nvidia-nccl-cu13" in said
    assert "cu126:" in said
    assert 'unproven = ["cu126"]' in said


def test_two_cuda_families_are_refused_with_who_brought_each(bench: MakeBench) -> None:
    made = bench("boost\n", BOOST, fake_nccl("cu13"), foundations=(CPU, CU126, CU130))
    said = made.refused(5)
    _is_told_of_the_collision(said)
    assert "torch → nvidia-nccl-cu12" in said


def test_two_cuda_families_are_refused_where_the_default_index_stands_in(bench: MakeBench) -> None:
    made = bench("boost\n", BOOST, foundations=(CPU, CU126, CU130))
    made.publish(*fake_foundation("cu130", source="default").everything)
    made.index.fail("pytorch-cu126", Dropped())
    _is_told_of_the_collision(made.refused(5))


def test_a_stand_in_brings_no_collision_of_its_own(bench: MakeBench) -> None:
    """The default index's torch is a CUDA 13 build; what it brings says nothing about cu126 or cpu."""
    old = Package("boost", "2.0", requires=("nvidia-nccl-cu12",))
    made = bench("boost\n", old, fake_nccl("cu12"), foundations=(CPU, CU126))
    made.publish(*fake_foundation("cu130", source="default").everything)
    for backend in ("cpu", "cu126"):
        made.index.fail(f"pytorch-{backend}", Dropped())
    made.lock()
    assert made.pins == {"boost": "2.0"}
    assert made.parsed.excluded == ("nvidia-nccl-cu12", "torch", "torchaudio", "torchvision")


def test_nothing_stands_in_for_a_build_that_was_never_made(bench: MakeBench) -> None:
    """torchaudio's last release, 2.11.0, has no build for CUDA 13.2: whatever the default index has is another one."""
    cu132 = fake_foundation("cu132")
    made = bench("boost\n", Package("boost", "1.0"), foundations=(CPU, cu132))
    made.publish(*fake_foundation("cu130", source="default").everything)
    made.index.fail("pytorch-cu132", Dropped())
    said = made.refused(3)
    assert "constraints/cu132.txt:3: torchaudio 2.11.0 has no cu132 build, it has cpu, cu126, cu128, cu130" in said


# --- one set of pins for every backend -------------------------------------------------------------------------------


def _torch(backend: str, torch: str, *requires: str) -> FakeFoundation:
    cuda = None if backend == "cpu" else f"{backend[2:-1]}.{backend[-1]}"
    family = (fake_torch(f"{torch}+{backend}", cuda=cuda, requires=requires),)
    return FakeFoundation(backend=backend, family=family, companions=(), ordinary=())


SHARED = tuple(Package("shared", version) for version in ("1.0", "1.5", "2.0"))


@pytest.mark.parametrize(
    ("old", "new", "chosen"),
    [
        ("shared<2", "shared", "1.5"),
        ("shared", "shared<2", "1.5"),
        ("shared>=1.5", "shared<2", "1.5"),
        ("shared<1.6", "shared<1.2", "1.0"),
    ],
)
def test_the_pins_satisfy_the_torch_of_every_overlay(bench: MakeBench, old: str, new: str, chosen: str) -> None:
    foundations = (_torch("cu126", "2.9.1", old), _torch("cu130", "2.14.1", new), _torch("cpu", "2.11.0", "shared"))
    made = bench("demo-lib\n", LIB, *SHARED, foundations=foundations)
    made.lock()
    assert made.pins == {"demo-lib": "1.0", "shared": chosen}
    assert set(made.parsed.header.proven) == {"cpu", "cu126", "cu130"} if made.parsed.header else False


def test_torches_that_no_pin_can_serve_are_named_with_their_requirements(bench: MakeBench) -> None:
    foundations = (_torch("cpu", "2.9.1", "shared==1.0"), _torch("cu130", "2.14.1", "shared>=1.5"))
    made = bench("demo-lib\n", LIB, *SHARED, foundations=foundations)
    said = made.refused(5)
    for word in ("shared", "cpu", "cu130", "shared==1.0", "shared>=1.5", "unproven"):
        assert word in said


TWO = (_torch("cu130", "2.14.1"), _torch("cu132", "2.15.0"))


def test_a_common_solution_is_found_where_preferences_never_lead(bench: MakeBench) -> None:
    """The newest app is content with either torch through a lib that the other torch can't have."""
    packages = (
        Package("app", "2.0", requires=("lib>=2",)),
        Package("app", "1.0", requires=("lib",)),
        Package("lib", "2.0", requires=("torch>=2.15",)),
        Package("lib", "1.0"),
    )
    made = bench("app\n", *packages, foundations=TWO)
    made.lock()
    assert made.pins == {"app": "1.0", "lib": "1.0"}


def test_what_only_an_extra_needs_of_torch_rules_out_only_the_extra(bench: MakeBench) -> None:
    packages = (
        Package("app", "2.0", requires=("lib[gpu]",)),
        Package("app", "1.0", requires=("lib",)),
        Package("lib", "1.0", extras={"gpu": ("torch>=2.15",)}),
    )
    made = bench("app\n", *packages, foundations=TWO)
    made.lock()
    assert made.pins == {"app": "1.0", "lib": "1.0"}


def test_many_releases_that_each_want_one_torch_cost_few_turns(bench: MakeBench) -> None:
    releases = [Package("engine", f"{n}.0", requires=("torch==2.14.1",)) for n in range(18, 30)]
    releases += [Package("engine", f"{n}.0", requires=("torch==2.15.0",)) for n in range(5, 18)]
    made = bench("engine\n", *releases, Package("engine", "1.0"), foundations=TWO, settings='held-back = "off"\n')
    done = made.lock()
    assert made.pins == {"engine": "1.0"}
    assert done.err.count("resolving for") <= 4


def test_a_backend_can_be_left_out_of_the_proof(bench: MakeBench) -> None:
    foundations = (_torch("cpu", "2.9.1", "shared==1.0"), _torch("cu130", "2.14.1", "shared>=1.5"))
    made = bench("demo-lib\n", LIB, *SHARED, foundations=foundations, settings='unproven = ["cpu"]\n')
    done = made.lock()
    assert made.pins == {"demo-lib": "1.0", "shared": "2.0"}
    assert made.parsed.header is not None
    assert dict(made.parsed.header.proven) == {"cu130": "torch==2.14.1"}
    assert "not proven" in done.out


def test_a_requirement_that_only_one_backends_torch_brings_is_in_the_lock(bench: MakeBench) -> None:
    foundations = (_torch("cpu", "2.9.1"), _torch("cu130", "2.14.1", "shared"))
    made = bench("demo-lib\n", LIB, *SHARED, foundations=foundations)
    made.lock()
    assert made.pins == {"demo-lib": "1.0", "shared": "2.0"}


def test_a_torch_pin_that_nobody_has_is_an_error_and_no_reason_to_step_back(bench: MakeBench) -> None:
    """With pins as mere constraints, an unbounded requirement steps back in silence (FACTS, uv 3)."""
    packages = (Package("speedy", "1.0", requires=("torch>=2",)), Package("speedy", "0.0.1"))
    made = bench("speedy\n", *packages, files={"constraints/cpu.txt": "torch==2.14.9+cpu\n"})
    said = made.refused(5)
    assert "torch==2.14.9" in said
    assert "hint: change the pin in constraints/cpu.txt" in said


# --- the same bytes --------------------------------------------------------------------------------------------------


def test_a_second_run_changes_no_byte_and_does_not_write(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB)
    made.lock()
    before, stamp = made.text, made.path.stat().st_mtime_ns
    done = made.lock()
    assert (made.text, made.path.stat().st_mtime_ns) == (before, stamp)
    assert "unchanged" in done.out


HOSTILE = {
    "UV_TORCH_BACKEND": "cu118",
    "UV_CONSTRAINT": "/nowhere/constraints.txt",
    "UV_OVERRIDE": "/nowhere/overrides.txt",
    "UV_PRERELEASE": "allow",
    "UV_RESOLUTION": "lowest",
    "UV_EXCLUDE_NEWER": "2020-01-01",
    "UV_NO_BINARY": "1",
    "UV_NO_SOURCES": "1",
    "UV_INDEX_STRATEGY": "unsafe-best-match",
    "UV_CUSTOM_COMPILE_COMMAND": "evil",
    "UV_PYTHON": "3.99",
    "UV_CONFIG_FILE": "/nowhere/uv.toml",
    "PIP_PRE": "1",
    "PIP_CONSTRAINT": "/nowhere/constraints.txt",
    "MLENV_PYTHON": "3.13",
    "MLENV_PLATFORMS": "windows-x86_64",
    "MLENV_BUILD": "demo-app",
    "MLENV_UNPROVEN": "cpu",
    "MLENV_BUILD_ALLOWED": '["demo-app"]',
    "PYTHONHASHSEED": "7",
    "LC_ALL": "C",
    "TZ": "Asia/Tokyo",
}


def test_environment_variables_change_nothing(bench: MakeBench) -> None:
    made = bench('demo-app\nmarked; python_version < "3.12"\n', APP, LIB, Package("demo-lib", "2.0rc1"))
    made.publish(Package("marked", "1.0"))
    made.lock()
    before = made.text
    made.publish(Package("demo-lib", "99"), index="evil")
    made.path.unlink()
    evil = {
        name: made.index.url("evil") for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "PIP_INDEX_URL")
    }
    made.lock(env={**HOSTILE, **evil})
    assert made.text == before
    assert made.index.count("/evil/") == 0


def test_the_width_of_the_terminal_changes_nothing(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB, foundations=(CU130,))
    made.lock(env={"COLUMNS": "20"})


def test_another_interpreter_and_another_machine_write_the_same_bytes(bench: MakeBench, tmp_path: Path) -> None:
    """A cache of its own and another folder stand for the other machine."""
    made = bench("demo-app\n", APP, LIB, settings='python = "3.11"\n')
    made.lock()
    before = made.text
    made.path.unlink()
    python = _other_python()
    packages = {
        Path(module.__file__ or "").parent.parent for module in (sys.modules["packaging"], sys.modules["mlenv"])
    }
    env = {
        **_variables(made),
        "PYTHONPATH": ":".join(map(str, packages)),
        "UV_CACHE_DIR": str(tmp_path / "other-cache"),
    }
    done = subprocess.run(
        [python, "-m", "mlenv", "lock"], cwd=made.root, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert made.text == before


def _variables(made: Bench) -> dict[str, str]:
    import os

    home = str(made.root.parent)
    return {**os.environ, "UV_DEFAULT_INDEX": made.index.url("default"), "HOME": home, "XDG_CONFIG_HOME": home}


def _other_python() -> str:
    """A Python of another minor version that is here, or skip."""
    own = sys.version_info.minor
    for minor in (minor for minor in range(11, 16) if minor != own):
        for python in sorted(Path(sys.base_prefix).resolve().parent.glob(f"*3.{minor}*/bin/python3.{minor}")):
            if subprocess.run([python, "-I", "-c", "import ssl"], capture_output=True, check=False).returncode == 0:
                return str(python)
    pytest.skip("no other Python lies beside the one that runs the tests")


def test_without_the_pytorch_index_the_bytes_are_the_same(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB, foundations=(CPU, CU126, CU130))
    made.publish(*fake_foundation("cu130", source="default").everything)
    made.lock()
    before = made.text
    for backend in ("cpu", "cu126", "cu130"):
        made.index.fail(f"pytorch-{backend}", Dropped())
    made.lock(env={"UV_CACHE_DIR": str(made.root.parent / "other-cache")})
    assert made.text == before


def test_a_first_lock_needs_no_pytorch_index(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB, foundations=(CPU, CU126))
    made.publish(*fake_foundation("cu130", source="default").everything)
    for backend in ("cpu", "cu126"):
        made.index.fail(f"pytorch-{backend}", Dropped())
    done = made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0"}
    assert "pytorch-cu126" in done.err
    assert "default (stand-in)" in done.out
    assert not [name for name in made.parsed.excluded if name.startswith("nvidia")]


# --- existing pins and upgrades --------------------------------------------------------------------------------------

NEWER = (
    Package("demo-app", "2.0", requires=("torch>=2", "demo-lib>=2")),
    Package("demo-lib", "2.0"),
    Package("apart", "2.0"),
)


def _outdated(bench: MakeBench) -> Bench:
    """A project whose lock is older than its index."""
    old = (APP, LIB, Package("apart", "1.0"))
    made = bench("demo-app\napart\n", *old, *NEWER)
    made.write("requirements.txt", "".join(f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in old))
    return made


def test_pins_stay_where_newer_releases_appear(bench: MakeBench) -> None:
    made = _outdated(bench)
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0", "apart": "1.0"}


def test_hashes_stay_where_files_are_added_to_a_release(bench: MakeBench) -> None:
    made = _outdated(bench)
    made.lock()
    made.publish(Package("apart", "1.0", build_tag="1"))
    made.lock()
    assert made.pin("apart").hashes == (f"sha256:{Package('apart', '1.0').sha256}",)


def test_a_new_requirement_moves_no_other_pin(bench: MakeBench) -> None:
    made = _outdated(bench)
    made.publish(Package("late", "1.0", requires=("demo-lib",)))
    made.write("requirements.in", "demo-app\napart\nlate\n")
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0", "apart": "1.0", "late": "1.0"}


@pytest.mark.parametrize(
    ("args", "pins"),
    [
        (("-P", "demo-lib"), {"demo-app": "1.0", "demo-lib": "2.0", "apart": "1.0"}),
        (("-P", "demo-app"), {"demo-app": "2.0", "demo-lib": "2.0", "apart": "1.0"}),
        (("-P", "Demo_App==2.0"), {"demo-app": "2.0", "demo-lib": "2.0", "apart": "1.0"}),
        (("-P", "apart==2.0", "-P", "demo-lib==2.0"), {"demo-app": "1.0", "demo-lib": "2.0", "apart": "2.0"}),
        (("-U",), {"demo-app": "2.0", "demo-lib": "2.0", "apart": "2.0"}),
    ],
)
def test_an_upgrade_moves_what_it_names_and_what_that_forces(
    bench: MakeBench, args: tuple[str, ...], pins: dict[str, str]
) -> None:
    made = _outdated(bench)
    made.lock(*args)
    assert made.pins == pins


def test_an_upgrade_can_go_back(bench: MakeBench) -> None:
    made = _outdated(bench)
    made.lock("-U")
    made.lock("-P", "demo-app==1.0")
    assert made.pins == {"demo-app": "1.0", "demo-lib": "2.0", "apart": "2.0"}
    before = made.text
    made.lock()
    assert made.text == before


def test_an_upgrade_moves_the_same_for_every_overlay(bench: MakeBench) -> None:
    """The second backend's torch bounds what the first one's would allow."""
    foundations = (_torch("cpu", "2.9.1", "shared"), _torch("cu130", "2.14.1", "shared<2"))
    made = bench("demo-lib\n", LIB, SHARED[0], foundations=foundations)
    made.lock()
    made.publish(*SHARED, Package("demo-lib", "2.0"))
    made.lock("-P", "shared")
    assert made.pins == {"demo-lib": "1.0", "shared": "1.5"}


def test_a_version_that_one_overlay_refuses_is_not_exchanged_for_another(bench: MakeBench) -> None:
    foundations = (_torch("cpu", "2.9.1", "shared"), _torch("cu130", "2.14.1", "shared<2"))
    made = bench("demo-lib\n", LIB, *SHARED, foundations=foundations)
    made.lock()
    said = made.refused(5, "-P", "shared==2.0")
    assert "cu130: " in said
    assert "shared<2" in said


def test_an_upgrade_to_what_nothing_allows_is_exit_5(bench: MakeBench) -> None:
    made = _outdated(bench)
    said = made.refused(5, "-P", "demo-lib==1.0", "-P", "demo-app==2.0")
    assert "demo-lib>=2" in said


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("demo-ap", "demo-app"),
        ("torch", "constraints/"),
        ("nvidia-cublas", "constraints/"),
        ("demo app", "mlenv lock -P"),
        ("demo-app @ https://host.invalid/a.whl", "mlenv lock -P"),
    ],
)
def test_an_upgrade_that_can_mean_nothing_is_exit_2(bench: MakeBench, asked: str, hint: str) -> None:
    made = _outdated(bench)
    said = made.refused(2, "-P", asked)
    assert hint in said.partition("hint:")[2]


def test_a_dry_run_tells_the_difference_and_writes_nothing(bench: MakeBench) -> None:
    made = _outdated(bench)
    made.write("requirements.in", "demo-app\n")
    before = {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file()}
    done = made.lock("--dry-run", "-P", "demo-app")
    assert done.out.splitlines()[:3] == ["- apart 1.0", "↑ demo-app 1.0 → 2.0", "↑ demo-lib 1.0 → 2.0"]
    assert "nothing was changed" in done.out
    assert {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file()} == before


def test_a_first_dry_run_leaves_no_folder_behind(bench: MakeBench) -> None:
    made = bench("demo-lib\n", LIB)
    before = sorted(made.root.rglob("*"))
    made.lock("--dry-run")
    assert sorted(made.root.rglob("*")) == before


# --- source distributions --------------------------------------------------------------------------------------------


def _sdist(name: str, version: str, marker: Path, *, static: bool = True, requires: Sequence[str] = ()) -> Package:
    return Package(name, version, kind="sdist", requires=requires, build=Build(marker=marker, static=static))


@pytest.mark.parametrize("static", [True, False])
def test_a_release_without_wheel_is_exit_5_and_never_an_older_one(
    bench: MakeBench, tmp_path: Path, static: bool
) -> None:
    marker = tmp_path / "ran"
    made = bench("sourced\n", Package("sourced", "1.0"), _sdist("sourced", "2.0", marker, static=static))
    said = made.refused(5)
    assert "sourced" in said
    assert "2.0" in said
    assert 'build = ["sourced"]' in said
    assert not marker.exists()


@pytest.mark.parametrize("static", [True, False])
def test_an_old_pin_without_wheel_is_told_with_who_brings_it_and_may_move(
    bench: MakeBench, tmp_path: Path, static: bool
) -> None:
    top, middle = Package("top", "1.0", requires=["middle"]), Package("middle", "1.0", requires=["sourced"])
    old = _sdist("sourced", "1.0", tmp_path / "ran", static=static)
    made = bench("top\n", top, middle, Package("sourced", "2.0"), old)
    made.lock()
    made.write("requirements.txt", made.text.replace("sourced==2.0", "sourced==1.0"))
    said = made.refused(5)
    assert "-r requirements.in → top → middle → sourced" in said
    assert "hint: `mlenv lock -P sourced` lets the old lock's pin move; " in said
    made.lock("-P", "sourced")
    assert made.pins["sourced"] == "2.0"


def test_a_release_with_a_wheel_for_another_platform_alone_is_exit_5(bench: MakeBench, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    windows = Package("sourced", "2.0", tag="cp311-cp311-win_amd64")
    made = bench("sourced\n", Package("sourced", "1.0"), windows, _sdist("sourced", "2.0", marker))
    assert 'build = ["sourced"]' in made.refused(5)
    assert not marker.exists()


def test_a_source_distribution_beside_a_wheel_runs_no_code(bench: MakeBench, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    made = bench("sourced\n", Package("sourced", "2.0"), _sdist("sourced", "2.0", marker, static=False))
    made.lock()
    assert len(made.pin("sourced").hashes) == 2
    assert not marker.exists()


def test_static_metadata_is_read_without_running_code(bench: MakeBench, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    packages = (LIB, _sdist("sourced", "2.0", marker, requires=("demo-lib",)))
    made = bench("sourced\n", *packages, settings='build = ["sourced"]\n')
    made.lock()
    assert made.pins == {"sourced": "2.0", "demo-lib": "1.0"}
    assert not marker.exists()


def test_build_lets_exactly_the_named_one_run(bench: MakeBench, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    packages = (LIB, _sdist("trusted", "2.0", first, static=False, requires=("demo-lib",)))
    made = bench("trusted\n", *packages, settings='build = ["trusted"]\n')
    made.lock()
    assert made.pins == {"trusted": "2.0", "demo-lib": "1.0"}
    assert first.exists()
    made.publish(_sdist("untrusted", "1.0", second, static=False))
    made.write("requirements.in", "trusted\nuntrusted\n")
    assert 'build = ["untrusted"]' in made.refused(5)
    assert not second.exists()


def test_a_package_may_be_built_against_the_foundation(bench: MakeBench, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    settings = 'build-against-foundation = ["flashy"]\n'
    made = bench("flashy\n", _sdist("flashy", "2.0", marker, requires=("torch",)), settings=settings)
    made.lock()
    assert made.pins == {"flashy": "2.0"}
    assert not marker.exists()


# --- local projects --------------------------------------------------------------------------------------------------

LOCAL = """\
[project]
name = "{name}"
version = "0.1"
dependencies = {dependencies}
[project.optional-dependencies]
more = ["apart"]
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""


def test_local_projects_stay_out_and_their_dependencies_are_in(bench: MakeBench) -> None:
    files = {
        "pyproject.toml": LOCAL.format(name="here", dependencies='["demo-app"]'),
        "libs/x/pyproject.toml": LOCAL.format(name="there", dependencies='["here-lib"]'),
    }
    packages = (APP, LIB, Package("here-lib", "1.0"), Package("apart", "1.0"))
    made = bench("-e .\n./libs/x[more]\n", *packages, files=files)
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0", "here-lib": "1.0", "apart": "1.0"}
    assert str(made.root) not in made.text
    assert ".mlenv" not in made.text


def test_a_local_project_is_preferred_to_an_index_package_of_its_name(bench: MakeBench) -> None:
    files = {
        "libs/x/pyproject.toml": LOCAL.format(name="there", dependencies="[]"),
        "libs/y/pyproject.toml": LOCAL.format(name="yonder", dependencies='["there"]'),
    }
    made = bench("-e ./libs/x\n-e ./libs/y\n", Package("there", "99"), files=files)
    made.lock()
    assert made.pins == {}


LEGACY_BACKEND = """\
import os

def prepare(folder, settings=None):
    info = os.path.join(folder, "legacy-1.dist-info")
    os.makedirs(info)
    for name, text in FILES.items():
        with open(os.path.join(info, name), "w") as file:
            file.write(text)
    return "legacy-1.dist-info"

FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: legacy\\nVersion: 1\\nRequires-Dist: demo-lib\\n",
    "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}

class __legacy__:
    get_requires_for_build_editable = get_requires_for_build_wheel = staticmethod(lambda settings=None: [])
    prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel = staticmethod(prepare)
"""


def test_a_local_project_that_only_its_build_describes_must_be_named(bench: MakeBench) -> None:
    modules = {"setuptools/__init__.py": "", "setuptools/build_meta.py": LEGACY_BACKEND}
    files = {"libs/legacy/setup.py": "never read, as the backend is a fake\n"}
    made = bench("-e ./libs/legacy\n", LIB, Package("setuptools", "80.0", files=modules), files=files)
    said = made.refused(5)
    assert "./libs/legacy does not say" in said
    assert str(made.root) not in said
    assert 'build = ["legacy"]' in said
    made.write("pyproject.toml", '[tool.mlenv]\nbuild = ["legacy"]\n')
    made.lock()
    assert made.pins == {"demo-lib": "1.0"}


# --- names that belong to an index -----------------------------------------------------------------------------------

COMPANY = 'index = { "company-*" = "company", "inhouse" = "company" }\n'
EVIL = Package("company-core", "99.0", requires=("evil",))


def test_a_named_index_is_the_only_source_of_its_names(bench: MakeBench) -> None:
    """Direct, brought by another, and by a glob; the default index has a higher version of each."""
    made = bench("company-app\npublic\n", named=("company",), settings=COMPANY)
    made.publish(Package("company-app", "1.0", requires=("company-core", "demo-lib")), index="company")
    made.publish(Package("company-core", "1.0"), Package("inhouse", "1.0"), Package("demo-lib", "99"), index="company")
    made.publish(Package("public", "1.0", requires=("inhouse",)), LIB, EVIL, Package("evil", "1.0"))
    made.publish(Package("company-app", "99"), Package("inhouse", "99"))
    made.lock()
    expected = {"company-app": "1.0", "company-core": "1.0", "inhouse": "1.0", "public": "1.0", "demo-lib": "1.0"}
    assert made.pins == expected
    before = made.text
    made.lock("-U")
    assert made.text == before


@pytest.mark.parametrize("requirement", ["company-core", "public"])
def test_a_404_of_a_named_index_never_falls_through(bench: MakeBench, requirement: str) -> None:
    packages = (EVIL, Package("evil", "1.0"), Package("public", "1.0", requires=("company-core",)))
    made = bench(f"{requirement}\n", *packages, named=("company",), settings=COMPANY)
    made.publish(Package("company-other", "1.0"), index="company")
    assert "company-core" in made.refused(5)


def test_the_pytorch_index_shadows_no_package_of_the_default_index(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB, foundations=(CPU, CU130))
    shadows = (Package("demo-app", "99"), Package("sympy", "99"), Package("nvidia-cublas", "13.0.99.1"))
    for backend in ("cpu", "cu130"):
        made.publish(*shadows, index=f"pytorch-{backend}")
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0"}
    assert made.pin("sympy").version == "1.14.0"


def test_a_failure_of_the_default_index_is_not_blamed_on_the_foundations_source(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB)
    made.index.fail("default", Status(500), package="demo-lib")
    said = made.refused(6)
    assert "/default/simple/demo-lib/ answered 500" in said
    assert "foundation" not in said


def test_a_failure_of_the_foundations_source_names_a_way_out(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB)
    made.index.fail("pytorch-cpu", Status(500))
    said = made.refused(6)
    assert "the foundation of cpu can't be had: " in said
    assert "/pytorch-cpu/simple/" in said
    assert "try --cuda13" in said


# --- what requirements may say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "chosen"),
    [("early", "1.0"), ("early>=2.0rc1", "2.0rc2"), ("early==2.0rc1", "2.0rc1")],
)
def test_pre_releases_are_taken_only_where_asked(bench: MakeBench, requirement: str, chosen: str) -> None:
    releases = [Package("early", version) for version in ("1.0", "2.0rc1", "2.0rc2")]
    made = bench(f"{requirement}\ndemo-lib\n", LIB, Package("demo-lib", "3.0a1"), *releases)
    made.lock()
    assert made.pins == {"early": chosen, "demo-lib": "1.0"}


def test_pyproject_can_hold_the_requirements(bench: MakeBench) -> None:
    pyproject = (
        '[project]\nname = "me"\nversion = "1"\ndependencies = ["demo-app; python_version < \'3.12\'", "demo-lib<2"]\n'
    )
    files = {"pyproject.toml": pyproject + '[tool.mlenv]\nrequirements = ["pyproject.toml"]\n'}
    made = bench("unused\n", APP, LIB, Package("demo-lib", "2.0"), files=files)
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0"}
    assert made.pin("demo-app").marker == 'python_version < "3.12"'
    assert made.pin("demo-lib").via == ("demo-app", "me (pyproject.toml)")
    assert made.mlenv("lock", "--check").code == 0


def test_a_wheel_url_is_hashed_and_its_dependencies_are_locked(bench: MakeBench) -> None:
    direct = Package("direct", "1.0", requires=("demo-lib",))
    made = bench("", LIB)
    made.publish(direct, index="elsewhere")
    url = made.index.file_url("elsewhere", direct) + f"#sha256={direct.sha256}"
    made.write("requirements.in", f"direct @ {url}\n")
    made.lock()
    assert made.pins == {"direct": url, "demo-lib": "1.0"}
    assert made.pin("direct").hashes == (f"sha256:{direct.sha256}",)
    before = made.text
    made.lock()
    assert made.text == before
    assert made.mlenv("lock", "--check").code == 0


def test_extras_and_markers_of_direct_requirements(bench: MakeBench) -> None:
    rich = Package("rich-app", "1.0", extras={"socks": ("demo-lib",)})
    lines = 'rich-app[socks]\nmarked; python_version < "3.12"\nabsent; sys_platform == "win32"\n'
    made = bench(lines, rich, LIB, Package("marked", "1.0"), Package("absent", "1.0"))
    made.lock()
    assert made.pins == {"rich-app": "1.0", "demo-lib": "1.0", "marked": "1.0"}
    assert made.pin("rich-app").extras == ("socks",)
    assert made.pin("marked").marker == 'python_version < "3.12"'
    assert made.mlenv("lock", "--check").code == 0


def test_includes_and_constraints_are_followed(bench: MakeBench) -> None:
    files = {"more/dev.in": "apart\n-c ../limits.txt\n", "limits.txt": "demo-lib<2\nunused<1\n"}
    made = bench(
        "demo-app\n-r more/dev.in\n", APP, LIB, Package("demo-lib", "2.0"), Package("apart", "1.0"), files=files
    )
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0", "apart": "1.0"}
    assert made.pin("apart").via == ("-r more/dev.in",)
    assert made.parsed.header is not None
    assert set(made.parsed.header.inputs) == {"requirements.in", "more/dev.in", "limits.txt"}


# --- locks that others wrote -----------------------------------------------------------------------------------------

_H = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "text",
    [
        "#\n# This file is autogenerated by pip-compile with Python 3.11\n# by the following command:\n#\n"
        "#    pip-compile --generate-hashes requirements.in\n#\n"
        "demo-app==1.0 \\\n    --hash={app}\n    # via -r requirements.in\n"
        "demo-lib==1.0 \\\n    --hash={lib}\n    # via demo-app\n"
        "torch==2.9.1 \\\n    --hash={other}\n    # via demo-app\n"
        "apart==1.0\n",
        "# This file was autogenerated by uv via the following command:\n#    uv pip compile requirements.in\n"
        "--index-url https://mirror.invalid/simple\n"
        "demo-app==1.0\n    # via -r requirements.in\ndemo-lib==1.0 ; sys_platform == 'linux'\napart==1.0\n",
        "apart==1.0\n<<<<<<< ours\ndemo-app==1.0 \\\n    --hash={app}\n=======\n"
        "demo-lib==1.0 \\\n    --hash={lib}\n>>>>>>> theirs\n",
    ],
    ids=["pip-compile, with a leaked torch", "uv", "both sides of a conflict"],
)
def test_the_pins_of_another_tool_are_adopted(bench: MakeBench, text: str) -> None:
    made = bench("demo-app\napart\n", APP, LIB, Package("apart", "1.0"), *NEWER)
    app, lib = f"sha256:{APP.sha256}", f"sha256:{LIB.sha256}"
    made.write("requirements.txt", text.replace("{app}", app).replace("{lib}", lib).replace("{other}", _H))
    made.lock()
    assert made.pins == {"demo-app": "1.0", "demo-lib": "1.0", "apart": "1.0"}
    assert made.pin("demo-lib").hashes == (lib,)
    assert made.pin("demo-lib").marker is None
    assert made.mlenv("lock", "--check").code == 0


def test_a_torn_header_does_not_stop_lock(bench: MakeBench) -> None:
    made = bench("demo-app\n", APP, LIB)
    made.lock()
    before = made.text
    made.publish(*NEWER)
    made.write("requirements.txt", "".join(line for line in before.splitlines(True) if "mlenv settings" not in line))
    made.lock()
    assert made.text == before


def test_a_weak_hash_is_replaced(bench: MakeBench) -> None:
    made = bench("demo-lib\n", LIB, Package("demo-lib", "2.0"))
    made.write("requirements.txt", f"demo-lib==1.0 --hash=md5:{'ab' * 16}\n")
    made.lock()
    assert (made.pins, made.pin("demo-lib").hashes) == ({"demo-lib": "1.0"}, (f"sha256:{LIB.sha256}",))


def test_a_bots_pin_is_adopted(bench: MakeBench) -> None:
    """Dependabot changes a pin and its hashes and nothing else."""
    made = bench("demo-lib\n", LIB, Package("demo-lib", "2.0"), Package("demo-lib", "3.0"))
    made.lock()
    new = Package("demo-lib", "2.0")
    old = Package("demo-lib", "3.0")
    made.write("requirements.txt", made.text.replace("==3.0", "==2.0").replace(old.sha256, new.sha256))
    made.lock()
    assert made.pins == {"demo-lib": "2.0"}
    assert made.mlenv("lock", "--check").code == 0


def test_a_pin_that_no_longer_fits_is_dropped(bench: MakeBench) -> None:
    made = bench("demo-lib<2\n", LIB, Package("demo-lib", "2.0"))
    made.write("requirements.txt", f"demo-lib==2.0 --hash={_H}\ngone==1.0 --hash={_H}\n")
    made.lock()
    assert made.pins == {"demo-lib": "1.0"}


# --- the target ------------------------------------------------------------------------------------------------------

TARGETED = Package(
    "targeted",
    "1.0",
    requires=(
        'for-windows; sys_platform == "win32"',
        'for-new; python_version >= "3.12"',
        'for-old; python_version < "3.12"',
    ),
)
TARGETS = tuple(Package(f"for-{name}", "1.0") for name in ("windows", "new", "old"))


@pytest.mark.parametrize(
    ("settings", "brought"),
    [
        ('python = "3.11"\n', {"for-old"}),
        ('python = "3.13"\n', {"for-new"}),
        ('python = "3.11"\nplatforms = ["windows-x86_64"]\n', {"for-old", "for-windows"}),
    ],
)
def test_the_lock_is_for_the_target_and_not_for_this_machine(
    bench: MakeBench, settings: str, brought: set[str]
) -> None:
    made = bench("targeted\n", TARGETED, *TARGETS, settings=settings)
    made.lock()
    assert set(made.pins) == {"targeted", *brought}
    assert made.mlenv("lock", "--check").code == 0


def test_another_target_is_noticed_and_locked_anew(bench: MakeBench) -> None:
    made = bench("targeted\n", TARGETED, *TARGETS, settings='python = "3.11"\n')
    made.lock()
    made.write("pyproject.toml", '[tool.mlenv]\npython = "3.13"\n')
    done = made.mlenv("lock", "--check")
    assert done.code == 1
    assert "requirements.txt:8: the lock is for Python 3.11, the settings want 3.13" in done.out
    made.lock()
    assert set(made.pins) == {"targeted", "for-new"}


def test_without_a_setting_the_lock_keeps_its_python(bench: MakeBench) -> None:
    made = bench("targeted\n", TARGETED, *TARGETS)
    made.lock("--python-version", "3.13")
    before = made.text
    made.lock()
    assert made.text == before


# --- others read it --------------------------------------------------------------------------------------------------


def test_pip_installs_it_over_the_foundation_and_changes_nothing_there(
    bench: MakeBench, run_uv: RunProgram, base_python: Path
) -> None:
    made = bench("demo-app\nmarked; python_version >= '3'\n", APP, LIB, Package("marked", "1.0"))
    made.lock()
    assert run_uv("venv", "-q", "--no-project", "--seed", "--python", base_python, "env", cwd=made.root).code == 0
    family = [package.file for package in _written(made.root, CPU.family)]
    python = made.root / "env/bin/python"
    installed = run_uv("pip", "install", "-q", "--no-deps", "--python", python, *family, cwd=made.root)
    assert installed.code == 0, installed.err
    argv: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--require-hashes",
        "--index-url",
        made.index.url("default"),
    ]
    done = subprocess.run([*argv, "-r", "requirements.txt"], cwd=made.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    would = done.stdout.splitlines()[-1]
    assert would.startswith("Would install demo-app-1.0 demo-lib-1.0 filelock-3.20.0")
    assert "torch" not in would
    assert "Requirement already satisfied: torch" in done.stdout


@dataclass(frozen=True)
class _Written:
    file: Path


def _written(root: Path, packages: Sequence[Package]) -> list[_Written]:
    from support.wheels import write

    return [_Written(write(package, root / "wheels")) for package in packages]


def test_uv_reads_it_and_keeps_every_pin_and_hash(bench: MakeBench, run_uv: RunProgram) -> None:
    made = bench("demo-app\nrich-app[socks]\n", APP, LIB, Package("rich-app", "1.0", extras={"socks": ("demo-lib",)}))
    made.lock()
    argv = (
        "pip",
        "compile",
        "requirements.txt",
        "--no-deps",
        "--generate-hashes",
        "--no-strip-extras",
        "--no-header",
        "-q",
    )
    done = run_uv(*argv, "--default-index", made.index.url("default"), "--python-version", "3.11", cwd=made.root)
    assert done.code == 0, done.err
    told = [(pin.name, pin.version, pin.extras, pin.hashes) for pin in lockfile.parse_pins(done.out)]
    assert told == [(pin.name, pin.version, pin.extras, pin.hashes) for pin in made.parsed.pins]


# --- two at a time ---------------------------------------------------------------------------------------------------


def test_a_second_lock_waits_for_the_first(bench: MakeBench) -> None:
    made = bench("demo-lib\n", LIB)
    (made.root / ".mlenv").mkdir()
    finished: list[Finished] = []
    with FileLock(made.root / ".mlenv/lock"):
        thread = threading.Thread(target=lambda: finished.append(made.mlenv("lock")))
        thread.start()
        time.sleep(2.5)  # long enough for it to start and find the lock held
        assert not finished
        assert not made.path.exists()
    thread.join(timeout=30)
    assert finished[0].code == 0
    assert "another mlenv holds this project" in finished[0].err
    assert made.pins == {"demo-lib": "1.0"}


def test_a_lock_that_waited_too_long_is_exit_9(bench: MakeBench) -> None:
    made = bench("demo-lib\n", LIB)
    (made.root / ".mlenv").mkdir()
    with FileLock(made.root / ".mlenv/lock"):
        assert "hint: " in made.refused(9, "--wait", "0.1")


def test_the_second_of_two_keeps_what_the_first_wrote(bench: MakeBench) -> None:
    """The project is read after the lock file is held, not before."""
    made = bench("demo-lib\n", LIB)
    made.lock()
    older = made.text
    made.publish(Package("demo-lib", "2.0"))
    made.lock("-U")
    newer = made.text
    made.write("requirements.txt", older)
    finished: list[Finished] = []
    with FileLock(made.root / ".mlenv/lock"):
        thread = threading.Thread(target=lambda: finished.append(made.mlenv("lock")))
        thread.start()
        time.sleep(2.5)  # long enough for it to start and find the lock held
        made.write("requirements.txt", newer)
    thread.join(timeout=30)
    assert finished[0].code == 0
    assert made.text == newer
