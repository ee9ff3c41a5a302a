from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mlenv.errors import FaultError, MlenvError, ProjectError, UsageError
from mlenv.location import find_root
from mlenv.report import Finding
from mlenv.settings import (
    PLATFORMS,
    BackendSettings,
    FoundationSettings,
    Settings,
    WorkspaceSettings,
    config_folders,
    load,
    lock_meaning,
)

Loaded = tuple[Settings, tuple[Finding, ...]]


def _load(
    root: Path,
    pyproject: str | None = None,
    *,
    environ: dict[str, str] | None = None,
    overrides: dict[str, object] | None = None,
    user: str | None = None,
    system: str | None = None,
) -> Loaded:
    """Load a project whose files hold these texts; the machine's own files are never read."""
    files = {"pyproject.toml": pyproject, "user.toml": user, "system.toml": system}
    for name, text in files.items():
        if text is not None:
            (root / name).write_text(dedent(text), encoding="utf-8")
    return load(
        root,
        environ=environ or {},
        overrides=overrides,
        user_file=root / "user.toml",
        system_file=root / "system.toml",
    )


def _settings(root: Path, lines: str) -> Settings:
    return _load(root, f"[tool.mlenv]\n{dedent(lines)}")[0]


def _refused(root: Path, lines: str) -> MlenvError:
    with pytest.raises(ProjectError) as caught:
        _settings(root, lines)
    return caught.value


@pytest.mark.parametrize("pyproject", [None, "", '[project]\nname = "x"\n', "[tool.mlenv]\n"])
def test_without_settings_everything_has_its_default(tmp_path: Path, pyproject: str | None) -> None:
    settings, notes = _load(tmp_path, pyproject)
    assert settings == Settings()
    assert notes == ()


def test_the_contracts_example_is_read(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        """
        python = "3.11"
        platforms = ["linux-x86_64", "windows-x86_64"]
        requirements = ["requirements.in", "./apps/extra.in"]
        lock = "locks/requirements.txt"
        environment = ".venv-{backend}-{host}-{user}"
        layout = "directory"
        backend = "cu132"
        unproven = ["cu126"]
        held-back = "warn"
        held-back-days = 30
        held-back-allow = ["vllm"]
        build = ["Llama_CPP.python"]
        build-against-foundation = ["flash-attn"]
        keep = 5
        required-version = ">=0.1"

        [tool.mlenv.foundation]
        roots = ["jax[cuda13]"]
        include = ["my-cuda-*"]
        exclude = ["nvidia-widget"]

        [tool.mlenv.backends]
        proven = ["cpu", "cu130"]

        [tool.mlenv.backends.cu130]
        sources = ["default", "pytorch-cu130"]
        lock = "requirements.cu130.txt"

        [tool.mlenv.index]
        "Company_*" = "company"

        [tool.mlenv.workspace]
        members = ["apps/*"]
        exclude = ["apps/old"]
        """,
    )
    assert settings == Settings(
        python="3.11",
        platforms=("linux-x86_64", "windows-x86_64"),
        requirements=("requirements.in", "apps/extra.in"),
        lock="locks/requirements.txt",
        environment=".venv-{backend}-{host}-{user}",
        layout="directory",
        backend="cu132",
        backends=("cpu", "cu130"),
        unproven=("cu126",),
        held_back="warn",
        held_back_days=30,
        held_back_allow=("vllm",),
        build=("llama-cpp-python",),
        build_against_foundation=("flash-attn",),
        foundation=FoundationSettings(roots=("jax[cuda13]",), include=("my-cuda-*",), exclude=("nvidia-widget",)),
        per_backend={"cu130": BackendSettings(sources=("default", "pytorch-cu130"), lock="requirements.cu130.txt")},
        index=(("company-*", "company"),),
        workspace=WorkspaceSettings(members=("apps/*",), exclude=("apps/old",)),
        keep=5,
        required_version=">=0.1",
    )


def test_backends_may_be_a_list(tmp_path: Path) -> None:
    assert _settings(tmp_path, 'backends = ["cpu", "cu130", "cpu"]').backends == ("cpu", "cu130")


def test_backends_as_list_and_as_table_is_answered_with_the_way_to_write_both(tmp_path: Path) -> None:
    error = _refused(tmp_path, 'backends = ["cpu"]\n[tool.mlenv.backends.cu130]\nlock = "x.txt"\n')
    assert error.line == 3
    assert error.hint is not None
    assert "[tool.mlenv.backends] proven = [...]" in error.hint


def test_all_platforms_are_one_word(tmp_path: Path) -> None:
    assert _settings(tmp_path, 'platforms = ["all"]').platforms == PLATFORMS


@pytest.mark.parametrize("python", ["3.11", "3.11.4", "3.9"])
def test_python_versions(tmp_path: Path, python: str) -> None:
    assert _settings(tmp_path, f'python = "{python}"').python == python


@pytest.mark.parametrize(
    ("lines", "line", "message", "hint"),
    [
        (
            'python = "3.11"\nplatfroms = ["all"]',
            3,
            "[tool.mlenv] has the unknown key 'platfroms'",
            "did you mean platforms?",
        ),
        ("held_back_days = 3", 2, "[tool.mlenv] has the unknown key 'held_back_days'", "did you mean held-back-days?"),
        ("zzz = 3", 2, "[tool.mlenv] has the unknown key 'zzz'", "the keys are python, platforms"),
        (
            "\n[tool.mlenv.foundation]\nrots = []",
            4,
            "[tool.mlenv.foundation] has the unknown key 'rots'",
            "did you mean roots?",
        ),
        ("foundation = { rots = [] }", 2, "[tool.mlenv.foundation] has the unknown key 'rots'", "did you mean roots?"),
        ("foundation.rots = []", 2, "[tool.mlenv.foundation] has the unknown key 'rots'", "did you mean roots?"),
        ("[tool.mlenv.foundatoin]", 2, "[tool.mlenv] has the unknown key 'foundatoin'", "did you mean foundation?"),
        (
            "[tool.mlenv.backends.cu130]\nlocks = 'x'",
            3,
            "[tool.mlenv.backends.cu130] has the unknown key 'locks'",
            "lock?",
        ),
        (
            "[tool.mlenv.workspace]\nmember = ['x']",
            3,
            "[tool.mlenv.workspace] has the unknown key 'member'",
            "members?",
        ),
        ("index-url = { X = 'https://h.example' }", 2, "index-url is no setting of a project", "uv.toml"),
    ],
)
def test_a_mistyped_key_is_answered_with_line_and_nearest(
    tmp_path: Path, lines: str, line: int, message: str, hint: str
) -> None:
    error = _refused(tmp_path, lines)
    assert (error.path, error.line, error.message) == ("pyproject.toml", line, message)
    assert error.hint is not None
    assert hint in error.hint


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        ("python = 3.11", "python must be a string, not a number", 'python = "3.11"'),
        ('python = ""', "python must be a string, not an empty string", "python ="),
        ('python = "3"', "python names no Python version: '3'", '"3.11"'),
        ('python = ">=3.11"', "python names no Python version: '>=3.11'", '"3.11"'),
        ('platforms = "all"', "platforms must be a list of strings, not a string", 'platforms = ["all"]'),
        ("platforms = [1]", "platforms must be a list of strings; it has a whole number", "platforms ="),
        ("platforms = []", "platforms is empty", "default"),
        (
            'platforms = ["linux_x86_64"]',
            "platforms has 'linux_x86_64', which is no platform mlenv knows",
            "linux-x86_64?",
        ),
        ('platforms = ["beos"]', "platforms has 'beos', which is no platform mlenv knows", "there are linux-x86_64"),
        ("requirements = []", "requirements is empty", "default"),
        ('requirements = ["../a.in"]', "requirements names '../a.in', which is not inside the project", "below"),
        (
            'requirements = ["a/../../a.in"]',
            "requirements names 'a/../../a.in', which is not inside the project",
            "below",
        ),
        ('lock = "/lock.txt"', "lock names '/lock.txt', which is not inside the project", "below"),
        ('lock = "."', "lock names '.', which is not inside the project", "below"),
        ("lock = 'a\\b.txt'", r"lock has 'a\\b.txt'", "forward slashes"),
        ("lock = 'C:/b.txt'", "lock has 'C:/b.txt'", "forward slashes"),
        ("lock = 'requirements.in'", "lock is requirements.in, which is a requirements file", "of its own"),
        ("lock = 'pyproject.toml'", "lock is pyproject.toml, which is where the settings stand", "of its own"),
        ("environment = '.'", "environment is '.', which holds the project itself", ".venv"),
        ("environment = '{backend}'", "environment is '{backend}', which holds the project itself", ".venv"),
        ("environment = '../'", "environment is '../', which holds the project itself", ".venv"),
        ("environment = '/'", "environment is '/', which holds the project itself", ".venv"),
        ("environment = '.mlenv/gen/x'", "environment is '.mlenv/gen/x', inside .mlenv/", ".venv"),
        ("environment = '.venv-{bakend}'", "environment has the unknown placeholder {bakend}", "did you mean backend?"),
        ("layout = 'links'", 'layout must be "link" or "directory", not \'links\'', "did you mean link?"),
        ("layout = true", 'layout must be "link" or "directory", not True', "write layout ="),
        ("backend = 'CU130'", "backend is 'CU130', which is no backend", "did you mean cu130?"),
        ("backends = []", "backends is empty", "default"),
        ("backends = ['cu-130']", "backends has 'cu-130', which is no backend", "cu130"),
        ("held-back = false", 'held-back must be "error" or "warn" or "off", not False', "held-back ="),
        ("held-back-days = true", "held-back-days must be a whole number, not true or false", "held-back-days ="),
        ("held-back-days = '3'", "held-back-days must be a whole number, not a string", "held-back-days ="),
        ("held-back-days = -1", "held-back-days must be 0 or more, not -1", "held-back-days = 0"),
        ("keep = 0", "keep must be 1 or more, not 0", "keep = 1"),
        ("keep = 1979-05-27", "keep must be a whole number, not a date", "keep ="),
        ("build = ['flash-attn==2']", "build has 'flash-attn==2', which is no package name", "without versions"),
        ("foundation = []", "foundation must be a table, not a list", "[tool.mlenv.foundation]"),
        ("foundation.roots = 'jax'", "foundation.roots must be a list of strings, not a string", 'roots = ["jax"]'),
        ("foundation.roots = ['jax==1']", "foundation.roots has 'jax==1', which is no package name", "write names"),
        ("backends.cu130.sources = []", "backends.cu130.sources is empty", "default"),
        ("backends.cu130 = 3", "backends.cu130 is neither a backend's table nor the list of proven backends", "proven"),
        ("backends.Cu130.lock = 'a'", "backends.Cu130 is 'Cu130', which is no backend", "did you mean cu130?"),
        ("backends.cu130.lock = '../a'", "backends.cu130.lock names '../a', which is not inside the project", "below"),
        (
            "backends.cu130.lock = 'requirements.txt'",
            "backends.cu130.lock is requirements.txt, which is another lock",
            "own",
        ),
        ("index = { a = 1 }", "index.a must be a string, not a whole number", "a ="),
        ("index = { 'a b' = 'x' }", "index.a b is neither a package name nor a glob", "company-*"),
        ("index = { a_b = 'x', a-b = 'y' }", "index.a-b names the same packages as another line", "keep one"),
        (
            "workspace = { members = ['../x'] }",
            "workspace.members names '../x', which is not inside the project",
            "below",
        ),
        ("required-version = 'newest'", "required-version is 'newest', which is no version specifier", ">=0.1"),
    ],
)
def test_a_wrong_value_says_what_was_expected(tmp_path: Path, lines: str, message: str, hint: str) -> None:
    error = _refused(tmp_path, lines)
    assert (error.path, error.line, error.message) == ("pyproject.toml", 2, message)
    assert error.hint is not None
    assert hint in error.hint


def test_a_newer_mlenv_is_asked_for_before_its_keys_are_called_unknown(tmp_path: Path) -> None:
    error = _refused(tmp_path, 'a-later-key = 1\nrequired-version = ">=99"\n')
    assert error.line == 3
    assert "required-version is '>=99', and this is mlenv" in error.message
    assert error.hint == "install a version of mlenv that is >=99"


@pytest.mark.parametrize(("text", "line"), [("[tool.mlenv]\nlock = \n", 2), ("a = [1,\n", None), ("x = 1\nx = 2\n", 2)])
def test_broken_toml_is_told_with_file_and_line(tmp_path: Path, text: str, line: int | None) -> None:
    with pytest.raises(ProjectError, match="is not valid TOML") as caught:
        _load(tmp_path, text)
    assert (caught.value.path, caught.value.line) == ("pyproject.toml", line)


def test_conflict_markers_are_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="a conflict marker of git was left here") as caught:
        _load(tmp_path, "[tool.mlenv]\n<<<<<<< HEAD\n")
    assert (caught.value.line, caught.value.hint) == (2, "resolve the merge, then run `mlenv lock`")


@pytest.mark.parametrize(("text", "what"), [("tool = 3", "tool must be"), ("[tool]\nmlenv = 3", "tool.mlenv must be")])
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ProjectError, match=what):
        _load(tmp_path, text)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ProjectError, match="is not UTF-8 text"):
        _load(tmp_path)


def test_a_folder_named_pyproject_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").mkdir()
    with pytest.raises(ProjectError, match="is no regular file"):
        _load(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b'\xef\xbb\xbf[tool.mlenv]\r\nlock = "a.txt"\r\n')
    assert _load(tmp_path)[0].lock == "a.txt"


def test_an_environment_elsewhere_is_allowed(tmp_path: Path) -> None:
    assert _settings(tmp_path, 'environment = "/scratch/{user}/x"').environment == "/scratch/{user}/x"


def test_a_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert _settings(tmp_path, 'environment = "~/envs/x"').environment == str(Path("/home/someone/envs/x"))


_EVERYWHERE = ("command line", "MLENV_BACKEND", "pyproject.toml [tool.mlenv]", "user mlenv.toml", "system mlenv.toml")


@pytest.mark.parametrize("first", range(len(_EVERYWHERE)))
def test_the_first_source_that_says_something_decides(tmp_path: Path, first: int) -> None:
    texts = [f'backend = "cu{number}"' for number in range(len(_EVERYWHERE))]
    given: dict[str, Any] = {
        "overrides": {"backend": "cu0"},
        "environ": {"MLENV_BACKEND": "cu1"},
        "pyproject": f"[tool.mlenv]\n{texts[2]}",
        "user": texts[3],
        "system": texts[4],
    }
    settings, _ = _load(tmp_path, **dict(list(given.items())[first:]))
    assert settings.backend == f"cu{first}"
    assert settings.origins["backend"] == _EVERYWHERE[first]


def test_what_nobody_said_is_a_default(tmp_path: Path) -> None:
    settings, _ = _load(tmp_path, environ={"MLENV_KEEP": "7", "MLENV_BACKEND": ""})
    assert settings.keep == 7
    assert settings.origins["keep"] == "MLENV_KEEP"
    assert settings.origins["backend"] == settings.origins["python"] == "default"


def test_an_override_of_none_is_not_given_and_a_tuple_is_a_list(tmp_path: Path) -> None:
    settings, _ = _load(tmp_path, overrides={"backend": None, "held_back": "off", "backends": ("cpu",)})
    assert (settings.backend, settings.held_back, settings.backends) == (None, "off", ("cpu",))


def test_backends_of_the_command_line_leave_each_backends_own_settings(tmp_path: Path) -> None:
    text = '[tool.mlenv.backends]\nproven = ["cpu"]\n[tool.mlenv.backends.cu130]\nlock = "x.txt"\n'
    settings, _ = _load(tmp_path, text, overrides={"backends": ("cu130",)})
    assert settings.backends == ("cu130",)
    assert settings.per_backend == {"cu130": BackendSettings(lock="x.txt")}


def test_an_unknown_override_is_a_fault_of_mlenv(tmp_path: Path) -> None:
    with pytest.raises(FaultError):
        _load(tmp_path, overrides={"bakend": "cpu"})


@pytest.mark.parametrize(
    ("given", "told", "hint"),
    [
        ({"environ": {"MLENV_LAYOUT": "q"}}, "MLENV_LAYOUT: layout must be", "`export MLENV_LAYOUT=link`, or"),
        (
            {"environ": {"MLENV_KEEP": "many"}},
            "MLENV_KEEP: keep must be a whole number",
            "`export MLENV_KEEP=3`, or `unset MLENV_KEEP`",
        ),
        ({"environ": {"MLENV_KEEP": "0"}}, "MLENV_KEEP: keep must be", "`export MLENV_KEEP=1`, or"),
        ({"overrides": {"platforms": ("beos",)}}, "command line: platforms has 'beos'", ""),
    ],
)
def test_a_mistake_outside_the_files_is_wrong_usage(
    tmp_path: Path, given: dict[str, Any], told: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        _load(tmp_path, **given)
    assert (caught.value.hint or "").startswith(hint)


@pytest.mark.parametrize(
    ("variable", "kind", "hint"),
    [
        ("MLENV_PYTHON", "variable-ignored", "write it to [tool.mlenv] in pyproject.toml"),
        ("MLENV_BACKENDS", "variable-ignored", "write it to [tool.mlenv] in pyproject.toml"),
        ("MLENV_HELD_BACK_DAYS", "variable-ignored", "write it to [tool.mlenv] in pyproject.toml"),
        ("MLENV_FOUNDATION_ROOTS", "variable-ignored", "write it to [tool.mlenv] in pyproject.toml"),
        ("MLENV_BACKENDS_CU130_LOCK", "variable-ignored", "write it to [tool.mlenv] in pyproject.toml"),
        ("MLENV_INDEX", "variable-ignored", "write it to [tool.mlenv] in pyproject.toml"),
        ("MLENV_BACKNED", "variable-unknown", "did you mean MLENV_BACKEND?"),
        ("MLENV_INDEX_URL_", "variable-unknown", "did you mean MLENV_INDEX_URL_<NAME>?"),
        ("MLENV_QQQQQQQQQQQQQQ", "variable-unknown", "there are MLENV_ENVIRONMENT, "),
    ],
)
def test_a_variable_without_effect_is_a_note(tmp_path: Path, variable: str, kind: str, hint: str) -> None:
    settings, notes = _load(tmp_path, environ={variable: "3.12", "HOME": "/x"})
    assert settings == Settings()
    assert [(note.kind, note.severity) for note in notes] == [(kind, "note")]
    assert variable in notes[0].message
    assert (notes[0].hint or "").startswith(hint)


@pytest.mark.parametrize("variable", ["MLENV_BACKEND", "MLENV_INDEX_URL_PYTORCH_CU130", "MLENV_BUILD_ALLOWED"])
def test_a_variable_that_has_an_effect_is_no_note(tmp_path: Path, variable: str) -> None:
    assert _load(tmp_path, environ={variable: "cpu"})[1] == ()


@pytest.mark.parametrize("where", ["user", "system"])
def test_what_shapes_the_lock_is_not_read_from_the_machine(tmp_path: Path, where: str) -> None:
    given: dict[str, Any] = {where: 'layout = "directory"\npython = "3.12"\n[foundation]\nroots = ["jax"]\n'}
    settings, notes = _load(tmp_path, **given)
    assert settings == Settings(layout="directory")
    assert [(note.kind, note.severity, note.line) for note in notes] == [
        ("setting-ignored", "note", 2),
        ("setting-ignored", "note", 3),
    ]
    assert f"python is ignored in the {where} mlenv.toml" in notes[0].message


def test_a_mistyped_key_of_the_users_file_names_that_file(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        _load(tmp_path, user='backend = "cpu"\nlayuot = "link"\n')
    assert (caught.value.path, caught.value.line) == (str(tmp_path / "user.toml"), 2)
    assert caught.value.hint == "did you mean layout?"


def test_a_users_file_that_cant_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _load(tmp_path, user='backend = "cpu"')
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root may read every file
    assert _load(tmp_path)[0].backend is None


def test_index_urls_are_merged_by_name_and_the_variable_wins(tmp_path: Path) -> None:
    settings, _ = _load(
        tmp_path,
        environ={"MLENV_INDEX_URL_PYTORCH_CU130": "https://variable.example"},
        user='[index-url]\npytorch-cu130 = "https://user.example/1"\nCompany = "https://user.example/2"\n',
        system='[index-url]\n"company" = "https://system.example/2"\n"a.b" = "https://system.example/3"\n',
    )
    assert settings.index_urls == {
        "A_B": "https://system.example/3",
        "COMPANY": "https://user.example/2",
        "PYTORCH_CU130": "https://variable.example",
    }
    assert settings.origins["index-url.PYTORCH_CU130"] == "MLENV_INDEX_URL_PYTORCH_CU130"
    assert settings.origins["index-url.COMPANY"] == "user mlenv.toml"


def test_index_urls_are_not_shown(tmp_path: Path) -> None:
    settings, _ = _load(tmp_path, environ={"MLENV_INDEX_URL_X": "https://user:secret@h.example"})
    assert "secret" not in repr(settings)


def test_the_platforms_own_files_are_read_where_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlenv.settings.config_folders", lambda: (tmp_path / "mlenv", tmp_path / "none"))
    (tmp_path / "mlenv").mkdir()
    (tmp_path / "mlenv" / "mlenv.toml").write_text('backend = "cu126"\n')
    assert load(tmp_path, environ={})[0].backend == "cu126"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_CONFIG_HOME": "/own", "XDG_CONFIG_DIRS": "/first:/second"},
        {"XDG_CONFIG_HOME": "relative", "XDG_CONFIG_DIRS": "relative:/second"},
        {"XDG_CONFIG_HOME": "", "XDG_CONFIG_DIRS": ""},
        {"HOME": "/somebody"},
        {"HOME": "relative"},
    ],
)
def test_the_configuration_folders_are_those_of_platformdirs(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    user = platformdirs.user_config_path("mlenv", appauthor=False)
    assert config_folders() == (user, platformdirs.site_config_path("mlenv", appauthor=False))


# ----------------------------------------------------------------------------------------------------------- find_root


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("requirements.in", ""),
        ("constraints/cpu.txt", ""),
        ("pyproject.toml", "[tool.mlenv]\n"),
        ("pyproject.toml", "[tool]\nmlenv = {}\n"),
        ("pyproject.toml", "[tool.mlenv]\nbroken"),
    ],
)
def test_the_project_is_the_nearest_folder_with_its_files(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "requirements.in").write_text("")
    root, start = tmp_path / "app", tmp_path / "app" / "src" / "deep"
    start.mkdir(parents=True)
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text)
    assert find_root(start) == find_root(root) == root


@pytest.mark.parametrize(
    "text", ['[project]\nname = "mlenv"\n', "[tool.other]\n", "mlenv broken", "tool = 3 # mlenv\n"]
)
def test_a_pyproject_without_settings_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "requirements.in").write_text("")
    start = tmp_path / "app"
    start.mkdir()
    (start / "pyproject.toml").write_text(text)
    assert find_root(start) == tmp_path


def test_the_folder_of_a_repository_is_the_last_one_looked_at(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").write_text("")
    start = tmp_path / "repository" / "src"
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    start.mkdir()
    assert find_root(start) == start
    (tmp_path / "repository" / "requirements.in").write_text("")
    assert find_root(start) == tmp_path / "repository"


# -------------------------------------------------------------------------------------------------------- lock_meaning


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(python="3.12", platforms=PLATFORMS),
        Settings(environment="x", layout="directory", backend="cpu", keep=9, required_version=">=0.1"),
        Settings(index_urls={"A": "https://h.example"}, workspace=WorkspaceSettings(members=("a",))),
        Settings(held_back="error", per_backend={"cpu": BackendSettings()}),
    ],
)
def test_what_does_not_shape_the_lock_has_no_meaning_for_it(settings: Settings) -> None:
    assert lock_meaning(settings) == ""


def test_the_meaning_names_what_differs_from_the_defaults() -> None:
    settings = Settings(
        requirements=("b.in", "a.in"),
        backends=("cu130", "cpu"),
        held_back_days=30,
        build=("x",),
        foundation=FoundationSettings(roots=("Jax[cuda13]",)),
        per_backend={"cu130": BackendSettings(sources=("pytorch-cu130", "default"))},
        index=(("company-*", "company"), ("a", "other")),
    )
    assert lock_meaning(settings) == dedent("""\
        backends.cu130.sources = ["pytorch-cu130", "default"]
        build = ["x"]
        foundation.roots = ["jax[cuda13]"]
        held-back-days = 30
        index = [["a", "other"], ["company-*", "company"]]
        requirements = ["a.in", "b.in"]
        """)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Settings(build=("a", "b")), Settings(build=("b", "a"))),
        (Settings(index=(("a", "x"), ("b", "y"))), Settings(index=(("b", "y"), ("a", "x")))),
        (
            Settings(foundation=FoundationSettings(include=("A_b",))),
            Settings(foundation=FoundationSettings(include=("a-b",))),
        ),
    ],
)
def test_spelling_and_order_have_no_meaning(one: Settings, other: Settings) -> None:
    assert lock_meaning(one) == lock_meaning(other) != ""


def test_the_order_of_sources_has() -> None:
    one, other = (Settings(per_backend={"cpu": BackendSettings(sources=s)}) for s in (("a", "b"), ("b", "a")))
    assert lock_meaning(one) != lock_meaning(other)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(lock="x.txt"),
        Settings(unproven=("cpu",)),
        Settings(held_back="off"),
        Settings(held_back_allow=("a",)),
        Settings(build_against_foundation=("a",)),
        Settings(foundation=FoundationSettings(exclude=("a",))),
        Settings(per_backend={"cpu": BackendSettings(lock="a.txt")}),
    ],
)
def test_every_key_that_shapes_the_lock_has_a_meaning(settings: Settings) -> None:
    assert lock_meaning(settings).count("\n") == 1
