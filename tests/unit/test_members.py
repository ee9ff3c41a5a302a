"""Which folders are members, what they are called, and what their settings may say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mlenv import settings, workspace
from mlenv.commands.workspace import sorted_by_need
from mlenv.errors import ProjectError, UsageError
from mlenv.project import Project
from mlenv.settings import Settings
from mlenv.workspace import Member, Workspace
from support.git import Repository

PACKAGE = '[project]\nname = "{0}"\nversion = "1"\n[build-system]\nrequires = []\n'


def loaded(root: Path, variables: Mapping[str, str] | None = None) -> Settings:
    nowhere = root / "nowhere.toml"
    return settings.load(root, environ=variables or {}, user_file=nowhere, system_file=nowhere)[0]


def made(root: Path, files: Mapping[str, str], *, table: str = 'members = ["apps/*"]') -> Workspace:
    """The workspace with these files; ``table`` is what its ``[tool.mlenv.workspace]`` says."""
    for path, text in {"pyproject.toml": f"[tool.mlenv.workspace]\n{table}\n", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return workspace.read(root, loaded(root))


def refused(root: Path, files: Mapping[str, str], *, table: str = 'members = ["apps/*"]') -> ProjectError:
    with pytest.raises(ProjectError) as caught:
        made(root, files, table=table)
    return caught.value


def folders(found: Workspace) -> dict[str, str]:
    return {member.name: member.folder for member in found.members}


# ------------------------------------------------------------------------------------------------------ who is a member


def test_a_glob_finds_folders_with_requirements_or_a_project_and_nothing_else(tmp_path: Path) -> None:
    files = {
        "apps/trainer/requirements.in": "",
        "apps/rag service/pyproject.toml": PACKAGE.format("Rag_Service"),
        "apps/plain/pyproject.toml": '[project]\nname = "plain"\nversion = "1"\n',
        "apps/tools/pyproject.toml": "[tool.ruff]\n",
        "apps/broken/pyproject.toml": "[project\n",
        "apps/data/readme.md": "",
        "apps/.hidden/requirements.in": "",
        "apps/env/requirements.in": "",
        "apps/env/pyvenv.cfg": "home = /usr\n",
        "apps/notes.txt": "",
    }
    found = made(tmp_path, files)
    assert folders(found) == {"plain": "apps/plain", "rag service": "apps/rag service", "trainer": "apps/trainer"}
    assert found.packages == {"rag-service": "apps/rag service"}  # what has no build system is not installed
    assert not found.groups


def test_what_is_excluded_is_no_member_and_what_is_named_twice_is_one(tmp_path: Path) -> None:
    files = {f"{path}/requirements.in": "" for path in ("apps/a", "apps/b", "apps/old/c", "apps/old/d", "notebooks")}
    table = 'members = ["apps/**", "apps/a", "notebooks"]\nexclude = ["apps/old/*", "apps/b"]'
    assert folders(made(tmp_path, files, table=table)) == {"a": "apps/a", "notebooks": "notebooks"}


def test_a_folder_that_is_named_and_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    error = refused(tmp_path, {"apps/a/readme.md": ""}, table='exclude = []\nmembers = ["apps/a"]')
    assert error.where == "pyproject.toml:3"
    assert (
        error.message == "the workspace's member apps/a has neither requirements.in nor a pyproject.toml with [project]"
    )


def test_a_development_list_is_a_member_without_a_folder(tmp_path: Path) -> None:
    files = {"requirements-dev.in": "pytest\n", "apps/a/requirements.in": ""}
    found = made(tmp_path, files, table='members = ["requirements-dev.in", "apps/*"]')
    dev = found.member("dev")
    assert (dev.folder, dev.group, dev.settings.requirements) == ("", True, ("requirements-dev.in",))
    assert (dev.settings.lock, found.groups) == ("requirements-dev.txt", ("dev",))


@pytest.mark.parametrize("name", ["requirements-test.in", "dev.in", "apps/requirements-dev.in"])
def test_a_development_list_lies_beside_the_settings_and_is_called_like_one(tmp_path: Path, name: str) -> None:
    files = {"dev.in": "", "apps/requirements-dev.in": ""}
    error = refused(tmp_path, files, table=f'members = ["{name}"]')
    assert error.where == "pyproject.toml:2"
    assert f"member {name} is no file requirements-<group>.in" in error.message


def test_two_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    files = {f"{path}/requirements.in": "" for path in ("apps/web", "tools/web", "tools/cli")}
    found = made(tmp_path, files, table='members = ["apps/*", "tools/*"]')
    assert [member.name for member in found.members] == ["apps/web", "cli", "tools/web"]
    assert found.member("tools/web/").folder == "tools/web"
    with pytest.raises(UsageError) as caught:
        found.member("tools/wep")
    assert "did you mean tools/web?" in str(caught.value.hint)


def test_two_packages_of_one_name_are_refused(tmp_path: Path) -> None:
    files = {"apps/a/pyproject.toml": PACKAGE.format("my.lib"), "apps/b/pyproject.toml": PACKAGE.format("My-Lib")}
    error = refused(tmp_path, files)
    assert error.where == "apps/b/pyproject.toml"
    assert error.message == "two members are called my-lib: apps/a and apps/b"


def test_a_member_is_found_by_its_name_its_folder_and_its_package(tmp_path: Path) -> None:
    found = made(tmp_path, {"apps/a/pyproject.toml": PACKAGE.format("My_Lib"), "apps/a b/requirements.in": ""})
    for name in ("a", "apps/a", "apps/a/", "my-lib", "My.Lib"):
        assert found.member(name).folder == "apps/a"
    assert found.member("a b").folder == "apps/a b"


def test_a_folder_belongs_to_the_deepest_member_around_it(tmp_path: Path) -> None:
    files = {f"{path}/requirements.in": "" for path in ("apps/a", "apps/a/plugins/x", "apps/ab")}
    found = made(tmp_path, files, table='members = ["apps/*", "apps/*/plugins/*"]')
    held = {
        folder: found.holding(folder) for folder in ("apps/a/src/deep", "apps/a/plugins/x/y", "apps/ab", "apps", "")
    }
    assert {folder: member and member.folder for folder, member in held.items()} == {
        "apps/a/src/deep": "apps/a",
        "apps/a/plugins/x/y": "apps/a/plugins/x",
        "apps/ab": "apps/ab",
        "apps": None,
        "": None,
    }


def test_a_nested_repository_may_be_a_member(tmp_path: Path) -> None:
    (tmp_path / "apps/own").mkdir(parents=True)
    (tmp_path / "apps/own/requirements.in").write_text("")
    Repository.make(tmp_path / "apps/own")
    assert folders(made(tmp_path, {})) == {"own": "apps/own"}


# ------------------------------------------------------------------------------------------------------ uv's workspaces


UV = '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/old"]\n'


def test_members_of_a_uv_workspace_are_adopted_where_none_are_declared(tmp_path: Path) -> None:
    files = {f"packages/{name}/pyproject.toml": PACKAGE.format(name) for name in ("one", "two", "old")}
    assert folders(made(tmp_path, {**files, "pyproject.toml": UV})) == {"one": "packages/one", "two": "packages/two"}
    ours = UV + '[tool.mlenv.workspace]\nmembers = ["packages/old"]\n'
    assert folders(made(tmp_path, {**files, "pyproject.toml": ours})) == {"old": "packages/old"}


def test_what_is_no_workspace_has_no_members(tmp_path: Path) -> None:
    assert made(tmp_path, {"pyproject.toml": "[tool.mlenv]\n"}).members == ()
    assert made(tmp_path, {"pyproject.toml": "[tool.uv]\nworkspace = true\n"}).members == ()


# ------------------------------------------------------------------------------------------------- a member's settings


def member_with(root: Path, own: str, *, whole: str = "", variables: Mapping[str, str] | None = None) -> Settings:
    """The settings of the member ``apps/a`` with ``own`` in its pyproject.toml, in a workspace that says ``whole``."""
    text = f'[tool.mlenv]\n{whole}\n[tool.mlenv.workspace]\nmembers = ["apps/*"]\n'
    for path, content in {
        "pyproject.toml": text,
        "apps/a/pyproject.toml": f"[tool.mlenv]\n{own}\n",
        "apps/a/requirements.in": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return workspace.read(root, loaded(root, variables)).member("a").settings


def test_a_member_has_the_workspaces_settings_and_its_own_files(tmp_path: Path) -> None:
    whole = 'python = "3.11"\nkeep = 7\nconstraints = ["limits.txt"]\nbackends = ["cpu", "cu130"]\nextras = ["x"]'
    (tmp_path / "apps/a").mkdir(parents=True)
    (tmp_path / "apps/a/own.txt").write_text("")
    found = member_with(tmp_path, 'constraints = ["own.txt"]\nbackends = ["cpu"]\npython = "3.11.9"', whole=whole)
    assert (found.keep, found.python, found.backends, found.extras) == (7, "3.11.9", ("cpu",), ())
    assert (found.requirements, found.lock) == (("apps/a/requirements.in",), "apps/a/requirements.txt")
    assert (found.constraints, found.environment) == (("limits.txt", "apps/a/own.txt"), "apps/a/.venv")
    assert found.origins["backends"] == "apps/a/pyproject.toml [tool.mlenv]"
    assert found.origins["keep"] == "pyproject.toml [tool.mlenv]"


@pytest.mark.parametrize(
    ("own", "line", "told"),
    [
        ('held-back = "off"', 2, "held-back is the whole workspace's, and no member's"),
        ('keep = 3\n[tool.mlenv.workspace]\nmembers = ["x"]', 3, "workspace is the whole workspace's, and no member's"),
        ('python = "3.12"', 2, "python is 3.12, and the workspace is locked for 3.11"),
        ('backends = ["cpu", "cu132"]', 2, "backends has cu132, which the workspace has not"),
    ],
)
def test_what_a_member_cannot_say_is_refused_with_its_line(tmp_path: Path, own: str, line: int, told: str) -> None:
    with pytest.raises(ProjectError) as caught:
        member_with(tmp_path, own, whole='python = "3.11"\nbackends = ["cpu", "cu130"]')
    assert (str(caught.value.path), caught.value.message) == ("apps/a/pyproject.toml", told)
    assert caught.value.line == line
    assert caught.value.hint


def test_a_mistyped_key_of_a_member_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        member_with(tmp_path, "isolate = true")
    assert "did you mean isolated?" in str(caught.value.hint)


def test_an_isolated_member_may_have_another_python(tmp_path: Path) -> None:
    found = member_with(tmp_path, 'isolated = true\npython = "3.12"', whole='python = "3.11"')
    assert (found.isolated, found.python) == (True, "3.12")


@pytest.mark.parametrize(
    ("own", "whole", "variable", "expected"),
    [
        ("", "", None, "apps/a/.venv"),
        ("", 'environment = "envs/{backend}"', None, "apps/a/envs/{backend}"),
        ('environment = "env"', 'environment = "envs/{backend}"', None, "apps/a/env"),
        ('environment = "/fast/a"', "", None, "/fast/a"),
        ("", 'environment = "/fast/venv"', None, "/fast/venv-apps-a"),
        ('environment = "env"', "", "/scratch/venv", "/scratch/venv-apps-a"),
        ('environment = "/fast/a"', "", "machine-env", "apps/a/machine-env"),
    ],
)
def test_no_two_members_share_an_environment_and_the_machine_decides(
    tmp_path: Path, own: str, whole: str, variable: str | None, expected: str
) -> None:
    variables = {} if variable is None else {"MLENV_ENVIRONMENT": variable}
    assert member_with(tmp_path, own, whole=whole, variables=variables).environment == expected


# ---------------------------------------------------------------------------------------------- the project of a member


def opened(root: Path) -> Project:
    return Project(root=root, settings=loaded(root), environ={})


def test_a_member_requires_packages_of_the_workspace_as_folders_and_what_those_require(tmp_path: Path) -> None:
    files = {
        "apps/a/requirements.in": "Lib-One[fast]\nnumpy\n",
        "apps/b/pyproject.toml": PACKAGE.format("lib-one").replace(
            "[build", 'dependencies = ["lib_two", "rich"]\noptional-dependencies.fast = ["numba"]\n[build'
        ),
        "apps/c/pyproject.toml": PACKAGE.format("lib-two"),
        "apps/d/requirements.in": "rich\n",
    }
    made(tmp_path, files)
    project = opened(tmp_path)
    a, b, d = (project.of_member(project.workspace.member(name)) for name in ("a", "b", "d"))
    assert {local.relative: (local.extras, local.editable) for local in a.requirements.local_projects} == {
        "apps/b": (("fast",), True),
        "apps/c": ((), True),
    }
    assert [str(entry.requirement) for _, entry in a.requirements.direct] == ["numpy"]
    assert {local.relative for local in b.requirements.local_projects} == {"apps/b", "apps/c"}  # its own as well
    assert d.requirements.local_projects == ()
    assert {local.relative for local in project.requirements.local_projects} == {"apps/b", "apps/c"}


def test_looking_at_members_reads_the_workspace_once(tmp_path: Path) -> None:
    made(tmp_path, {"apps/a/requirements.in": "", "apps/b/requirements.in": ""})
    project = opened(tmp_path)
    views = [project.of_member(member) for member in project.workspace.members]
    assert all(view.workspace is project.workspace and view.of_all is project for view in views)


def test_members_come_after_those_they_need_even_in_a_circle() -> None:
    def order(needs: Mapping[str, list[str]]) -> list[str]:
        members = [Member(name=name, folder=name, settings=Settings()) for name in sorted(needs)]
        return [member.name for member in sorted_by_need(members, needs)]

    assert order({"a": ["c"], "b": [], "c": ["b"]}) == ["b", "c", "a"]
    assert order({"a": ["b"], "b": ["a"], "c": ["c"]}) == ["c", "a", "b"]


def test_a_dependency_group_is_told_with_the_setting_that_takes_it(tmp_path: Path) -> None:
    for name, more in (("a", '[dependency-groups]\ntest = ["pytest"]\n'), ("b", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "1"\n{more}')
    (tmp_path / "pyproject.toml").write_text('[tool.mlenv.workspace]\nmembers = ["a", "b"]\n')
    whole = opened(tmp_path)
    for project in (whole, whole.of_member(whole.workspace.member("a"))):
        with pytest.raises(UsageError) as caught:
            project.of_groups(["test"])
        told = 'groups = ["test"] into [tool.mlenv] of a/pyproject.toml, which has that group'
        assert told in str(caught.value.hint)
    with pytest.raises(UsageError) as caught:
        whole.of_groups(["docs"])
    assert "requirements-docs.in" in str(caught.value.hint)
