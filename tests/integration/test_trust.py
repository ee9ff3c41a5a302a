"""Nothing shadows a package, changes a result quietly, runs a package's code unasked, or repeats a password."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from support.index import IndexSettings, LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Build, Package, fake_foundation

CPU = fake_foundation("cpu")
DEMO = Package("demo", "2.0", requires=("dep>=2",))
DEP = Package("dep", "2.5")
EVIL = tuple(replace(package, version="99.0") for package in (DEMO, DEP, Package("sympy", "1"), Package("torch", "1")))
SECRET = "s3cr3t-Pa55"
UV_TOML = """\
[[index]]
name = "main"
url = "{default}"
default = true

[[index]]
name = "pytorch-cpu"
url = "{cpu}"
explicit = true
"""


@pytest.fixture
def served(index: LoopbackIndex) -> LoopbackIndex:
    """``default`` and ``cpu`` are what the project names; ``evil`` has a newer release of everything."""
    return index.add("cpu", *CPU.family).add("default", *CPU.ordinary, DEMO, DEP).add("evil", *EVIL)


@pytest.fixture
def root(served: LoopbackIndex, project: ProjectFactory) -> Path:
    """A project below a folder that somebody else may write to."""
    uv_toml = UV_TOML.format(default=served.url("default"), cpu=served.url("cpu"))
    files = {"requirements.in": "demo\n", "constraints/cpu.txt": "torch==2.14.1\n", "uv.toml": uv_toml}
    return project({**files, "pyproject.toml": "[tool.mlenv]\n"})


def requests(index: LoopbackIndex) -> set[str]:
    return {request.path for request in index.requests}


# -------------------------------------------------------------------------------------------- a hostile environment


def hostile(index: LoopbackIndex, folder: Path) -> dict[str, str | None]:
    """Every variable that makes uv or pip resolve or install something else."""
    folder.mkdir()
    (folder / "pins.txt").write_text("dep==99.0\n")
    (folder / "uv.toml").write_text(f'[[index]]\nurl = "{index.url("evil")}"\ndefault = true\n')
    (folder / "sitecustomize.py").write_text(
        f"import sys\nopen({str(folder / 'ran')!r}, 'a').write(repr(sys.orig_argv) + chr(10))\n"
    )
    evil, pins = index.url("evil"), str(folder / "pins.txt")
    return {
        "UV_INDEX": f"evil={evil}",
        "UV_EXTRA_INDEX_URL": evil,
        "UV_FIND_LINKS": evil,
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_SOURCES": "1",
        "UV_TORCH_BACKEND": "cu126",
        "UV_CONSTRAINT": pins,
        "UV_OVERRIDE": pins,
        "UV_EXCLUDE": pins,
        "UV_BUILD_CONSTRAINT": pins,
        "UV_PRERELEASE": "allow",
        "UV_RESOLUTION": "lowest",
        "UV_EXCLUDE_NEWER": "2001-01-01T00:00:00Z",
        "UV_NO_VERIFY_HASHES": "1",
        "UV_NO_BINARY": "1",
        "UV_NO_BUILD_ISOLATION": "1",
        "UV_CONFIG_FILE": str(folder / "uv.toml"),
        "UV_PROJECT_ENVIRONMENT": str(folder / "env"),
        "UV_PYTHON": "2.7",
        "UV_SYSTEM_PYTHON": "1",
        "UV_TARGET": str(folder / "target"),
        "UV_CUSTOM_COMPILE_COMMAND": "rm -rf /",
        "UV_ENV_FILE": pins,
        "PIP_INDEX_URL": evil,
        "PIP_EXTRA_INDEX_URL": evil,
        "PIP_CONSTRAINT": pins,
        "PIP_PRE": "1",
        "PIP_NO_BINARY": ":all:",
        "PIP_REQUIREMENT": pins,
        "PIP_TARGET": str(folder / "target"),
        "PYTHONPATH": str(folder),
        "PYTHONSTARTUP": pins,
        "VIRTUAL_ENV": str(folder),
        "CONDA_PREFIX": str(folder),
    }


def test_a_hostile_environment_changes_neither_lock_nor_environment(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram, tmp_path: Path
) -> None:
    assert run_mlenv("lock", cwd=root).code == 0
    expected = (root / "requirements.txt").read_bytes()
    (root / "requirements.txt").unlink()

    variables = hostile(served, tmp_path / "hostile")
    (tmp_path / "uv.toml").write_bytes((tmp_path / "hostile" / "uv.toml").read_bytes())
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nconstraint-dependencies = ["dep==99.0"]\n')
    env = {**variables, "UV_CACHE_DIR": str(tmp_path / "second-cache")}
    locked = run_mlenv("lock", "-v", cwd=root, env=env)
    synced = run_mlenv("sync", "--cpu", "--verify", "metadata", cwd=root, env=env)

    assert (locked.code, synced.code) == (0, 0), locked.err + synced.err
    assert (root / "requirements.txt").read_bytes() == expected
    assert {path for path in requests(served) if path.startswith("/evil")} == set()
    for name in variables:
        told = f"{name} is set and is kept from uv" in locked.err
        assert told == name.startswith(("UV_", "PIP_")), name
    assert not (tmp_path / "hostile" / "target").exists()
    started = (tmp_path / "hostile" / "ran").read_text().splitlines()
    assert all("'mlenv'" in line for line in started), "a Python that mlenv started obeyed PYTHONPATH"
    assert sorted(path.name for path in (root / ".venv/lib").glob("*/site-packages/*.dist-info")) == sorted(
        f"{package.module}-{package.version}.dist-info" for package in (*CPU.ordinary, CPU.family[0], DEMO, DEP)
    )


@pytest.mark.parametrize("name", ["uv.toml", "pyproject.toml"])
def test_a_users_own_uv_toml_only_reaches_the_network(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram, tmp_path: Path, name: str
) -> None:
    """Of the user's file, and of a project's ``[tool.uv]``, nothing that resolves or shadows is obeyed."""
    shadowing = (
        f'prerelease = "allow"\nextra-index-url = ["{served.url("evil")}"]\nconstraint-dependencies = ["dep==99.0"]\n'
    )
    if name == "uv.toml":
        (tmp_path / "home/config/uv").mkdir(parents=True)
        (tmp_path / "home/config/uv/uv.toml").write_text(shadowing)
    else:
        (root / "pyproject.toml").write_text(f"[tool.mlenv]\n[tool.uv]\n{shadowing}")
    assert run_mlenv("lock", cwd=root).code == 0
    assert "dep==2.5 \\" in (root / "requirements.txt").read_text()
    assert {path for path in requests(served) if path.startswith("/evil")} == set()


def test_each_name_is_asked_of_its_own_index_only(root: Path, served: LoopbackIndex, run_mlenv: RunProgram) -> None:
    """The backend's index offers copies of ordinary packages, the default one a torch."""
    served.add("cpu", *EVIL[:3]).add("default", EVIL[3])
    assert run_mlenv("lock", cwd=root).code == 0
    pages = {path for path in requests(served) if "/simple/" in path}
    assert {path for path in pages if path.startswith("/cpu/")} == {"/cpu/simple/torch/"}
    assert "/default/simple/torch/" not in pages


# ----------------------------------------------------------------------------------------------------- credentials


def everything_written(root: Path) -> str:
    """All text below the project, the environment's record and plan included."""
    files = (
        path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 10**6
    )
    return "\n".join(f"{path}\n{path.read_bytes().decode('utf-8', 'replace')}" for path in files)


class Watch:
    """The command lines of every process while it is on."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._off = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._off.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._off.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes().decode("utf-8", "replace").replace("\0", " "))
                except OSError:
                    continue


def with_password(url: str) -> str:
    return url.replace("://", f"://someone:{SECRET}@")


def run_all(run: RunProgram, root: Path, env: Mapping[str, str]) -> list[Finished]:
    commands = (
        ("lock", "-v", "--json"),
        ("sync", "--cpu", "-v", "--json", "--verify", "metadata"),
        ("export", "--cpu", "--format", "pylock.toml"),
        ("export", "--cpu"),
        ("detect", "--json", "-v"),
    )
    return [run(*words, cwd=root, env=env) for words in commands]


def test_a_password_in_uv_default_index_is_used_and_told_to_nobody(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram
) -> None:
    served.configure("default", IndexSettings(credentials=("someone", SECRET)))
    env = {"UV_DEFAULT_INDEX": with_password(served.url("default"))}
    with Watch() as watch:
        done = run_all(run_mlenv, root, env)
    assert [finished.code for finished in done] == [0] * 5, "\n".join(finished.err for finished in done)
    assert any("uv" in line and "pip compile" in line for line in watch.seen)
    assert not [line for line in watch.seen if SECRET in line]
    assert SECRET not in "".join(finished.out + finished.err for finished in done)
    assert SECRET not in everything_written(root)


@pytest.mark.parametrize("words", [("lock",), ("lock", "-vv"), ("lock", "--json")])
def test_a_password_is_in_no_error(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram, words: tuple[str, ...]
) -> None:
    served.configure("default", IndexSettings(credentials=("somebody", "else")))
    done = run_mlenv(*words, cwd=root, env={"UV_DEFAULT_INDEX": with_password(served.url("default"))})
    assert done.code == 6, done.err
    assert "401 Unauthorized" in done.err
    assert SECRET not in done.out + done.err


def test_variables_carry_the_password_of_a_named_index(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram
) -> None:
    served.configure("cpu", IndexSettings(credentials=("someone", SECRET)))
    refused = run_mlenv("lock", cwd=root)
    assert refused.code == 6
    assert "401 Unauthorized" in refused.err
    env = {"UV_INDEX_PYTORCH_CPU_USERNAME": "someone", "UV_INDEX_PYTORCH_CPU_PASSWORD": SECRET}
    done = run_all(run_mlenv, root, env)
    assert [finished.code for finished in done] == [0] * 5, "\n".join(finished.err for finished in done)
    assert SECRET not in everything_written(root) + "".join(finished.out + finished.err for finished in done)


@pytest.mark.parametrize("url", ["https://someone:{0}@host.invalid/simple", "https://host.invalid/simple?token={0}"])
@pytest.mark.parametrize(
    ("path", "line"), [("uv.toml", "index-url = '{0}'\n"), ("requirements.in", "a @ {0}/a-1-py3-none-any.whl\n")]
)
def test_a_password_in_a_committed_file_is_refused(
    project: ProjectFactory, run_mlenv: RunProgram, path: str, line: str, url: str
) -> None:
    files = {"requirements.in": "demo\n", "constraints/cpu.txt": "torch==2.14.1\n"}
    folder = project({**files, path: line.format(url.format(SECRET))})
    done = run_mlenv("lock", "-vv", cwd=folder)
    assert done.code == 3, done.err
    assert f"error: {path}:1:" in done.err
    assert SECRET not in done.out + done.err


# ------------------------------------------------------------------------------------------------------ build code


def test_no_source_distribution_runs_code_while_locking(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    sdist = Package("hostile", "1.0", kind="sdist", build=Build(marker=marker, static=False))
    served.add("default", sdist)
    (root / "requirements.in").write_text("demo\nhostile\n")
    done = run_mlenv("lock", cwd=root)
    assert done.code == 5, done.err
    assert '[tool.mlenv] build = ["hostile"]' in done.err
    assert not marker.exists()

    (root / "pyproject.toml").write_text('[tool.mlenv]\nbuild = ["hostile"]\n')
    assert run_mlenv("lock", cwd=root).code == 0, "named in build, it may"
    assert marker.exists()


def test_a_package_that_claims_an_allowed_name_runs_no_code(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram, tmp_path: Path
) -> None:
    """Whose build it is says the index, not the archive; nor a folder inside it that looks like uv's cache."""
    marker = tmp_path / "ran"
    claimed = Package("trusted", "1.0", kind="sdist", build=Build(marker=marker, static=False))

    class Renamed(Package):
        filename = "hostile-1.0.tar.gz"
        normalized = "hostile"

    served.add("default", Renamed(claimed.name, claimed.version, kind="sdist", build=claimed.build))
    (root / "pyproject.toml").write_text('[tool.mlenv]\nbuild = ["trusted"]\n')
    (root / "requirements.in").write_text("hostile\n")
    done = run_mlenv("lock", cwd=root)
    assert done.code == 5, done.err
    assert not marker.exists()


def test_no_source_distribution_runs_code_while_syncing(
    root: Path, served: LoopbackIndex, run_mlenv: RunProgram, tmp_path: Path
) -> None:
    """The lock lists its hash, its metadata is static, and it was locked while it was allowed."""
    marker = tmp_path / "ran"
    served.add("default", Package("hostile", "1.0", kind="sdist", build=Build(marker=marker)))
    (root / "requirements.in").write_text("hostile\n")
    (root / "pyproject.toml").write_text('[tool.mlenv]\nbuild = ["hostile"]\n')
    assert run_mlenv("lock", cwd=root).code == 0
    marker.unlink(missing_ok=True)
    (root / "pyproject.toml").write_text("[tool.mlenv]\n")
    done = run_mlenv("sync", "--cpu", cwd=root)
    assert done.code in (1, 5), done.err
    assert not marker.exists()
    assert not (root / ".venv").exists()
