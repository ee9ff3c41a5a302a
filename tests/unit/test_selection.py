from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest

from mlenv import selection
from mlenv.errors import MlenvError, ProjectError, UsageError
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.settings import load
from support.interpreter import ProjectFactory
from support.wheels import fake_foundation

NOTHING_VISIBLE = Machine(os="linux", arch="x86_64")


@pytest.fixture
def open_project(project: ProjectFactory) -> object:
    def make(settings: str = "", environ: Mapping[str, str] | None = None) -> Project:
        overlays = {f"constraints/{name}.txt": fake_foundation(name).overlay for name in ("cpu", "cu130")}
        root = project({**overlays, "pyproject.toml": f"[tool.mlenv]\n{settings}\n"})
        loaded, _ = load(root, environ=dict(environ or {}))
        return Project(root=root, settings=loaded, environ=dict(environ or {}))

    return make


def opened(make: object, settings: str = "", environ: Mapping[str, str] | None = None) -> Project:
    assert callable(make)
    found = make(settings, environ)
    assert isinstance(found, Project)
    return found


@pytest.mark.parametrize(
    ("settings", "backend", "flag", "chosen"),
    [
        ("", None, None, "cpu"),
        ("", None, "cuda13", "cu130"),
        ("", "cu130", None, "cu130"),
        ('backend = "cu130"', None, None, "cu130"),
        ('backend = "cu130"', None, "cpu", "cpu"),
        ('backend = "cu130"', "cpu", None, "cpu"),
    ],
)
def test_command_line_then_settings_then_detection(
    open_project: object, settings: str, backend: str | None, flag: str | None, chosen: str
) -> None:
    found = opened(open_project, settings)
    assert selection.select(found, NOTHING_VISIBLE, backend=backend, flag=flag, force=False).backend == chosen


@pytest.mark.parametrize(
    ("settings", "flag", "refused"), [("", None, True), ("", "cpu", False), ('backend = "cpu"', None, False)]
)
def test_in_ci_without_a_gpu_a_backend_is_named_or_refused(
    open_project: object, settings: str, flag: str | None, refused: bool
) -> None:
    found = opened(open_project, settings, {"CI": "true"})
    if not refused:
        assert selection.select(found, NOTHING_VISIBLE, backend=None, flag=flag, force=False).backend == "cpu"
        return
    with pytest.raises(UsageError, match="a backend is not guessed here") as caught:
        selection.select(found, NOTHING_VISIBLE, backend=None, flag=flag, force=False)
    assert "--cpu" in str(caught.value.hint)
    described = selection.select(found, NOTHING_VISIBLE, backend=None, flag=flag, force=False, described=True)
    assert described.backend == "cpu"  # that machine is described, not guessed


@pytest.mark.parametrize(
    ("backend", "flag", "kind"),
    [("cu130", "cpu", UsageError), ("cu118", None, ProjectError), (None, "cuda12", MlenvError)],
)
def test_what_can_not_be_chosen(
    open_project: object, backend: str | None, flag: str | None, kind: type[MlenvError]
) -> None:
    with pytest.raises(kind):
        selection.select(opened(open_project), NOTHING_VISIBLE, backend=backend, flag=flag, force=False)


def test_an_overlay_that_the_settings_leave_out_is_told_with_its_line(open_project: object) -> None:
    found = opened(open_project, 'backends = ["cpu"]')
    with pytest.raises(ProjectError, match="backends is cpu, and leaves cu130 out") as caught:
        selection.select(found, NOTHING_VISIBLE, backend="cu130", flag=None, force=False)
    assert caught.value.where == "pyproject.toml:2"
    (found.root / "apps/a").mkdir(parents=True)
    (found.root / "apps/a/pyproject.toml").write_text('[tool.mlenv]\n\nbackends = ["cpu"]\n')
    (found.root / "apps/a/requirements.in").write_text("")
    (found.root / "pyproject.toml").write_text('[tool.mlenv.workspace]\nmembers = ["apps/*"]\n')
    whole = Project(root=found.root, settings=load(found.root, environ={})[0], environ={})
    with pytest.raises(ProjectError) as caught:
        whole.of_member(whole.workspace.member("a")).overlay("cu130")
    assert caught.value.where == "apps/a/pyproject.toml:3"


def test_declared_are_the_overlays_with_their_torch(open_project: object) -> None:
    assert dict(selection.declared(opened(open_project))) == {"cpu": "2.14.1", "cu130": "2.14.1"}


@pytest.mark.parametrize(
    ("settings", "backend", "name"),
    [
        ("", "cpu", ".venv"),
        ('environment = "env"', None, "env"),
        ('environment = ".venv-{backend}"', "cu130", ".venv-cu130"),
        ('environment = ".venv-{backend}"\nbackend = "cu130"', None, ".venv-cu130"),
    ],
)
def test_where_the_environment_is(open_project: object, settings: str, backend: str | None, name: str) -> None:
    found = opened(open_project, settings)
    assert selection.environment_path(found, backend, asked=None) == found.root / name


def test_host_and_user_are_put_in(open_project: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass
    import socket

    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    found = opened(open_project, 'environment = ".venv-{host}-{user}"')
    assert selection.environment_path(found, "cpu", asked=None).name == ".venv-node7-ada"


def test_a_path_that_was_asked_for_wins(open_project: object, tmp_path: Path) -> None:
    found = opened(open_project, 'environment = "env"')
    asked = tmp_path / "a" / ".." / "b"
    assert selection.environment_path(found, "cpu", asked=asked) == tmp_path / "b"


@pytest.mark.parametrize("asked", [".", "..", "/", ".mlenv", ".mlenv/gen/x", "src/.."])
def test_the_project_itself_is_never_an_environment(open_project: object, asked: str) -> None:
    """What stands there would be moved aside."""
    found = opened(open_project)
    with pytest.raises(UsageError, match="can't be an environment"):
        selection.environment_path(found, "cpu", asked=found.root / asked)


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta"])
def test_nothing_inside_an_environment_is_one(open_project: object, tmp_path: Path, mark: str) -> None:
    found = opened(open_project)
    (tmp_path / mark).touch()  # the project may lie in one
    other = found.root / "there"
    other.mkdir()
    (other / mark).touch()
    (found.root / ".venv").symlink_to("there")
    for inside in (other / "a" / "b", found.root / ".venv" / "a"):
        with pytest.raises(UsageError, match=r"can't be an environment, as .* is one"):
            selection.environment_path(found, "cpu", asked=inside)
    assert selection.environment_path(found, "cpu", asked=tmp_path / "free") == tmp_path / "free"


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/x", "bin/python", None])
def test_what_looks_like_an_environment_may_be_moved_aside(open_project: object, tmp_path: Path, mark: str) -> None:
    found = opened(open_project, 'environment = ".venv-{backend}"')
    inside, outside = found.root / ".venv-cpu", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir()
        assert selection.environment_path(found, "cpu", asked=folder) == folder  # an empty one
        path = folder / (mark or "mine.txt")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for folder, free in ((inside, mark is not None), (outside, mark == "pyvenv.cfg")):
        with nullcontext() if free else pytest.raises(UsageError, match="is no environment"):
            assert selection.environment_path(found, "cpu", asked=folder) == folder


@pytest.mark.parametrize(
    "text", ["", "a b", "a==", "a @ https://files.example/a-1.0-py3-none-any.whl", "-r x.txt", "./lib"]
)
def test_a_personal_addition_must_be_a_requirement(text: str) -> None:
    with pytest.raises(UsageError):
        selection.checked_extras((text,))


def test_personal_additions_stay_as_they_were_written() -> None:
    assert selection.checked_extras(("ipdb>=0.13", "rich[jupyter]")) == ("ipdb>=0.13", "rich[jupyter]")
