from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlenv import catalogue
from mlenv.errors import ExitCode, ProjectError
from mlenv.local_projects import LocalProject
from mlenv.requirement_lines import Named, WheelUrl, logical_lines, masked
from mlenv.requirements import (
    Include,
    RequirementsFile,
    meaning,
    named_lines,
    parse,
    parse_all,
    render,
    split_index_lines,
)

WHEEL = "https://example.com/files/demo-1.0-py3-none-any.whl"
SHA256 = "a" * 64
SECRET = "hunter2secret"


def write(root: Path, path: str, text: str | bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text if isinstance(text, bytes) else text.encode())


def read(root: Path, text: str | bytes) -> RequirementsFile:
    write(root, "requirements.in", text)
    return parse(root, "requirements.in").files[0]


def refused(root: Path, text: str | bytes) -> ProjectError:
    with pytest.raises(ProjectError) as caught:
        read(root, text)
    assert caught.value.code == ExitCode.PROJECT
    assert caught.value.hint
    return caught.value


def library(root: Path, path: str, name: str = "lib", more: str = "") -> None:
    write(root, f"{path}/pyproject.toml", f'[project]\nname = "{name}"\nversion = "1"\n{more}')


# ------------------------------------------------------------------------------------------------ names


def test_a_named_requirement_keeps_line_and_comment(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, "# top\n\nNumPy >= 2 , <3  # for speed\n").entries
    assert isinstance(entry, Named)
    assert str(entry.requirement) == "NumPy<3,>=2"
    assert (entry.line, entry.comment) == (3, "for speed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Foo_Bar.baz", "foo-bar-baz"),
        ("foo (>=1)", "foo>=1"),
        ("foo[B_b,a]==1 ; python_version>'3.9'", 'foo[a,b-b]==1 ; python_version > "3.9"'),
        ("foo<2,>=1", "foo<2,>=1"),
        ("foo  >=  1,  <2", "foo<2,>=1"),
        ("foo===weird", "foo===weird"),
        ("torch==2.14.1+cu130", "torch==2.14.1+cu130"),
        (f"demo@{WHEEL}", f"demo @ {WHEEL}"),
        (f"Demo @ {WHEEL} ; os_name=='nt'", f'demo @ {WHEEL} ; os_name == "nt"'),
        (WHEEL, f"demo @ {WHEEL}"),
        (f"{WHEEL}#sha256={SHA256}", f"demo @ {WHEEL}#sha256={SHA256}"),
        ("http" + WHEEL[5:] + f"#sha256={SHA256}", "demo @ http" + WHEEL[5:] + f"#sha256={SHA256}"),
    ],
)
def test_the_meaning_of_one_requirement(tmp_path: Path, text: str, expected: str) -> None:
    assert meaning(read(tmp_path, f"{text}\n")) == f"{expected}\n"


def test_a_wheel_url_is_a_type_of_its_own(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, f"demo @ {WHEEL}  # ours\n").entries
    assert isinstance(entry, WheelUrl)
    assert (entry.requirement.url, entry.comment) == (WHEEL, "ours")


def test_names_in_comments_are_free(tmp_path: Path) -> None:
    text = "# -r other.in\n  # git+https://u:p@example.com/${X}\n# --pre \\\nfoo\n"
    assert meaning(read(tmp_path, text)) == "foo\n"


# ------------------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb", [("a", 1), ("b", 2)]),
        ("a\r\nb\r\n", [("a", 1), ("b", 2)]),
        ("a\rb", [("a", 1), ("b", 2)]),
        ("\ufeffa", [("a", 1)]),
        ("a\\\n>=1\nb", [("a>=1", 1), ("b", 3)]),
        ("a \\\n  >=1, \\\n  <2\nb", [("a   >=1,   <2", 1), ("b", 4)]),
        ("a\\", [("a", 1)]),
        ("\na\\\n", [("a", 2)]),
        ("a\\\n# c\nb", [("a", 1), ("b", 3)]),
        ("# c \\\nb", [("", 1), ("b", 2)]),
        ("a#b # c", [("a#b", 1)]),
        ("a\\\n======= \nb", [("a", 1), ("=======", 2), ("b", 3)]),
        ("a\\\n<<<<<<< HEAD\n", [("a", 1), ("<<<<<<< HEAD", 2)]),
    ],
)
def test_lines_are_joined_as_pip_joins_them(text: str, lines: list[tuple[str, int]]) -> None:
    assert [(line.text, line.number) for line in logical_lines(text)] == lines


def test_a_continued_requirement_reaches_uv_on_one_line(tmp_path: Path) -> None:
    # uv itself rejects a backslash inside a requirement
    assert render(read(tmp_path, "foo \\\n  >=1, \\\n  <2\n")) == "foo<2,>=1\n"


def test_a_bom_and_crlf_are_accepted(tmp_path: Path) -> None:
    assert meaning(read(tmp_path, b"\xef\xbb\xbffoo\r\nbar\r\n")) == "bar\nfoo\n"


# ------------------------------------------------------------------------------------------------ refused lines

REFUSED = [
    ("-i https://example.com/simple", "--index-url|-i", "uv.toml"),
    ("-ihttps://example.com/simple", "-i is refused", "uv.toml"),
    ("--index-url https://example.com/simple", "--index-url", "explicit = true"),
    ("--index-url=https://example.com/simple", "--index-url", "explicit = true"),
    ("--extra-index-url https://example.com/simple", "--extra-index-url", "[tool.mlenv.index]"),
    ("--extra-index https://example.com/simple", "--extra-index-url", "[tool.mlenv.index]"),
    ("-f ./wheels", "-f is refused", 'format = "flat"'),
    ("--find-links ./wheels", "--find-links", 'format = "flat"'),
    ("--no-index", "--no-index", "--offline"),
    ("--trusted-host example.com", "--trusted-host", "allow-insecure-host"),
    ("--no-binary :all:", "--no-binary", "[tool.mlenv] build"),
    ("--only-binary foo", "--only-binary", "delete"),
    ("--prefer-binary", "--prefer-binary", "delete"),
    ("--pre", "--pre", "NAME>=2.0rc1"),
    ("--use-feature fast-deps", "--use-feature", "delete"),
    ("--require-hashes", "--require-hashes", "mlenv lock"),
    (f"foo==1 --hash=sha256:{SHA256}", "--hash", "mlenv lock"),
    (f"foo==1 \\\n    --hash=sha256:{SHA256}", "--hash", "mlenv lock"),
    ("foo --config-settings=a=b", "--config-settings", "pyproject.toml"),
    ("foo --global-option=x", "--global-option", "pyproject.toml"),
    ("--unheard-of", "--unheard-of", "-r, -c and -e"),
    ("-x", "-x", "-r, -c and -e"),
    ("--", "no requirement", "delete"),
    ("foo -r other.in", "-r needs a line of its own", "split"),
    ("-r a.in -r b.in", "one file", "-r PATH"),
    ("-r", "one file", "-r PATH"),
    ('-r "a.in', "one file", "-r PATH"),
    ("-r sub\\a.in", "backslash", "/"),
    ("-r https://example.com/r.in", "only files of the project", "copy"),
    ("--constraint=https://example.com/r.in", "only files of the project", "copy"),
    ("-r file:///etc/hosts", "only files of the project", "copy"),
    ("-e ./lib -e ./lib", "-e needs a line of its own", "split"),
    ("-e", "no path", "./libs/NAME"),
    (f"-e demo @ {WHEEL}", "can't be editable", "delete -e"),
    ("-e https://example.com/lib", "only https addresses of wheels", "wheel"),
    ("foo @ git+https://example.com/foo.git@v1", "can't be hashed", "wheel"),
    ("foo@git+ssh://git@example.com/foo.git", "can't be hashed", "checkout"),
    ("git+https://example.com/foo.git#egg=foo", "can't be hashed", "wheel"),
    ("-e git+https://example.com/foo.git#egg=foo", "can't be hashed", "checkout"),
    ("-e GIT+https://example.com/foo.git", "can't be hashed", "checkout"),
    ("hg+https://example.com/foo", "can't be hashed", "wheel"),
    ("svn+https://example.com/foo", "can't be hashed", "wheel"),
    ("bzr+https://example.com/foo", "can't be hashed", "wheel"),
    ("git@example.com:me/foo.git", "can't be hashed", "wheel"),
    ("foo @ https://example.com/foo-1.0.tar.gz", "source distribution", "wheel"),
    ("https://example.com/foo-1.0.zip", "source distribution", "wheel"),
    ("foo @ https://example.com/foo", "no wheel", "wheel"),
    ("foo @ ftp://example.com/foo-1.0-py3-none-any.whl", "only https", "wheel"),
    ("foo @ ssh://example.com/foo", "only https", "wheel"),
    ("demo @ http" + WHEEL[5:], "http without a hash", "https"),
    ("demo @ https://[::1/demo-1.0-py3-none-any.whl", "no valid address", "wheel"),
    ("demo @ https://example.com/demo.whl", "no valid name of a wheel", "release page"),
    (f"other @ {WHEEL}", "the wheel is of demo, not of other", "correct"),
    (f"demo @ {WHEEL}#md5=abc", "only sha256", "delete"),
    (f"demo @ {WHEEL}#sha256=abc", "only sha256", "delete"),
    ("foo @ ${TOKEN}", "environment variables", "write the value"),
    ("foo==${VERSION}", "environment variables", "write the value"),
    ("-r ${HOME}/r.in", "environment variables", "write the value"),
    ("foo=1", "no requirement (expected", "NAME>=1.0"),
    ("foo bar", "foo bar", "NAME>=1.0"),
    ("é", "é", "NAME>=1.0"),
    ("foo; " + "(" * 5000, "too long", "right file"),
    ("foo; " + "(" * 100, "parentheses", "NAME"),
    ("foo==" + "1" * 5000, "too long", "right file"),
    ("<<<<<<< HEAD", "conflict marker", "mlenv lock"),
    ("=======", "conflict marker", "merge"),
    (">>>>>>> theirs", "conflict marker", "merge"),
    ("||||||| base", "conflict marker", "merge"),
    ("fo\x00o", "U+0000", "delete"),
    ("foo\x0bbar", "U+000B", "delete"),
    ("# comment\u2028foo", "U+2028", "delete"),
    ("# \u202etxet", "U+202E", "delete"),
    ("foo # why \\\nbar", "backslash", "line of its own"),
    ("C:/lib", "Windows", "./libs/NAME"),
    ("..\\lib", "Windows", "./libs/NAME"),
    ("\\\\server\\share\\lib", "Windows", "./libs/NAME"),
    ("//server/share/lib", "another machine", "./libs/NAME"),
    ("file://server/share/lib", "another machine", "./libs/NAME"),
    ("lib @ file:%00", "control character", "./libs/NAME"),
    ("./lib ; python_version > '3'", "marker", "dependencies"),
    ("-e ./lib ; python_version > '3'", "marker", "dependencies"),
    ("lib @ ./lib ; python_version > '3'", "marker", "dependencies"),
    ("./lib#subdirectory=x", "no path", "./libs/NAME"),
    ("./lib[a b]", "extras", "[extra,other]"),
]


@pytest.mark.parametrize(("text", "message", "hint"), REFUSED)
def test_a_line_is_refused_with_its_place_and_replacement(tmp_path: Path, text: str, message: str, hint: str) -> None:
    error = refused(tmp_path, f"# first\nnumpy\n{text}\n")
    assert error.where == "requirements.in:3"
    assert any(part in error.message for part in message.split("|"))
    assert hint in (error.hint or "")


CREDENTIALS = [
    f"demo @ https://user:{SECRET}@example.com/demo-1.0-py3-none-any.whl",
    f"demo @ https://{SECRET}@example.com/demo-1.0-py3-none-any.whl",
    f"https://user:{SECRET}@example.com/demo-1.0-py3-none-any.whl",
    f"demo @ https://user:p@ss/{SECRET}@example.com/demo-1.0-py3-none-any.whl",
    f"demo @ {WHEEL}?token={SECRET}",
    f"demo @ {WHEEL}?x=1&X-Amz-Signature={SECRET}#sha256={SHA256}",
    f"demo @ {WHEEL}#access_token={SECRET}",
    f"demo @ {WHEEL}#sha256={SHA256}&token={SECRET}",
    f"demo @ user:{SECRET}@example.com/demo",
    f"demo @ https:/user:{SECRET}@example.com/demo",
    f"demo @ https://user:{SECRET}@example.com/de mo",
    f"foo bar https://user:{SECRET}@example.com",
    f"-i https://user:{SECRET}@example.com/simple",
    f"-ihttps://user:{SECRET}@example.com/simple",
    f"--extra-index-url=https://user:{SECRET}@example.com/simple",
    f"--extra-index-url user:{SECRET}@example.com/simple",
    f"--trusted-host user:{SECRET}@example.com",
    f"--find-links https://example.com/?token={SECRET}",
    f"-r https://user:{SECRET}@example.com/r.in",
    f"-e git+https://user:{SECRET}@example.com/foo",
    f"foo @ git+https://user:{SECRET}@example.com/foo",
    f"-e https://user:{SECRET}@example.com/foo",
    f"foo --config-settings=token={SECRET}",
    f"--password {SECRET}",
    f"--password={SECRET}",
    f"demo @ https://user:{SECRET}@${{HOST}}/demo",
    f"-r a.in https://user:{SECRET}@example.com",
]


@pytest.mark.parametrize("text", CREDENTIALS)
def test_a_credential_is_never_echoed(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, f"{text}\n")
    assert SECRET not in f"{error} {error.hint}"
    assert SECRET not in str(split_index_lines(text))


@pytest.mark.parametrize("text", CREDENTIALS[:7])
def test_a_credential_in_an_address_is_named_as_the_reason(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, f"{text}\n")
    assert "credentials" in error.message or "token" in error.message
    assert "UV_INDEX_<NAME>_PASSWORD" in (error.hint or "") or "_PASSWORD" in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/x@v1", "https://example.com/x@v1"),
        ("https://u:p@example.com/x", "https://***@example.com/x"),
        ("https://example.com/x?a=b#sha256=00", "https://example.com/x?***#sha256=00"),
        ("foo==1 ; python_version > '3'", "foo==1 ; python_version > '3'"),
    ],
)
def test_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


# ------------------------------------------------------------------------------------------------ includes


def test_includes_are_relative_to_the_including_file_and_follow_it(tmp_path: Path) -> None:
    write(tmp_path, "requirements.in", "-r sub/base.in\nfoo\n")
    write(tmp_path, "sub/base.in", "-c pins.txt\n-r ../other.in\n")
    write(tmp_path, "sub/pins.txt", "bar<2\n")
    write(tmp_path, "other.in", "baz\n")
    found = parse(tmp_path, "requirements.in")
    assert [(file.path, file.kind) for file in found.files] == [
        ("requirements.in", "requirement"),
        ("sub/base.in", "requirement"),
        ("sub/pins.txt", "constraint"),
        ("other.in", "requirement"),
    ]
    assert [(file.path, str(entry.requirement)) for file, entry in found.direct] == [
        ("requirements.in", "foo"),
        ("other.in", "baz"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "-r base.in",
        "-rbase.in",
        "-r=base.in",
        "-r  'base.in'",
        '-r "base.in"',
        "--requirement base.in",
        "--requirement=base.in",
        "--requirement = base.in  # shared",
        "-r ./base.in",
        "-r sub/../base.in",
    ],
)
def test_every_spelling_of_an_include(tmp_path: Path, line: str) -> None:
    write(tmp_path, "base.in", "foo\n")
    (tmp_path / "sub").mkdir()
    assert read(tmp_path, f"{line}\n").entries == (Include(path="base.in", kind="requirement", line=1),)


@pytest.mark.parametrize("line", ["-c base.in", "-cbase.in", "--constraint=base.in", "--constraint base.in"])
def test_every_spelling_of_a_constraint(tmp_path: Path, line: str) -> None:
    write(tmp_path, "base.in", "foo\n")
    assert read(tmp_path, f"{line}\n").entries == (Include(path="base.in", kind="constraint", line=1),)


def test_an_included_file_with_a_space_in_its_name(tmp_path: Path) -> None:
    write(tmp_path, "my base.in", "foo\n")
    file = read(tmp_path, "-r my\\ base.in\n")
    assert file.entries == (Include(path="my base.in", kind="requirement", line=1),)
    assert render(file) == "-r my\\ base.in\n"


def test_a_file_that_is_included_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "a.in", "-r base.in\n")
    write(tmp_path, "b.in", "-r base.in\n")
    write(tmp_path, "base.in", "foo\n")
    found = parse_all(tmp_path, ["a.in", "b.in", "a.in"])
    assert [file.path for file in found.files] == ["a.in", "base.in", "b.in"]
    assert found.roots == ("a.in", "b.in")


def test_files_that_are_included_over_and_over_cost_one_reading_each(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"{number}.in", f"-r {number + 1}.in\n" * 2)
    write(tmp_path, "40.in", "foo\n")
    assert len(parse(tmp_path, "0.in").files) == 41


def test_a_file_may_be_a_requirement_and_a_constraint(tmp_path: Path) -> None:
    write(tmp_path, "base.in", "foo\n")
    write(tmp_path, "requirements.in", "-r base.in\n-c base.in\n")
    kinds = [(file.path, file.kind) for file in parse(tmp_path, "requirements.in").files]
    assert kinds[1:] == [("base.in", "requirement"), ("base.in", "constraint")]


@pytest.mark.parametrize("option", ["-r", "-c"])
def test_files_that_include_each_other_are_an_error(tmp_path: Path, option: str) -> None:
    write(tmp_path, "sub/a.in", f"foo\n{option} ../requirements.in\n")
    error = refused(tmp_path, f"{option} sub/a.in\n")
    assert error.where == "sub/a.in:2"
    assert "requirements.in → sub/a.in → requirements.in" in error.message


def test_a_file_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    assert "requirements.in → requirements.in" in refused(tmp_path, "-r ./requirements.in\n").message


def test_a_file_that_includes_itself_through_a_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(".")
    assert "requirements.in → loop/requirements.in" in refused(tmp_path, "-r loop/requirements.in\n").message


def test_includes_that_are_nested_too_deeply_are_an_error(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path, f"{number}.in", f"-r {number + 1}.in\n")
    write(tmp_path, "60.in", "foo\n")
    assert "nested too deeply" in refused(tmp_path, "-r 0.in\n").message


def test_a_missing_include_is_reported_where_it_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, "foo\n-r sub/gone.in\n")
    assert (error.where, error.message) == ("requirements.in:2", "sub/gone.in does not exist")


@pytest.mark.parametrize("target", ["../outside.in", "/etc/hosts", "sub/../../outside.in"])
def test_an_include_outside_the_project_is_refused(tmp_path: Path, target: str) -> None:
    write(tmp_path, "outside.in", "foo\n")
    (tmp_path / "project/sub").mkdir(parents=True)
    error = refused(tmp_path / "project", f"-r {target}\n")
    assert error.where == "requirements.in:1"
    assert "outside the project" in error.message


def test_a_link_to_a_file_outside_the_project_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "outside.in", "foo\n")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/base.in").symlink_to("../outside.in")
    assert "outside the project" in refused(tmp_path / "project", "-r base.in\n").message


def test_a_link_inside_the_project_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "shared/base.in", "foo\n")
    (tmp_path / "base.in").symlink_to("shared/base.in")
    read(tmp_path, "-r base.in\n")
    assert [file.path for file in parse(tmp_path, "requirements.in").files] == ["requirements.in", "base.in"]


def test_a_project_reached_through_a_link_is_no_outside(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "real", "base.in", "foo\n")
    absolute = tmp_path / "real/base.in"
    assert read(tmp_path / "link", f"-r {absolute}\n").entries == (Include(path="base.in", kind="requirement", line=1),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("foo[bar]", "no extras"),
        (WHEEL, "names and versions only"),
        ("-e .", "names and versions only"),
        ("./lib", "names and versions only"),
        ("-r other.in", "names and versions only"),
    ],
)
def test_a_constraints_file_holds_names_and_versions_only(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, "pins.txt", f"foo<2\n{line}\n")
    error = refused(tmp_path, "-c pins.txt\n")
    assert error.where == "pins.txt:2"
    assert message in error.message


def test_a_constraints_file_may_name_another(tmp_path: Path) -> None:
    write(tmp_path, "pins.txt", "-c more.txt\n")
    write(tmp_path, "more.txt", "foo<2\n")
    read(tmp_path, "-c pins.txt\n")
    assert [file.kind for file in parse(tmp_path, "requirements.in").files] == [
        "requirement",
        "constraint",
        "constraint",
    ]


# ------------------------------------------------------------------------------------------------ files


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        parse(tmp_path, "requirements.in")
    assert str(caught.value) == "requirements.in: does not exist"
    assert "mlenv init" in (caught.value.hint or "")


def test_a_folder_is_no_requirements_file(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").mkdir()
    with pytest.raises(ProjectError, match=r"requirements\.in: is a folder"):
        parse(tmp_path, "requirements.in")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("text", ["", "-r pipe\n"])
def test_a_fifo_does_not_hang(tmp_path: Path, text: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path, "requirements.in", text)
    with pytest.raises(ProjectError, match="no regular file"):
        parse(tmp_path, "requirements.in" if text else "pipe")


def test_a_file_without_permission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    write(tmp_path, "requirements.in", "foo\n")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ProjectError, match=r"requirements\.in: can't be read: Permission denied"):
        parse(tmp_path, "requirements.in")


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").symlink_to("requirements.in")
    with pytest.raises(ProjectError):
        parse(tmp_path, "requirements.in")


def test_a_name_too_long_for_a_file_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path, f"-r {'x' * 3000}\n").where == "requirements.in:1"
    assert refused(tmp_path, f"./{'x' * 3000}\n").where == "requirements.in:1"


def test_a_file_asked_for_outside_the_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    write(tmp_path, "requirements.in", "foo\n")
    with pytest.raises(ProjectError, match="outside the project"):
        parse(tmp_path / "project", "../requirements.in")


@pytest.mark.parametrize(
    ("data", "where", "message"),
    [
        (b"foo\nb\xe4r\n", "requirements.in:2", "not UTF-8"),
        ("foo\n".encode("utf-16"), "requirements.in:1", "UTF-16"),
    ],
)
def test_another_encoding_is_an_error_with_its_line(tmp_path: Path, data: bytes, where: str, message: str) -> None:
    error = refused(tmp_path, data)
    assert (error.where, message in error.message) == (where, True)


# ------------------------------------------------------------------------------------------------ local projects


@pytest.mark.parametrize(
    ("line", "editable", "extras"),
    [
        ("-e ./libs/x", True, ()),
        ("-e libs/x", True, ()),
        ("-elibs/x", True, ()),
        ("--editable ./libs/x/", True, ()),
        ("--editable=./libs/x", True, ()),
        ("-e './libs/x'", True, ()),
        ("-e ./libs/x[B_b, a]", True, ("a", "b-b")),
        ("-e ./libs/x#egg=lib", True, ()),
        ("-e ./libs/x#egg=lib[a]", True, ("a",)),
        ("-e lib[a] @ file:./libs/x", True, ("a",)),
        ("./libs/x", False, ()),
        ("libs/x/", False, ()),
        ("libs/x[a]", False, ("a",)),
        ("libs/x  # ours", False, ()),
        ("file:./libs/x", False, ()),
        ("file:libs/x", False, ()),
        ("Lib @ ./libs/x", False, ()),
        ("lib[a] @ file:./libs/x", False, ("a",)),
    ],
)
def test_every_spelling_of_a_local_project(tmp_path: Path, line: str, editable: bool, extras: tuple[str, ...]) -> None:
    library(tmp_path, "libs/x")
    (entry,) = read(tmp_path, f"{line}\n").entries
    assert isinstance(entry, LocalProject)
    assert (entry.relative, entry.editable, entry.extras, entry.name) == ("libs/x", editable, extras, "lib")
    assert entry.path == tmp_path / "libs/x"
    assert entry.metadata_path == "libs/x/pyproject.toml"


@pytest.mark.parametrize("line", ["-e .", "-e .[dev]", ".", "-e ./"])
def test_the_project_itself_can_be_local(tmp_path: Path, line: str) -> None:
    library(tmp_path, ".")
    (entry,) = read(tmp_path, f"{line}\n").entries
    assert isinstance(entry, LocalProject)
    assert (entry.relative, entry.metadata_path) == (".", "pyproject.toml")


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_an_absolute_path_inside_the_project_means_the_same(tmp_path: Path, form: str) -> None:
    library(tmp_path, "libs/my lib", more="")
    shown = str(tmp_path / "libs/my lib")
    line = form.format(shown.replace(" ", "%20") if form.startswith("file") else shown)
    assert meaning(read(tmp_path, f"{line}\n")) == "./libs/my lib\n"


def test_local_paths_are_relative_to_the_project_as_for_pip_and_uv(tmp_path: Path) -> None:
    library(tmp_path, "libs/x")
    write(tmp_path, "sub/base.in", "-e ./libs/x\n")
    read(tmp_path, "-r sub/base.in\n")
    (local,) = parse(tmp_path, "requirements.in").local_projects
    assert local.relative == "libs/x"


def test_a_local_path_relative_to_its_file_is_answered_with_the_right_one(tmp_path: Path) -> None:
    library(tmp_path, "sub/x")
    write(tmp_path, "sub/base.in", "-e ./x\n")
    error = refused(tmp_path, "-r sub/base.in\n")
    assert error.where == "sub/base.in:1"
    assert "./sub/x" in (error.hint or "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("./gone", "does not exist"),
        ("~/gone", "does not exist"),
        ("./empty", "neither pyproject.toml nor setup.py"),
        ("./demo-1.0-py3-none-any.whl", "is a file"),
        ("demo @ file:./demo-1.0-py3-none-any.whl", "is a file"),
        ("../lib", "outside the project"),
        ("-e ..", "outside the project"),
        ("/etc", "outside the project"),
        ("lib @ file:///etc", "outside the project"),
        ("./link", "outside the project"),
        ("other @ ./lib", "is lib, not other"),
        ("-e ./lib#egg=other", "is lib, not other"),
    ],
)
def test_a_local_project_that_is_none_is_refused(tmp_path: Path, line: str, message: str) -> None:
    root = tmp_path / "project"
    library(tmp_path, "lib")
    library(root, "lib")
    (root / "empty").mkdir()
    write(root, "demo-1.0-py3-none-any.whl", "")
    (root / "link").symlink_to("../lib")
    error = refused(root, f"{line}\n")
    assert error.where == "requirements.in:1"
    assert message in error.message


def test_a_local_wheel_gets_the_flat_index_as_replacement(tmp_path: Path) -> None:
    write(tmp_path, "demo-1.0-py3-none-any.whl", "")
    assert 'format = "flat"' in (refused(tmp_path, "./demo-1.0-py3-none-any.whl\n").hint or "")


def test_a_local_project_of_setup_py_has_no_name_unless_the_line_gives_one(tmp_path: Path) -> None:
    write(tmp_path, "x/setup.py", "")
    first, second = (read(tmp_path, f"{line}\n").entries[0] for line in ("./x", "My_Lib @ ./x"))
    assert isinstance(first, LocalProject)
    assert isinstance(second, LocalProject)
    assert (first.name, second.name, first.metadata_path) == (None, "my-lib", "x/setup.py")


def test_the_dependencies_of_a_local_project_are_read(tmp_path: Path) -> None:
    library(
        tmp_path,
        "x",
        more='requires-python = ">=3.11"\ndependencies = ["B_b >= 1", "a"]\n'
        '[project.optional-dependencies]\nDev = ["c"]\n',
    )
    (entry,) = read(tmp_path, "./x\n").entries
    assert isinstance(entry, LocalProject)
    assert entry.dependency_text == "[dev] c\na\nb-b>=1\nrequires-python >=3.11\n"


def test_a_change_that_is_about_no_dependency_leaves_the_dependency_text(tmp_path: Path) -> None:
    texts = []
    for more in ('dependencies = ["a"]\n', 'dependencies = [\n  "A",  # why\n]\n[tool.ruff]\nline-length = 9\n'):
        library(tmp_path, "x", more=more)
        (entry,) = read(tmp_path, "./x\n").entries
        assert isinstance(entry, LocalProject)
        texts.append(entry.dependency_text)
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("x/setup.cfg", "[options]\ninstall_requires = a\n"),
        ("x/setup.py", "import setuptools\n"),
        ("x/deps.txt", "a\n"),
        (
            "x/pyproject.toml",
            '[project]\nname = "lib"\ndynamic = ["dependencies"]\n[tool.poetry.dependencies]\na = "1"\n',
        ),
    ],
)
def test_dependencies_left_to_the_build_are_covered_by_every_file_that_may_hold_them(
    tmp_path: Path, path: str, text: str
) -> None:
    more = 'dynamic = ["dependencies"]\n[tool.setuptools.dynamic]\ndependencies = { file = ["deps.txt"] }\n'
    library(tmp_path, "x", more=more)
    (before,) = read(tmp_path, "./x\n").entries
    write(tmp_path, path, text)
    (after,) = read(tmp_path, "./x\n").entries
    assert isinstance(before, LocalProject)
    assert isinstance(after, LocalProject)
    assert before.dependency_text != after.dependency_text


@pytest.mark.parametrize(
    ("dependency", "message"),
    [
        ("foo @ git+https://example.com/foo", "can't be hashed"),
        (f"foo @ https://user:{SECRET}@example.com/foo-1-py3-none-any.whl", "credentials"),
        ("foo @ file:./foo", "a path among dependencies"),
        ("--pre", "no requirement"),
        ("-e ./foo", "a path among dependencies"),
        ("foo=1", "no requirement"),
        ("foo==${X}", "environment variables"),
    ],
)
def test_a_local_projects_dependencies_are_held_to_the_same_rules(
    tmp_path: Path, dependency: str, message: str
) -> None:
    library(tmp_path, "x", more=f'dependencies = [\n  "ok",\n  "{dependency}",\n]\n')
    error = refused(tmp_path, "./x\n")
    assert error.where == "x/pyproject.toml:6"
    assert message in error.message
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[project\n", "x/pyproject.toml:1"),
        ("a = " + "1" * 5000, "x/pyproject.toml"),
        ("a = " + "[" * 5000, "x/pyproject.toml"),
        ('[project]\nname = "-"\n', "x/pyproject.toml"),
        ('[project]\nname = "a"\ndependencies = "b"\n', "x/pyproject.toml"),
        ('[project]\nname = "a"\ndependencies = [1]\n', "x/pyproject.toml"),
    ],
)
def test_a_broken_pyproject_of_a_local_project_is_an_error(tmp_path: Path, text: str, where: str) -> None:
    write(tmp_path, "x/pyproject.toml", text)
    assert refused(tmp_path, "./x\n").where == where


def test_a_local_project_reaches_uv_as_what_it_states(tmp_path: Path) -> None:
    """Its own file may hold [tool.uv] tables, which uv would obey; where the build decides, uv reads the real one."""
    library(tmp_path, "libs/my lib")
    write(tmp_path, "old/setup.py", "")
    rendered = render(read(tmp_path, "-e ./libs/my lib[a]\n./old\n"))
    assert rendered == f"-e ./.mlenv-in/local/libs/my lib[a]\n{tmp_path}/old\n"


def test_the_mirror_of_a_local_project_holds_its_dependencies_alone(tmp_path: Path) -> None:
    stated = '[project]\nname = "lib"\nversion = "3"\ndependencies = ["idna"]\n'
    write(tmp_path, "lib/pyproject.toml", stated + '[tool.uv.sources]\nidna = { index = "evil" }\n')
    write(tmp_path, "requirements.in", "-e ./lib\n")
    mirrored = parse(tmp_path, "requirements.in").mirror()[".mlenv-in/local/lib/pyproject.toml"]
    assert "evil" not in mirrored
    assert 'dependencies = ["idna"]' in mirrored


def test_one_folder_is_one_local_project(tmp_path: Path) -> None:
    library(tmp_path, "x")
    read(tmp_path, "./x[a]\n-e ./x[b]\n")
    (local,) = parse(tmp_path, "requirements.in").local_projects
    assert (local.extras, local.editable) == (("a", "b"), True)


@pytest.mark.parametrize(
    ("line", "path", "changes"),
    [
        ("./x", "x/lib/core.py", True),
        ("./x", "x/lib/build/core.py", True),
        ("./x", "x/setup.cfg", True),
        ("./x", "x/build/core.py", False),
        ("./x", "x/lib.egg-info/PKG-INFO", False),
        ("./x", "x/.git/index", False),
        ("-e ./x", "x/lib/core.py", False),
        ("-e ./x", "x/setup.cfg", True),
    ],
)
def test_the_content_digest_changes_where_a_reinstall_is_due(
    tmp_path: Path, line: str, path: str, changes: bool
) -> None:
    library(tmp_path, "x")
    (entry,) = read(tmp_path, f"{line}\n").entries
    assert isinstance(entry, LocalProject)
    before = entry.content_digest
    write(tmp_path, path, "changed")
    assert (entry.content_digest != before) == changes


# ------------------------------------------------------------------------------------------------ pyproject.toml


def test_pyproject_toml_can_be_the_requirements_file(tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", '[project]\nname = "My.App"\ndependencies = [\n  "Foo>=1",\n  "bar",\n]\n')
    found = parse(tmp_path, "pyproject.toml")
    assert [(file.path, str(entry.requirement), entry.line) for file, entry in found.direct] == [
        ("pyproject.toml", "Foo>=1", 4),
        ("pyproject.toml", "bar", 5),
    ]
    assert meaning(found.files[0]) == "bar\nfoo>=1\n"


def test_pyproject_toml_reaches_uv_with_its_dependencies_and_nothing_else(tmp_path: Path) -> None:
    text = (
        '[project]\nname = "app"\ndependencies = ["foo; os_name == \'nt\'"]\n[tool.uv.sources]\nfoo = {index = "x"}\n'
    )
    write(tmp_path, "pyproject.toml", text)
    assert parse(tmp_path, "pyproject.toml").mirror() == {
        "pyproject.toml": '[project]\nname = "app"\nversion = "0"\ndependencies = ["foo ; os_name == \\"nt\\""]\n'
    }


def test_pyproject_toml_may_begin_with_a_bom(tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", '\ufeff[project]\nname = "app"\ndependencies = ["foo"]\n')
    assert meaning(parse(tmp_path, "pyproject.toml").files[0]) == "foo\n"


@pytest.mark.parametrize("dynamic", ['["dependencies"]', '["version", "dependencies"]'])
def test_pyproject_toml_that_leaves_dependencies_to_the_build_is_refused(tmp_path: Path, dynamic: str) -> None:
    write(tmp_path, "pyproject.toml", f'[project]\nname = "app"\ndynamic = {dynamic}\n')
    with pytest.raises(ProjectError, match="leaves its dependencies to the build"):
        parse(tmp_path, "pyproject.toml")


# ------------------------------------------------------------------------------------------------ as text


def test_the_mirror_holds_every_file_under_its_own_path(tmp_path: Path) -> None:
    write(tmp_path, "sub/base.in", "-c ../pins.txt\n# why\nFoo  # why\n")
    write(tmp_path, "pins.txt", "foo < 2\n")
    read(tmp_path, "-r sub/base.in\n")
    assert parse(tmp_path, "requirements.in").mirror() == {
        "requirements.in": "-r sub/base.in\n",
        "sub/base.in": "-c ../pins.txt\nfoo\n",
        "pins.txt": "foo<2\n",
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("foo>=1", "foo>=2"),
        ("foo", "foo[a]"),
        ("foo", "foo; os_name == 'nt'"),
        ("foo", "bar"),
        ("-r base.in", "-c base.in"),
        ("-e ./x", "./x"),
        ("./x", "./x[a]"),
        ("./x", "./y"),
        (WHEEL, f"{WHEEL}#sha256={SHA256}"),
    ],
)
def test_what_means_something_else_has_another_meaning(tmp_path: Path, one: str, other: str) -> None:
    write(tmp_path, "base.in", "foo\n")
    library(tmp_path, "x")
    library(tmp_path, "y")
    assert meaning(read(tmp_path, one)) != meaning(read(tmp_path, other))


# ------------------------------------------------------------------------------------------------ for init


def test_init_is_told_every_refused_line_at_once() -> None:
    text = (
        "torch\n"
        "--extra-index-url https://user:secret@example.com/whl/cu130\n"
        "--find-links ./wheels\n"
        "foo @ git+https://example.com/foo@v1\n"
        "--pre\n"
        "demo @ https://example.com/demo-1.0.tar.gz\n"
        "-r gone.in\n"
        "-e ./gone\n"
        "bar==${VERSION}\n"
        "<<<<<<< HEAD\n"
    )
    found = split_index_lines(text, path="requirements.in")
    assert [(finding.line, finding.kind) for finding in found] == [
        (2, "refused-index"),
        (3, "refused-find-links"),
        (4, "refused-vcs"),
        (5, "refused-option"),
        (6, "refused-url"),
        (9, "refused-variable"),
        (10, "conflict-marker"),
    ]
    assert all(finding.hint and finding.path == "requirements.in" for finding in found)
    assert found[0].message == "--extra-index-url is refused: --extra-index-url https://***@example.com/whl/cu130"


@pytest.mark.parametrize("option", ["--extra-index-url {}", "-i {}", "--index-url={}", "-f {}"])
@pytest.mark.parametrize("channel", ["stable", "nightly"])
def test_the_index_of_torch_needs_no_replacement(option: str, channel: str) -> None:
    line = option.format(catalogue.load().index_urls[channel].format(backend="cu121"))
    (found,) = split_index_lines(line)
    assert found.hint == "delete the line; the overlays in constraints/ and uv.toml say where torch comes from"


def test_init_finds_nothing_in_a_plain_list() -> None:
    assert split_index_lines("\ufeff# all of it\nnumpy\nfoo[bar]>=1 ; os_name == 'nt'\n-r base.in\n-e .\n") == ()


def test_lines_for_overlays_are_names_and_versions_only(tmp_path: Path) -> None:
    write(tmp_path, "pins.txt", "foo==1\n-c more.txt\n")
    with pytest.raises(ProjectError, match=r"pins\.txt:2: an overlay holds names and versions only"):
        named_lines(tmp_path, "pins.txt", what="an overlay")


def test_every_broken_line_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").write_text("<<<<<<< ours\na\n=======\nb==\n>>>>>>> theirs\n-r none.in\n")
    with pytest.raises(ProjectError) as caught:
        parse(tmp_path, "requirements.in")
    places = [line.partition(": ")[0] for line in str(caught.value).splitlines()]
    assert places == [f"requirements.in:{number}" for number in (1, 3, 4, 5, 6)]
    assert len((caught.value.hint or "").splitlines()) == 3  # that of the conflict markers once
