"""Fixtures that every test may use. Types of what they return are in ``support``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import settings

from support.index import LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram, base_interpreter, throwaway_python

settings.register_profile("no deadline", deadline=None)  # beside a busy neighbour one try takes longer
settings.load_profile("no deadline")

_TIMEOUT_SECONDS = 120
_REMOVED_PREFIXES = ("MLENV_", "UV_", "PIP_", "CONDA_")
# Without bytecode each start of mlenv would compile it anew, which doubles the time of the suite.
_REMOVED = ("CI", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How thorough the kill test is."""
    parser.addoption(
        "--kills",
        type=int,
        default=50,
        help="How often a sync is killed, at its steps and between them (default: %(default)s).",
    )


@pytest.fixture(autouse=True)
def clean_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine decides a test; proxies and certificates stay, and never serve the loopback."""
    for name in list(os.environ):
        if name.startswith(_REMOVED_PREFIXES) or name in _REMOVED:
            monkeypatch.delenv(name)
    unproxied = [word for word in (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",") if word]
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, ",".join(dict.fromkeys([*unproxied, "127.0.0.1", "localhost"])))


@pytest.fixture
def index() -> Iterator[LoopbackIndex]:
    """A server of package indexes, empty."""
    with LoopbackIndex() as server:
        yield server


@pytest.fixture
def uv_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of uv's for this test alone, which uv is told of through UV_CACHE_DIR."""
    cache = tmp_path / "uv-cache"
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    return cache


@pytest.fixture
def project(tmp_path: Path) -> ProjectFactory:
    """Makes a project of ``{path: text}``; what all lines of a text are indented by is taken away."""
    made: list[Path] = []

    def make(files: Mapping[str, str]) -> Path:
        root = tmp_path / ("project" if not made else f"project-{len(made) + 1}")
        root.mkdir()
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(dedent(text), encoding="utf-8")
        made.append(root)
        return root

    return make


@pytest.fixture
def base_python() -> Path:
    """The base interpreter below the one that runs the tests."""
    return base_interpreter()


@pytest.fixture
def private_python(tmp_path: Path) -> Path:
    """A base interpreter that a test may damage."""
    return throwaway_python(tmp_path / "private-python")


@pytest.fixture
def run_mlenv(tmp_path: Path, uv_cache: Path) -> RunProgram:
    """Runs ``mlenv`` as a process of its own, with empty configuration folders and uv's cache of this test."""
    return _runner((sys.executable, "-m", "mlenv"), tmp_path / "home")


@pytest.fixture
def run_uv(tmp_path: Path, uv_cache: Path) -> RunProgram:
    """Runs uv itself in the same surroundings."""
    import uv

    return _runner((uv.find_uv_bin(),), tmp_path / "home")


def _runner(command: tuple[str, ...], home: Path) -> RunProgram:
    def run(*args: str | Path, cwd: Path, env: Mapping[str, str | None] | None = None) -> Finished:
        variables = {**os.environ, **_isolated(home), **(env or {})}
        kept = {name: value for name, value in variables.items() if value is not None}
        words = [*command, *(os.fspath(word) for word in args)]
        done = subprocess.run(
            words, cwd=cwd, env=kept, capture_output=True, encoding="utf-8", timeout=_TIMEOUT_SECONDS, check=False
        )
        return Finished(code=done.returncode, out=done.stdout, err=done.stderr)

    return run


def _isolated(home: Path) -> dict[str, str]:
    """Folders of a user who has no settings; uv asks once, as a retry costs a second."""
    home.mkdir(exist_ok=True)
    folders = {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_DIRS": home / "etc"}
    folders |= {f"XDG_{kind}_HOME": home / kind.lower() for kind in ("CONFIG", "CACHE", "DATA", "STATE")}
    return {name: str(folder) for name, folder in folders.items()} | {
        "UV_HTTP_RETRIES": "0",
        "UV_PYTHON_DOWNLOADS": "never",
    }
