"""A project whose settings name backends that have no overlay: the right place is blamed, and the nearest named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlenv import settings
from mlenv.errors import MlenvError, ProjectError, UsageError
from mlenv.project import Project

BY_HAND = "write constraints/{0}.txt by hand (torch==VERSION), and an index pytorch-{0} into uv.toml"


def opened(root: Path, text: str = "", **overrides: object) -> Project:
    """A project with the overlays cpu and cu130."""
    (root / "constraints").mkdir()
    for name in ("cpu", "cu130"):
        (root / "constraints" / f"{name}.txt").write_text("torch==2.14.1\n")
    (root / "pyproject.toml").write_text(f"[tool.mlenv]\n{text}\n")
    loaded, _ = settings.load(root, environ={}, overrides=overrides)
    return Project(root=root, settings=loaded, environ={})


def refused(project: Project) -> MlenvError:
    with pytest.raises(MlenvError) as caught:
        assert project.overlays
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "where"),
    [
        ('keep = 3\nbackends = ["cpu", "cu31"]', 3, "[tool.mlenv] backends"),
        ('unproven = ["cu31"]', 2, "[tool.mlenv] unproven"),
        ('[tool.mlenv.backends.cu31]\nsources = ["default"]', 2, "[tool.mlenv.backends.cu31]"),
    ],
)
def test_a_backend_without_overlay_is_refused_where_it_is_named(
    tmp_path: Path, text: str, line: int, where: str
) -> None:
    error = refused(opened(tmp_path, text))
    assert isinstance(error, ProjectError)
    told = f"{where} names cu31, and there is no constraints/cu31.txt (there are: cpu, cu130)"
    assert (error.where, error.message) == (f"pyproject.toml:{line}", told)
    assert error.hint == f"did you mean cu130? if not, {BY_HAND.format('cu31')}"


def test_the_command_line_is_blamed_for_what_it_said(tmp_path: Path) -> None:
    error = refused(opened(tmp_path, 'backends = ["cpu"]', backends=("cu133",)))
    assert isinstance(error, UsageError)
    assert (error.where, error.message) == (
        None,
        "--backend cu133: there is no constraints/cu133.txt (there are: cpu, cu130)",
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cu126", "`mlenv init --backend cu126` adds it, or write constraints/cu126.txt"),
        ("cu133", f"did you mean cu130? if not, {BY_HAND.format('cu133')}"),
        ("xpu9000", BY_HAND.format("xpu9000")),
    ],
)
def test_init_is_named_only_where_it_knows_a_release(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ProjectError, match=f"backend {name} has no overlay") as caught:
        opened(tmp_path).overlay(name)
    assert caught.value.hint == hint


def test_overlays_that_the_settings_name_are_accepted(tmp_path: Path) -> None:
    project = opened(tmp_path, 'unproven = ["cu130"]\n[tool.mlenv.backends.cpu]\nsources = ["default"]')
    assert list(project.overlays) == ["cpu", "cu130"]
