from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv import indexes as indexes_module
from mlenv.errors import ProjectError, UsageError
from mlenv.indexes import Index, Indexes, as_table, bind, load_indexes, parse, to_uv_toml
from support.interpreter import RunProgram

FOLDER = Path("/project")
CU130 = '[[index]]\nname = "pytorch-cu130"\nurl = "https://torch.example/cu130"\nexplicit = true\n'
COMPANY = '[[index]]\nname = "company"\nurl = "https://company.example/simple"\ndefault = true\n'


def _parse(text: str) -> Indexes:
    return parse(dedent(text), path="uv.toml", folder=FOLDER)


def _named(*names: str) -> Indexes:
    return Indexes(named={name: Index(name=name, url=f"https://{name}.example", explicit=True) for name in names})


def _load(
    root: Path,
    project: str | None = None,
    *,
    environ: dict[str, str] | None = None,
    urls: dict[str, str] | None = None,
    user: str | None = None,
    system: str | None = None,
) -> Indexes:
    """Load indexes from files that hold these texts; the machine's own files are never read."""
    for name, text in {"uv.toml": project, "user.toml": user, "system.toml": system}.items():
        if text is not None:
            (root / name).write_text(text, encoding="utf-8")
    return load_indexes(
        root,
        environ=environ or {},
        index_urls=urls or {},
        user_file=root / "user.toml",
        system_file=root / "system.toml",
    )


def _default_url(indexes: Indexes) -> str | None:
    return indexes.default.url if indexes.default else None


# --------------------------------------------------------------------------------------------------- the project's file


def test_no_file_is_uvs_own_default_index(tmp_path: Path) -> None:
    assert _load(tmp_path) == Indexes()


def test_a_default_and_explicit_indexes_are_read() -> None:
    indexes = _parse(f"{COMPANY}authenticate = 'always'\n{CU130}format = 'flat'\n")
    assert indexes.default == Index(
        name="company", url="https://company.example/simple", default=True, extra={"authenticate": "always"}
    )
    assert indexes.named == {
        "pytorch-cu130": Index(name="pytorch-cu130", url="https://torch.example/cu130", explicit=True, format="flat")
    }


def test_index_url_is_the_default_index() -> None:
    assert _parse('index-url = "https://company.example"').default == Index(
        name=None, url="https://company.example", default=True
    )


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ('\n[[index]]\nname = "a"\nurl = "https://a.example"\n', 2, "'a' could shadow packages", "add explicit = true"),
        ('[[index]]\nurl = "https://a.example"\n', 1, "an index without name could shadow", "add explicit = true"),
        ('index = [{ name = "a", url = "https://a.example" }]', 1, "'a' could shadow packages", "[tool.mlenv.index]"),
        ('x = 1\nextra-index-url = ["https://a.example"]', 2, "extra-index-url is refused", "explicit = true"),
        ('find-links = ["./wheels"]', 1, "find-links is refused", 'format = "flat"'),
        ("no-index = true", 1, "no-index is refused", "--offline"),
        ('index-strategy = "unsafe-best-match"', 1, "index-strategy is refused: 'unsafe-best-match'", "delete"),
        (CU130 + "default = true", 5, "'pytorch-cu130' is both explicit and default", "keep one"),
        ('[[index]]\nurl = "https://a.example"\nexplicit = true', 1, "an explicit index needs a name", "name ="),
        (CU130 + CU130, 6, "there are two indexes named 'pytorch-cu130'", "rename"),
        (CU130 + CU130.replace("-cu", "_cu"), 6, "are one name in UV_INDEX_PYTORCH_CU130_USERNAME", "rename"),
        (COMPANY + COMPANY.replace("company", "other"), 5, "there are two default indexes", "keep one"),
        (f'index-url = "https://a.example"\n{COMPANY}', 2, "there are two default indexes", "keep one"),
        (CU130.replace("pytorch-cu130", "default"), 2, '"default" is the name of the default index', "choose another"),
        (CU130.replace("pytorch-cu130", "a b"), 2, "'a b' is no name of an index", "letters"),
        (CU130.replace('"pytorch-cu130"', "3"), 2, "3 is no name of an index", "letters"),
        (CU130.replace("true", "'yes'"), 4, "explicit must be true or false", "explicit = true"),
        (CU130 + 'format = "page"', 5, 'format must be "simple" or "flat"', "correct"),
        (CU130.replace("https:", "ftp:"), 3, "url must be the URL of an index", "https://"),
        (CU130.replace("https://torch.example/cu130", ""), 3, "url must be the URL of an index", "https://"),
        (CU130.replace("torch.example", "[::bad"), 3, "url must be the URL of an index", "https://"),
        (CU130.replace("torch.example/", "torch.example/a b/"), 3, "url must be the URL of an index", "https://"),
        ('[[index]]\nname = "a"\nexplicit = true', 1, "url must be the URL of an index", "https://"),
        ("index = 3", 1, "index must be a list of tables", "[[index]]"),
        ("a = 1\nb = \n", 2, "is not valid TOML", "correct the file"),
        ("a = 1\n<<<<<<< HEAD\n", 2, "a conflict marker of git was left here", "resolve the merge"),
    ],
)
def test_what_could_shadow_or_cant_be_read_is_refused_with_its_line(
    text: str, line: int, message: str, hint: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        _parse(text)
    assert (caught.value.path, caught.value.line) == ("uv.toml", line)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("value", ["extra-index-url = []", "no-index = false", 'index-strategy = "first-index"'])
def test_settings_that_change_nothing_are_accepted(value: str) -> None:
    assert _parse(value) == Indexes()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CU130.replace("https://", "https://user:hunter2@"), 3),
        (CU130.replace("https://", "https://hunter2@"), 3),
        (CU130.replace('cu130"\nexp', 'cu130?api_key=hunter2"\nexp'), 3),
        (CU130.replace('cu130"\nexp', 'cu130?auth-token=hunter2"\nexp'), 3),
        (CU130 + 'publish-url = "https://user:hunter2@a.example"', 5),
        ('index-url = "https://user:hunter2@a.example"', 1),
        ('native-tls = true\nhttps-proxy = "http://user:hunter2@proxy.example"', 2),
    ],
)
def test_credentials_in_the_committed_file_are_refused_and_not_repeated(text: str, line: int) -> None:
    with pytest.raises(ProjectError, match="carries credentials") as caught:
        _parse(text)
    assert caught.value.line == line
    assert "UV_INDEX_<NAME>_PASSWORD" in (caught.value.hint or "")
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_a_harmless_query_is_accepted() -> None:
    assert _parse(CU130.replace('cu130"\nexp', 'cu130?page=1"\nexp')).named["pytorch-cu130"].url.endswith("?page=1")


def test_allowed_settings_are_forwarded_and_the_rest_is_dropped_and_named() -> None:
    indexes = _parse(
        """
        native-tls = true
        exclude-newer = "2026-11-01"
        exclude-newer-package = { torch = "2026-11-02" }
        torch-backend = "auto"
        prerelease = "allow"
        offline = true
        constraint-dependencies = ["numpy<2"]
        [pip]
        no-deps = true
        [sources]
        torch = { index = "x" }
        """
    )
    assert indexes.forwarded == {
        "native-tls": True,
        "exclude-newer": "2026-11-01",
        "exclude-newer-package": {"torch": "2026-11-02"},
    }
    assert indexes.dropped == ("constraint-dependencies", "offline", "pip", "prerelease", "sources", "torch-backend")
    told = {note.message.partition(" has no effect: mlenv does not hand it to uv")[0]: note for note in indexes.notes}
    lines = {name: note.line for name, note in told.items()}
    assert lines == {"constraint-dependencies": 8, "pip": 9, "prerelease": 6, "sources": 11, "torch-backend": 5}
    assert {note.severity for note in indexes.notes} == {"note"}
    assert told["constraint-dependencies"].message.endswith("or to a file with `-c` in requirements.in")


@pytest.mark.parametrize(
    ("text", "key", "line", "nearest"),
    [
        ("\nconstrain-dependencies = []", "constrain-dependencies", 2, "constraint-dependencies"),
        ("exclude_newer = '2026-11-01'", "exclude_newer", 1, "exclude-newer"),
        ("native-tls = true\n[[indexes]]\nname = 'a'\n", "indexes", 2, "index"),
    ],
)
def test_a_mistyped_key_is_refused(text: str, key: str, line: int, nearest: str) -> None:
    with pytest.raises(ProjectError, match=f"has the unknown key '{key}'") as caught:
        _parse(text)
    assert (caught.value.line, caught.value.hint) == (line, f"did you mean {nearest}?")


def test_a_key_that_may_be_a_newer_uvs_is_told() -> None:
    (note,) = _parse("quantum = true").notes
    assert str(note) == "uv.toml:1: quantum has no effect: mlenv does not hand it to uv"


def test_every_key_that_uv_knows_is_known(run_uv: RunProgram, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("quantum = true\n")
    done = run_uv("--config-file", "bad.toml", "pip", "compile", "none.in", cwd=tmp_path)
    listed = re.findall(r"`([a-z-]+)`", done.err.partition("expected one of")[2])
    assert len(listed) > 50, done
    assert not set(listed) - indexes_module._OF_UV


@pytest.mark.parametrize(
    ("url", "absolute"),
    [("./my wheels", "file:///project/my%20wheels"), ("../w", "file:///w"), ("file:///a/b", "file:///a/b")],
)
def test_paths_are_taken_from_the_files_folder(url: str, absolute: str) -> None:
    assert _parse(CU130.replace("https://torch.example/cu130", url)).named["pytorch-cu130"].url == absolute


@pytest.mark.parametrize(("given", "kept"), [("./cache", "/project/cache"), ("/cache", "/cache"), ("~/c", "~/c")])
def test_a_relative_cache_folder_is_the_projects(given: str, kept: str) -> None:
    assert _parse(f'cache-dir = "{given}"').forwarded == {"cache-dir": kept}


def test_an_unreadable_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uv.toml").write_bytes(b"\xff")
    with pytest.raises(ProjectError, match="is not UTF-8 text"):
        _load(tmp_path)


# --------------------------------------------------------------------------------------------------------- this machine


_SOURCES = (
    {"environ": {"UV_DEFAULT_INDEX": "https://0.example", "UV_INDEX_URL": "https://1.example"}},
    {"environ": {"UV_INDEX_URL": "https://1.example", "UV_DEFAULT_INDEX": ""}},
    {"project": '[[index]]\nurl = "https://2.example"\ndefault = true\n'},
    {"user": '[[index]]\nurl = "https://3.example"\ndefault = true\n'},
    {"system": 'index-url = "https://4.example"\n'},
)


@pytest.mark.parametrize("first", range(len(_SOURCES)))
def test_the_first_source_that_names_a_default_index_decides(tmp_path: Path, first: int) -> None:
    arguments: dict[str, Any] = {}
    for source in reversed(_SOURCES[first:]):
        arguments |= source
    assert _default_url(_load(tmp_path, **arguments)) == f"https://{first}.example"


@pytest.mark.parametrize(
    ("value", "name", "url"),
    [
        ("corp=https://h.example/a", "corp", "https://h.example/a"),
        ("https://h.example/a?b=c", None, "https://h.example/a?b=c"),
        ("https://user:pw@h.example/a", None, "https://user:pw@h.example/a"),
    ],
)
def test_a_default_index_of_the_environment_may_be_named_and_carry_credentials(
    tmp_path: Path, value: str, name: str | None, url: str
) -> None:
    default = _load(tmp_path, environ={"UV_DEFAULT_INDEX": value}).default
    assert default == Index(name=name, url=url, default=True)


def test_credentials_are_in_no_repr(tmp_path: Path) -> None:
    environ = {"UV_DEFAULT_INDEX": "https://user:hunter2@h.example"}
    assert "hunter2" not in repr(_load(tmp_path, environ=environ))


def test_a_default_index_never_takes_the_name_of_an_explicit_one(tmp_path: Path) -> None:
    indexes = _load(tmp_path, CU130, environ={"UV_DEFAULT_INDEX": "pytorch-cu130=https://h.example"})
    assert indexes.default == Index(name=None, url="https://h.example", default=True)


def test_only_what_reaches_the_network_is_taken_from_the_machines_files(tmp_path: Path) -> None:
    indexes = _load(
        tmp_path,
        'link-mode = "copy"\n',
        user='link-mode = "symlink"\nnative-tls = true\nexclude-newer = "2020-01-01"\nextra-index-url = ["x"]\n'
        + CU130,
        system='native-tls = false\nkeyring-provider = "subprocess"\ncompile-bytecode = true\n',
    )
    assert indexes.forwarded == {"link-mode": "copy", "native-tls": True, "keyring-provider": "subprocess"}
    assert (indexes.named, indexes.dropped, indexes.default) == ({}, (), None)


def test_credentials_are_accepted_in_the_users_file(tmp_path: Path) -> None:
    assert _default_url(_load(tmp_path, user='index-url = "https://u:p@h.example"')) == "https://u:p@h.example"


@pytest.mark.parametrize("line", ["index-url = 3", 'index = "x"', "index = [3]", '[[index]]\ndefault = true\nurl = ""'])
def test_what_the_users_file_says_wrongly_is_passed_over(tmp_path: Path, line: str) -> None:
    assert _load(tmp_path, user=line).default is None


def test_a_users_file_that_cant_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _load(tmp_path, user='index-url = "https://h.example"')
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root may read every file
    assert _load(tmp_path) == Indexes()


def test_a_users_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        _load(tmp_path, user="a = 1\nb =\n")
    assert (caught.value.path, caught.value.line) == (str(tmp_path / "user.toml"), 2)


@pytest.mark.parametrize(
    ("variable", "folder"), [("XDG_CONFIG_HOME", "uv"), ("HOME", ".config/uv"), ("XDG_CONFIG_DIRS", "uv")]
)
def test_the_machines_files_are_where_uv_looks_for_them(tmp_path: Path, variable: str, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "uv.toml").write_text('index-url = "https://found.example"')
    environ = {"XDG_CONFIG_DIRS": str(tmp_path / "none")} | {variable: str(tmp_path)}
    project = tmp_path / "project"
    project.mkdir()
    assert _default_url(load_indexes(project, environ=environ, index_urls={})) == "https://found.example"


@pytest.mark.parametrize(
    ("project", "urls", "default", "cu130"),
    [
        (CU130, {"PYTORCH_CU130": "https://m.example"}, None, "https://m.example"),
        (CU130, {"DEFAULT": "https://m.example"}, "https://m.example", "https://torch.example/cu130"),
        (COMPANY + CU130, {"DEFAULT": "https://m.example"}, "https://m.example", "https://torch.example/cu130"),
        (COMPANY + CU130, {"COMPANY": "https://m.example"}, "https://m.example", "https://torch.example/cu130"),
        (CU130, {"OTHER": "https://m.example"}, None, "https://torch.example/cu130"),
    ],
)
def test_a_mirror_replaces_the_url_of_its_index_alone(
    tmp_path: Path, project: str, urls: dict[str, str], default: str | None, cu130: str
) -> None:
    indexes = _load(tmp_path, project, urls=urls)
    assert (_default_url(indexes), indexes.url_of("pytorch-cu130")) == (default, cu130)


def test_a_mirror_keeps_name_and_format(tmp_path: Path) -> None:
    indexes = _load(tmp_path, CU130 + 'format = "flat"', urls={"PYTORCH_CU130": "./mirror"})
    url = (tmp_path / "mirror").as_uri()
    assert indexes.named["pytorch-cu130"] == Index(name="pytorch-cu130", url=url, explicit=True, format="flat")


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"environ": {"UV_DEFAULT_INDEX": "ftp://user:hunter2@h"}}, "UV_DEFAULT_INDEX"),
        ({"environ": {"UV_INDEX_URL": "https://h.example/\udcff"}}, "UV_INDEX_URL"),
        ({"urls": {"X": "https://user:hunter2@"}}, "MLENV_INDEX_URL_X"),
    ],
)
def test_a_variable_that_is_no_url_is_wrong_usage_and_its_value_is_not_shown(
    tmp_path: Path, given: dict[str, Any], variable: str
) -> None:
    with pytest.raises(UsageError, match=f"{variable} is not the URL of an index") as caught:
        _load(tmp_path, **given)
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


# ---------------------------------------------------------------------------------------------------- names and sources


def test_the_url_of_an_index() -> None:
    indexes = _parse(COMPANY + CU130)
    assert indexes.url_of("pytorch-cu130") == "https://torch.example/cu130"
    assert indexes.url_of("default") == indexes.url_of("company") == "https://company.example/simple"
    assert _parse(CU130).url_of("default") is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pytorch-cu13", "did you mean pytorch-cu130?"), ("qq", 'add it to uv.toml: [[index]] name = "qq"')],
)
def test_an_unknown_index_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ProjectError) as caught:
        _parse(CU130).url_of(name)
    assert (caught.value.hint or "").startswith(hint)


def test_the_source_of_a_backend_is_found_by_its_name() -> None:
    indexes = _named("pytorch-cu130", "pytorch-nightly-cu132")
    assert indexes.source_names("cu130") == ("pytorch-cu130",)
    assert indexes.source_names("cu132") == indexes.source_names("cu130", channel="nightly") == ()
    assert indexes.source_names("cu132", channel="nightly") == ("pytorch-nightly-cu132",)


PATTERNS = (
    ("*", "all"),
    ("company-*", "globs"),
    ("company-ml-*", "longer"),
    ("Company_ML.core", "exact"),
    ("company-ml-[c]ore", "longer than the exact name"),
    ("x", "default"),
)


INDEXES = tuple(index for _, index in PATTERNS if index != "default")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("company-ml-core", "exact"),
        ("Company.ML_core", "exact"),
        ("company-ml-other", "longer"),
        ("company_tools", "globs"),
        ("companyx", "all"),
        ("x", None),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_exact_name_wins_and_then_the_longest_glob(name: str, index: str | None, order: int) -> None:
    assert bind(PATTERNS[::order], name, _named(*INDEXES)) == index


def test_a_name_that_nothing_binds_is_the_default_indexs() -> None:
    assert bind((("company-*", "company"),), "numpy", _named("company")) is None
    assert bind((), "numpy", Indexes()) is None


def test_a_name_may_be_bound_to_the_default_index_by_its_own_name() -> None:
    assert bind((("numpy", "company"),), "numpy", _parse(COMPANY)) is None


def test_a_pattern_for_an_index_that_uv_toml_lacks_is_refused_even_where_it_matches_nothing() -> None:
    with pytest.raises(ProjectError) as caught:
        bind((("company-*", "compani"),), "numpy", _named("company"))
    assert (
        caught.value.message == "[tool.mlenv.index] 'company-*' names the index 'compani', which uv.toml does not have"
    )
    assert (caught.value.path, caught.value.hint) == ("pyproject.toml", "did you mean company?")


# -------------------------------------------------------------------------------------------------- what uv is handed


def test_uv_is_handed_settings_then_the_default_index_then_the_explicit_ones_by_name() -> None:
    indexes = _parse(
        f"""
link-mode = "copy"
exclude-newer-package = {{ torch = "2026-11-02" }}
{CU130}
format = "flat"
exclude-newer = "2026-01-01"
{CU130.replace("cu130", "cpu")}
{COMPANY}
"""
    )
    assert to_uv_toml(indexes) == dedent("""\
        exclude-newer-package = {torch = "2026-11-02"}
        link-mode = "copy"

        [[index]]
        name = "company"
        url = "https://company.example/simple"
        default = true

        [[index]]
        name = "pytorch-cpu"
        url = "https://torch.example/cpu"
        explicit = true

        [[index]]
        name = "pytorch-cu130"
        url = "https://torch.example/cu130"
        explicit = true
        format = "flat"
        exclude-newer = "2026-01-01"
        """)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        ((), ["company"]),
        (("pytorch-cu130", "default"), ["company", "pytorch-cu130"]),
        (None, ["company", "pytorch-cu130"]),
    ],
)
def test_only_the_explicit_indexes_asked_for_are_written(names: tuple[str, ...] | None, written: list[str]) -> None:
    document = tomllib.loads(to_uv_toml(_parse(COMPANY + CU130), names=names))
    assert [table["name"] for table in document["index"]] == written


def test_an_index_asked_for_must_be_there() -> None:
    with pytest.raises(ProjectError, match="has no index 'x'"):
        to_uv_toml(Indexes(), names=("x",))


def test_nothing_is_an_empty_configuration_and_a_table_can_follow() -> None:
    assert to_uv_toml(Indexes()) == ""
    text = to_uv_toml(_parse(CU130)) + "\n[pip]\nno-build = true\n"
    assert tomllib.loads(text)["pip"] == {"no-build": True}


_SCALARS = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.datetimes(),
    st.dates(),
)
_KEYS = st.text(st.characters(codec="utf-8"))
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner), max_leaves=10)


@given(st.dictionaries(_KEYS, _VALUES))
def test_every_toml_value_survives_the_way_to_uv(forwarded: dict[str, object]) -> None:
    assert tomllib.loads(to_uv_toml(Indexes(forwarded=forwarded))) == forwarded


def test_a_table_of_an_index_has_all_that_uv_was_told_about_it() -> None:
    text = """
        [[index]]
        name = "wheels"
        url = "https://wheels.example/all"
        format = "flat"
        explicit = true
        authenticate = "always"
        ignore-error-codes = [401]
        """
    index = _parse(text).named["wheels"]
    assert as_table(index) == {
        "name": "wheels",
        "url": "https://wheels.example/all",
        "explicit": True,
        "format": "flat",
        "authenticate": "always",
        "ignore-error-codes": [401],
    }


def test_a_table_of_an_index_states_no_defaults() -> None:
    index = Index(name=None, url="https://mirror.example/simple", default=True)
    assert as_table(index) == {"url": "https://mirror.example/simple", "default": True}
