from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from mlenv.errors import EnvironmentBuildError
from mlenv.system import generation, history, in_use
from mlenv.system.generation import Generation


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / ".mlenv"
    (folder / "gen").mkdir(parents=True)
    return folder


def make(state: Path, name: str, *, created: float = 0.0, key: str = "sha256:k") -> Path:
    path = generation.folder(state) / name
    path.mkdir(exist_ok=True)
    document = {"key": key, "backend": "cpu", "inventory": {}, "created": created}
    (path / generation.MARKER).write_text(json.dumps(document))
    return path


def read(path: Path) -> Generation:
    found = generation.read(path)
    assert found is not None
    return found


def link(state: Path, environment: Path, path: Path) -> None:
    """Make an environment of it as ``flip`` does."""
    history.note(state, environment, path.name)
    environment.symlink_to(path)


@pytest.mark.parametrize("marker", [None, "", "{", "[]", '{"key": "k"}', "null"])
def test_without_a_sound_marker_it_is_no_generation(state: Path, marker: str | None) -> None:
    path = generation.folder(state) / "a"
    path.mkdir()
    if marker is not None:
        (path / generation.MARKER).write_text(marker)
    assert generation.read(path) is None
    assert generation.finished(state) == ()


def test_finished_ones_are_listed_newest_first(state: Path) -> None:
    make(state, "old", created=1)
    make(state, "new", created=2)
    (generation.folder(state) / "half").mkdir()
    assert [found.path.name for found in generation.finished(state)] == ["new", "old"]


def test_a_new_one_gets_a_name_of_its_own(state: Path) -> None:
    key = "sha256:0123456789abcdef"
    first = generation.begin(state, backend="cpu", key=key)
    assert first.name == "cpu-0123456789ab"
    first.mkdir()
    assert generation.begin(state, backend="cpu", key=key).name == "cpu-0123456789ab-2"


def test_finishing_writes_the_marker_last(state: Path) -> None:
    path = generation.folder(state) / "a"
    path.mkdir()
    made = generation.finish(path, {"key": "sha256:x", "backend": "cpu", "inventory": {"a": ["1"]}})
    assert (made.key, made.backend) == ("sha256:x", "cpu")
    assert generation.read(path) == made
    assert [entry.name for entry in path.iterdir()] == [generation.MARKER]


def test_sweeping_takes_the_unfinished_only(state: Path) -> None:
    make(state, "whole")
    (generation.folder(state) / "half" / "bin").mkdir(parents=True)
    assert [path.name for path in generation.sweep(state).gone] == ["half"]
    assert [path.name for path in generation.folder(state).iterdir()] == ["whole"]


def test_sweeping_looks_at_no_process_where_nothing_is_left(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(state, "whole")
    monkeypatch.setattr(in_use, "running", lambda: pytest.fail("looked at processes"))
    assert generation.sweep(state) == generation.Swept()


def test_sweeping_before_the_first_build(tmp_path: Path) -> None:
    assert generation.sweep(tmp_path / "nothing") == generation.Swept()


def test_pruning_keeps_the_newest_the_young_and_those_in_use(state: Path, tmp_path: Path) -> None:
    now = time.time()
    ages = {"a": 30, "b": 29, "c": 28, "d": 3, "e": 2, "f": 1}
    paths = {name: make(state, name, created=now - days * 86400) for name, days in ages.items()}
    link(state, tmp_path / "env", paths["a"])
    with in_use.lease(state, "b"):
        assert [path.name for path in generation.prune(state, keep=2, current=read(paths["f"]))] == ["c"]
    assert [path.name for path in generation.prune(state, keep=2, current=read(paths["f"]))] == ["b"]
    assert {path.name for path in generation.folder(state).iterdir()} == {"a", "d", "e", "f"}


def test_an_environment_that_was_removed_holds_nothing_back(state: Path, tmp_path: Path) -> None:
    old, new = make(state, "old", created=0), make(state, "new", created=time.time())
    link(state, tmp_path / "env", old)
    assert generation.prune(state, keep=1, current=read(new)) == ()
    (tmp_path / "env").unlink()
    assert generation.prune(state, keep=1, current=read(new)) == (old,)


@pytest.mark.parametrize(
    ("name", "python", "scripts"),
    [("posix", "bin/python", "bin"), ("nt", "Scripts/python.exe", "Scripts")],
)
def test_where_programs_are(monkeypatch: pytest.MonkeyPatch, name: str, python: str, scripts: str) -> None:
    root = Path("env")
    monkeypatch.setattr("mlenv.system.generation.os.name", name)
    found = (generation.python_of(root).as_posix(), generation.scripts_of(root).as_posix())
    monkeypatch.undo()
    assert found == (f"env/{python}", f"env/{scripts}")


def test_a_folder_that_is_no_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="not a virtual environment of its own"):
        generation.require_private(tmp_path, env={})


def test_an_interpreter_of_another_environment_is_refused(tmp_path: Path) -> None:
    """``bin/python`` leads elsewhere, whatever pyvenv.cfg says here."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho /elsewhere\necho /usr\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    with pytest.raises(EnvironmentBuildError, match="not a virtual environment of its own"):
        generation.require_private(tmp_path, env={"PATH": os.defpath})
