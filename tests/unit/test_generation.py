from __future__ import annotations

import json
import os
import sys
import time
import types
from pathlib import Path

import pytest

from mlenv.errors import EnvironmentBuildError
from mlenv.system import generation


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


def test_the_environment_is_a_relative_link_inside_the_project(state: Path) -> None:
    path, environment = make(state, "a"), state.parent / ".venv"
    assert generation.flip(environment, path) is None
    assert environment.readlink() == Path(".mlenv/gen/a")
    found = generation.current(environment)
    assert found is not None
    assert found.path == path.resolve()
    assert generation.flip(environment, make(state, "b")) is None
    assert environment.readlink() == Path(".mlenv/gen/b")
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]


def test_the_environment_is_an_absolute_link_outside_it(state: Path, tmp_path: Path) -> None:
    path, environment = make(state, "a"), tmp_path / "elsewhere" / "env"
    generation.flip(environment, path)
    assert environment.readlink() == path.resolve()


def test_a_flip_that_fails_puts_back_what_it_moved_aside(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = state.parent / ".venv"
    environment.mkdir()
    (environment / "mine").touch()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(EnvironmentBuildError, match="can't be made a link to the new environment: no"):
        generation.flip(environment, make(state, "a"))
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]
    assert (environment / "mine").exists()


@pytest.mark.parametrize("target", ["../other/.mlenv/gen/x", ".mlenv/gen/gone"])
def test_a_link_to_any_generation_is_replaced_in_place(state: Path, target: str) -> None:
    environment = state.parent / ".venv"
    environment.symlink_to(target)
    assert generation.flip(environment, make(state, "a")) is None


@pytest.mark.parametrize("target", ["../shared", "/nowhere", ".mlenv", ".mlenv/gen"])
def test_any_other_link_is_moved_aside_as_it_is(state: Path, target: str) -> None:
    environment = state.parent / ".venv"
    environment.symlink_to(target)
    aside = generation.flip(environment, make(state, "a"))
    assert aside == state.parent / ".venv.before-mlenv"
    assert aside.readlink() == Path(target)


def test_sweeping_takes_the_unfinished_only(state: Path) -> None:
    make(state, "whole")
    (generation.folder(state) / "half" / "bin").mkdir(parents=True)
    assert [path.name for path in generation.sweep(state).gone] == ["half"]
    assert [path.name for path in generation.folder(state).iterdir()] == ["whole"]


def test_sweeping_looks_at_no_process_where_nothing_is_left(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(state, "whole")
    monkeypatch.setattr(generation, "_running_in", lambda: pytest.fail("looked at processes"))
    assert generation.sweep(state) == generation.Swept()


def test_sweeping_before_the_first_build(tmp_path: Path) -> None:
    assert generation.sweep(tmp_path / "nothing") == generation.Swept()


def test_pruning_keeps_the_newest_the_young_and_those_in_use(state: Path, tmp_path: Path) -> None:
    now = time.time()
    ages = {"a": 30, "b": 29, "c": 28, "d": 3, "e": 2, "f": 1}
    paths = {name: make(state, name, created=now - days * 86400) for name, days in ages.items()}
    generation.flip(tmp_path / "env", paths["a"])
    gone = generation.prune(state, keep=2, in_use=paths["f"])
    assert [path.name for path in gone] == ["c", "b"]
    assert {path.name for path in generation.folder(state).iterdir()} == {"a", "d", "e", "f"}


def test_an_environment_that_was_removed_holds_nothing_back(state: Path, tmp_path: Path) -> None:
    old, new = make(state, "old", created=0), make(state, "new", created=time.time())
    generation.flip(tmp_path / "env", old)
    (tmp_path / "env").unlink()
    assert generation.prune(state, keep=1, in_use=new) == (old,)


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


def test_on_windows_the_link_is_a_junction_with_an_absolute_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Junctions need no right of the user's, and know no relative target."""
    made: list[tuple[str, str]] = []
    winapi = types.ModuleType("_winapi")
    winapi.CreateJunction = lambda target, link: made.append((target, link))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "_winapi", winapi)
    generation.make_link(tmp_path / ".venv", ".mlenv/gen/cpu-1", windows=True)
    assert made == [(str(tmp_path.resolve() / ".mlenv/gen/cpu-1"), str(tmp_path / ".venv"))]


def test_a_link_is_told_from_a_folder_and_from_nothing(tmp_path: Path) -> None:
    generation.make_link(tmp_path / "link", "gone", windows=False)
    assert generation.is_link(tmp_path / "link")
    assert not generation.is_link(tmp_path)
    assert not generation.is_link(tmp_path / "nothing")


def test_a_link_that_a_killed_flip_left_is_swept(state: Path) -> None:
    environment = state.parent / ".venv"
    generation.flip(environment, make(state, "old"))
    (state.parent / "..venv.mlenv").symlink_to(".mlenv/gen/new")
    generation.sweep(state)
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]


def test_a_full_disk_does_not_forget_the_environments_elsewhere(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make(state, "old", created=0), make(state, "new", created=time.time())
    generation.flip(tmp_path / "env", old)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentBuildError, match="No space left"):
            generation.flip(tmp_path / "second", new)
    assert generation.prune(state, keep=1, in_use=new) == ()
