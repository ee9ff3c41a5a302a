"""Which file an edit is for, and that all of it is written or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlenv import editing
from mlenv.errors import EnvironmentBuildError, UsageError
from mlenv.locking import NewLock
from mlenv.project import Project
from mlenv.requirement_edits import asked
from mlenv.settings import Settings
from support.interpreter import ProjectFactory


def of(root: Path, *, lock: str = "requirements.txt") -> Project:
    return Project(root=root, settings=Settings(lock=lock), environ={})


def test_where_a_lock_can_not_be_written_the_files_are_as_they_were(project: ProjectFactory) -> None:
    root = project({"requirements.in": "b\n", "more.in": "", "file": "", ".mlenv/lock": ""})
    (root / "requirements.in").write_bytes(b"\xef\xbb\xbfb\r\n-r more.in")
    before = (root / "requirements.in").read_bytes()
    edited = of(root, lock="file/requirements.txt")
    edits = editing.adding(edited, [asked("a")])
    assert edits.texts == {"requirements.in": "\ufeffa\r\nb\r\n-r more.in"}
    new = NewLock(text="a==1\n", pins=(), changes=(), proofs=(), unproven=(), findings=())
    with pytest.raises(EnvironmentBuildError):
        editing.write(edited, edits, [(edited, new)])
    assert (root / "requirements.in").read_bytes() == before
    whole = of(root)
    editing.write(whole, edits, [(whole, new)])
    assert (root / "requirements.in").read_bytes().decode() == edits.texts["requirements.in"]
    assert (root / "requirements.txt").read_text() == "a==1\n"


def test_several_edits_build_on_each_other(project: ProjectFactory) -> None:
    root = project({"requirements.in": "b\n-r more.in\n", "more.in": "c<2\n"})
    edits = editing.adding(of(root), [asked("a"), asked("c<3"), asked("a>1")])
    assert edits.texts == {"requirements.in": "a>1\nb\n-r more.in\n", "more.in": "c<3\n"}
    assert editing.removing(of(root), ["b", "c"]).texts == {"requirements.in": "-r more.in\n", "more.in": ""}


def test_a_name_in_two_files_is_not_guessed(project: ProjectFactory) -> None:
    root = project({"requirements.in": "c<2 ; os_name == 'nt'\n-r more.in\n", "more.in": "c<3 ; os_name != 'nt'\n"})
    with pytest.raises(UsageError, match=r"in requirements\.in and more\.in"):
        editing.adding(of(root), [asked("c<4")])
    assert editing.adding(of(root), [asked("c")]).texts == {}
    assert editing.adding(of(root), [asked("c<4 ; os_name != 'nt'")]).texts == {"more.in": "c<4 ; os_name != 'nt'\n"}


def test_two_lines_for_a_name_are_named_with_their_file(project: ProjectFactory) -> None:
    root = project({"requirements.in": "c<2 ; os_name == 'nt'\nc<3 ; os_name != 'nt'\n"})
    with pytest.raises(UsageError, match="in lines 1 and 2") as caught:
        editing.adding(of(root), [asked("c<4")])
    assert caught.value.where == "requirements.in"


def test_a_local_project_is_neither_added_nor_removed(project: ProjectFactory) -> None:
    own = '[project]\nname = "own"\nversion = "1"\ndependencies = []\n'
    root = project({"requirements.in": "b\n-e ./libs/own\n", "libs/own/pyproject.toml": own})
    with pytest.raises(UsageError, match=r"own is the local project -e \./libs/own") as caught:
        editing.adding(of(root), [asked("own")])
    assert caught.value.where == "requirements.in:2"
    with pytest.raises(UsageError, match="own is the local project"):
        editing.removing(of(root), ["own"])
