from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlenv.errors import EnvironmentBuildError
from mlenv.system import flip, generation, history, links


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / ".mlenv"
    (folder / "gen").mkdir(parents=True)
    return folder


def make(state: Path, name: str, *, layout: str = "link", program: str | None = None) -> Path:
    """A finished generation; ``program`` is its Python: what a moved one is tried with."""
    path = generation.folder(state) / name
    (path / "bin").mkdir(parents=True)
    if program is not None:
        (path / "bin" / "python").write_text(f"#!/bin/sh\n{program}\n")
        (path / "bin" / "python").chmod(0o755)
    document = {"id": name, "key": "sha256:k", "backend": "cpu", "inventory": {}, "layout": layout}
    (path / generation.MARKER).write_text(json.dumps(document))
    return path


def put(state: Path, environment: Path, path: Path) -> Path | None:
    """Flip to what is at ``path``; returns where what stood there was moved to."""
    found = generation.read(path)
    assert found is not None
    return flip.flip(state, environment, found, env={}).aside


def test_the_environment_is_a_relative_link_inside_the_project(state: Path) -> None:
    path, environment = make(state, "a"), state.parent / ".venv"
    assert put(state, environment, path) is None
    assert environment.readlink() == Path(".mlenv/gen/a")
    found = generation.current(environment)
    assert found is not None
    assert found.path == path.resolve()
    assert put(state, environment, make(state, "b")) is None
    assert environment.readlink() == Path(".mlenv/gen/b")
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]


def test_the_environment_is_an_absolute_link_outside_it(state: Path, tmp_path: Path) -> None:
    path, environment = make(state, "a"), tmp_path / "elsewhere" / "env"
    put(state, environment, path)
    assert environment.readlink() == path.resolve()


def test_a_flip_that_fails_puts_back_what_it_moved_aside(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = state.parent / ".venv"
    environment.mkdir()
    (environment / "mine").touch()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(flip, "exchange", refuse)
    with pytest.raises(EnvironmentBuildError, match="can't be made the new environment: no"):
        put(state, environment, make(state, "a"))
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]
    assert (environment / "mine").exists()


class Killed(BaseException):
    """kill -9, as far as a test can tell."""


@pytest.mark.parametrize("layout", ["link", "directory"])
@pytest.mark.parametrize("exchanged", [False, True])
def test_a_kill_leaves_what_stood_there_or_the_new_one(
    state: Path, monkeypatch: pytest.MonkeyPatch, layout: str, *, exchanged: bool
) -> None:
    environment = state.parent / ".venv"
    environment.mkdir()
    (environment / "mine").touch()

    def killed(first: Path, second: Path) -> None:
        if exchanged:
            links.exchange(first, second)
        raise Killed

    monkeypatch.setattr(flip, "exchange", killed)
    with pytest.raises(Killed):
        put(state, environment, make(state, "a", layout=layout, program=WORKS))
    assert (environment / "mine").exists() is not exchanged
    assert (generation.current(environment) is not None) is exchanged
    flip.tidy(state)
    aside = state.parent / ".venv.before-mlenv"
    assert os.path.lexists(aside) is exchanged
    assert (aside / "mine").exists() is exchanged
    assert [g.id for g in generation.known(state, environment)] == ["a"]


@pytest.mark.parametrize("target", ["../other/.mlenv/gen/x", ".mlenv/gen/gone"])
def test_a_link_to_any_generation_is_replaced_in_place(state: Path, target: str) -> None:
    environment = state.parent / ".venv"
    environment.symlink_to(target)
    assert put(state, environment, make(state, "a")) is None


@pytest.mark.parametrize("target", ["../shared", "/nowhere", ".mlenv", ".mlenv/gen"])
def test_any_other_link_is_moved_aside_as_it_is(state: Path, target: str) -> None:
    environment = state.parent / ".venv"
    environment.symlink_to(target)
    aside = put(state, environment, make(state, "a"))
    assert aside == state.parent / ".venv.before-mlenv"
    assert aside.readlink() == Path(target)


# ------------------------------------------------------------------------------------------------- layout "directory"

WORKS = 'cd "$(dirname "$0")/.." && pwd -P'
FAILS = "echo no such library >&2; exit 1"


def test_a_directory_changes_places_with_the_new_one(state: Path) -> None:
    environment = state.parent / ".venv"
    for name in ("a", "b"):
        assert put(state, environment, make(state, name, layout="directory", program=WORKS)) is None
        found = generation.current(environment)
        assert found is not None
        assert (found.id, found.path, found.moved_from) == (name, environment, None)
    assert [path.name for path in generation.folder(state).iterdir()] == ["a"]
    assert [g.id for g in generation.known(state, environment)] == ["b", "a"]
    assert not (environment / "bin" / ".starts").exists()


def test_each_layout_takes_over_from_the_other(state: Path) -> None:
    environment = state.parent / ".venv"
    put(state, environment, make(state, "a"))
    put(state, environment, make(state, "b", layout="directory", program=WORKS))
    assert not environment.is_symlink()
    put(state, environment, make(state, "c"))
    assert environment.readlink() == Path(".mlenv/gen/c")
    assert sorted(path.name for path in generation.folder(state).iterdir()) == ["a", "b", "c"]
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]


@pytest.mark.parametrize("before", [False, True])
def test_a_directory_whose_programs_do_not_start_goes_back(state: Path, *, before: bool) -> None:
    environment = state.parent / ".venv"
    if before:
        put(state, environment, make(state, "a", layout="directory", program=WORKS))
    broken = make(state, "b", layout="directory", program=FAILS)
    with pytest.raises(EnvironmentBuildError, match="don't start from here: no such library"):
        put(state, environment, broken)
    found = generation.current(environment)
    assert (found.id if found else None) == ("a" if before else None)
    assert generation.read(broken) is not None


def test_what_was_there_before_comes_back_where_the_new_directorys_programs_do_not_start(state: Path) -> None:
    environment = state.parent / ".venv"
    environment.write_text("mine")
    broken = make(state, "b", layout="directory", program=FAILS)
    with pytest.raises(EnvironmentBuildError, match="don't start from here"):
        put(state, environment, broken)
    assert environment.read_text() == "mine"
    assert generation.read(broken) is not None
    assert sorted(entry.name for entry in state.parent.iterdir()) == [".mlenv", ".venv"]


def test_what_a_kill_between_exchange_and_tidying_left_is_put_in_its_place(state: Path) -> None:
    environment = state.parent / ".venv"
    put(state, environment, make(state, "a", layout="directory", program=WORKS))
    links.exchange(make(state, "b", layout="directory", program=WORKS), environment)  # ... and killed
    assert {g.id: g.path.name for g in generation.known(state, environment)} == {"a": "b", "b": ".venv"}
    put(state, environment, make(state, "c"))
    assert sorted(g.id for g in generation.finished(state)) == ["a", "b", "c"]
    assert environment.readlink() == Path(".mlenv/gen/c")


def test_what_a_kill_between_exchange_and_rename_left_gets_the_folder_of_its_name(state: Path) -> None:
    environment = state.parent / ".venv"
    old, new = make(state, "a", layout="directory"), make(state, "b", layout="directory")
    history.note(state, environment, "b", was="a")
    old.rename(environment)
    links.exchange(new, environment)
    (environment / "bin/.starts").touch()
    assert generation.free_place(state, "a").name == "a-2"
    assert flip.interrupted(state)
    flip.tidy(state)
    assert not flip.interrupted(state)
    assert [(found.path.name, found.id) for found in generation.finished(state)] == [("a", "a")]
    assert list((environment / "bin").iterdir()) == []


def test_an_exchanged_link_is_swept(state: Path) -> None:
    environment = state.parent / ".venv"
    put(state, environment, make(state, "a"))
    links.exchange(make(state, "b", layout="directory"), environment)  # ... and killed
    assert [g.id for g in generation.finished(state)] == ["a"]
    assert [path.name for path in generation.sweep(state).gone] == ["b"]
    assert [path.name for path in generation.folder(state).iterdir()] == ["a"]


# ------------------------------------------------------------------------------------------------------------- history


def test_the_history_is_the_way_back(state: Path) -> None:
    environment = state.parent / ".venv"
    for name in ("a", "b", "c"):
        history.note(state, environment, name)
    assert history.before(state, environment, "c") == ("b", "a")
    history.note(state, environment, "b", back_to="b")
    assert history.before(state, environment, "b") == ("a",)
    history.note(state, environment, "a-2", back_to="a")
    assert history.read(state) == {environment: ("a-2",)}


def test_a_flip_that_was_noted_and_did_not_happen_is_no_step_back(state: Path) -> None:
    environment = state.parent / ".venv"
    for name in ("a", "b", "never"):
        history.note(state, environment, name)
    assert history.before(state, environment, "b") == ("a",)
    assert history.before(state, environment, None) == ("never", "b", "a")


@pytest.mark.parametrize("text", ["", "[]", "{", '{".venv": 1}'])
def test_an_unreadable_history_is_none(state: Path, text: str) -> None:
    (state / "history.json").write_text(text)
    assert history.read(state) == {}


def test_environments_outside_the_project_are_remembered_where_they_are(state: Path, tmp_path: Path) -> None:
    put(state, tmp_path / "env", make(state, "a"))
    assert history.environments(state) == (tmp_path / "env",)
    moved = state.parent.rename(tmp_path / "moved")
    assert history.environments(moved / ".mlenv") == (tmp_path / "env",)


@pytest.mark.parametrize("link", [True, False])
def test_what_a_killed_flip_staged_is_tidied_up(state: Path, *, link: bool) -> None:
    environment = state.parent / ".venv"
    put(state, environment, make(state, "a"))
    staged = state / "flip"
    staged.symlink_to("gen/b") if link else make(state, "b", layout="directory").rename(staged)
    flip.tidy(state)
    assert not staged.exists()
    assert not staged.is_symlink()
    assert [g.id for g in generation.finished(state)] == (["a"] if link else ["b", "a"])


def test_a_full_disk_does_not_forget_the_environments_elsewhere(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(state, tmp_path / "env", make(state, "a"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentBuildError, match="No space left"):
            put(state, tmp_path / "second", make(state, "b"))
    assert history.environments(state) == (tmp_path / "env",)
    assert not (tmp_path / "second").exists()
