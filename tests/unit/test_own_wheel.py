"""mlenv's own wheel is what runs, and the same each time."""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from pathlib import Path

import mlenv
from mlenv.system import own_wheel


def test_it_holds_every_module_and_says_what_it_requires() -> None:
    name, data = own_wheel.make()
    assert (name, data) == own_wheel.make()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        info = f"mlenv-{importlib.metadata.version('mlenv')}.dist-info"
        assert b"Requires-Dist: uv" in archive.read(f"{info}/METADATA")
        assert b"mlenv = mlenv.__main__:main" in archive.read(f"{info}/entry_points.txt")
        record = archive.read(f"{info}/RECORD").decode()
    folder = Path(mlenv.__file__).parent
    modules = {f"mlenv/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
    assert modules <= names
    assert {row.split(",")[0] for row in record.splitlines()} == names


def test_its_requirements_are_what_runs_here() -> None:
    found = own_wheel.requirements()
    assert f"uv=={importlib.metadata.version('uv')}" in found
    assert not any(line.startswith(("pytest", "mypy")) for line in found)
