"""Editing the text of requirements: what is asked for changes, every other byte stays."""

from __future__ import annotations

import tomllib
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from mlenv.errors import UsageError
from mlenv.requirement_edits import added, asked, removed
from mlenv.requirement_lines import Named, canonical, classify, logical_lines

NAMES = ("alpha", "Beta", "gamma.ray", "ruamel_yaml", "zope-interface")
NOISE = ("", "  ", "# a comment", "# numpy<2 \\", "-r base.in", "-e ./libs/own", "-c limits.txt")
requirement = st.builds(
    lambda name, extra, gap, specifier, marker: f"{name}{extra}{gap if specifier else ''}{specifier}{marker}",
    st.sampled_from(NAMES),
    st.sampled_from(("", "[dev]", " [ dev, test ]")),
    st.sampled_from(("", " ", "  ")),
    st.sampled_from(("", "==1.0", ">=1, <2", "(>=1)", "~=1.4")),
    st.sampled_from(("", ' ; python_version < "3.12"', "; os_name == 'nt'")),
)
line = st.one_of(
    st.builds(
        lambda indent, text, comment: f"{indent}{text}{comment}",
        st.sampled_from(("", "  ")),
        st.one_of(requirement, requirement.map(lambda text: text.replace(" ", " \\\n  ", 1))),
        st.sampled_from(("", "  # why", "   ", "\t# -r gone.in")),
    ),
    st.sampled_from(NOISE),
)
files = st.builds(
    lambda lines, ending, last, mark: mark + ending.join("\n".join(lines).split("\n")) + (ending if last else ""),
    st.lists(line, max_size=6),
    st.sampled_from(("\n", "\r\n")),
    st.booleans(),
    st.sampled_from(("", "\ufeff")),
)


def meanings(text: str) -> list[str]:
    found = (classify(line) for line in logical_lines(text))
    return [canonical(entry.requirement) if isinstance(entry, Named) else str(entry) for entry in found if entry]


def pieces(text: str) -> list[str]:
    return text.removeprefix("\ufeff").splitlines(keepends=True)


@given(files, requirement)
@settings(deadline=None)
def test_an_addition_changes_one_requirement_and_no_other_byte(text: str, wanted: str) -> None:
    try:
        new, change = added(text, asked(wanted))
    except UsageError:
        assert sum(asked_name(meaning) == asked(wanted).name for meaning in meanings(text)) > 1
        return
    before, after = meanings(text), meanings(new)
    if change.before is None:
        assert sorted(after) == sorted([*before, canonical(Requirement(wanted))])
        rest = pieces(new)
        assert rest.pop(change.line - 1).strip() == wanted.strip()
        assert "".join(rest).rstrip("\r\n") == text.removeprefix("\ufeff").rstrip(
            "\r\n"
        )  # but for the end that the last line lacked
    else:
        assert change.after is not None
        differing = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert differing in (
            [],
            [(canonical(Requirement(_joined(change.before))), canonical(Requirement(change.after)))],
        )
        assert new == text if not differing else pieces(new)[: change.line - 1] == pieces(text)[: change.line - 1]
    assert new.startswith("\ufeff") == text.startswith("\ufeff")


@given(files, st.sampled_from(NAMES))
@settings(deadline=None)
def test_a_removal_takes_out_every_line_of_the_name_and_nothing_else(text: str, name: str) -> None:
    wanted = asked(name).name
    new, changes = removed(text, wanted)
    kept = [meaning for meaning in meanings(text) if asked_name(meaning) != wanted]
    assert meanings(new) == kept
    assert len(changes) == len(meanings(text)) - len(kept)
    assert not pieces_lost(text, new, wanted)


def asked_name(meaning: str) -> str:
    return asked(meaning).name if meaning[0].isalpha() and "(" not in meaning else ""


def pieces_lost(old: str, new: str, name: str) -> list[str]:
    """Lines that are gone and are not part of a requirement with that name."""
    remaining = pieces(new)
    lost = [piece for piece in pieces(old) if piece not in remaining]
    return [piece for piece in lost if piece.strip().startswith(("#", "-"))]


def _joined(text: str) -> str:
    return text.replace("\\\r\n", "").replace("\\\n", "")


@pytest.mark.parametrize(
    ("old", "wanted", "new"),
    [
        ("numpy<2  # speed\n", "numpy<3", "numpy<3  # speed\n"),
        ("NumPy\n", "numpy>=2", "NumPy>=2\n"),
        ("numpy >=1 ; os_name == 'nt'\r\n", "numpy>=2", "numpy >=2 ; os_name == 'nt'\r\n"),
        ("numpy ; os_name == 'nt'\n", "numpy>=2", "numpy>=2 ; os_name == 'nt'\n"),
        ("numpy[a]<2", "numpy[b]", "numpy[a,b]<2"),
        ("a\nc\n", "b", "a\nb\nc\n"),
        ("# head\n\n# of b\nb\nd\n", "c>1", "# head\n\n# of b\nb\nc>1\nd\n"),
        ("c\na\n# end\n", "b", "c\na\n# end\nb\n"),
        ("c\na", "b", "c\na\nb\n"),
        ("", "b", "b\n"),
        ("-r base.in\n\n", "b", "-r base.in\nb\n\n"),
        ("a ; os_name == 'nt'\n", "a<2 ; os_name != 'nt'", "a ; os_name == 'nt'\na<2 ; os_name != 'nt'\n"),
        ("", "https://h/a-1-py3-none-any.whl", "a @ https://h/a-1-py3-none-any.whl\n"),
        ("a>=1 # x\n", "a @ https://h/a-1-py3-none-any.whl", "a @ https://h/a-1-py3-none-any.whl # x\n"),
    ],
)
def test_what_a_file_looks_like_then(old: str, wanted: str, new: str) -> None:
    assert added(old, asked(wanted))[0] == new


def test_of_several_lines_for_a_name_its_marker_says_which() -> None:
    text = "a<1 ; os_name == 'nt'\na<2 ; os_name != 'nt'\n"
    assert added(text, asked("a<3 ; os_name != 'nt'"))[0] == "a<1 ; os_name == 'nt'\na<3 ; os_name != 'nt'\n"
    with pytest.raises(UsageError, match="lines 1 and 2"):
        added(text, asked("a<3"))
    assert added(text, asked("a"))[0] == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("git+https://h/x.git", "version control is refused"),
        ("x @ https://user:word@h/x-1-py3-none-any.whl", "an address with credentials is refused"),
        ("${X}", "environment variables are not expanded"),
        ("./libs/x", "a folder or another file"),
        ("a\nb", "is no requirement"),
        ("==1", "no requirement"),
    ],
)
def test_what_requirements_files_refuse_is_refused_in_their_words(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(text)
    assert message in caught.value.message
    assert "word" not in caught.value.message
    assert caught.value.hint


HEAD = '[project]\nname = "x"\ndescription = """\ndependencies = ["no"]\n"""\n'
ARRAYS = (
    "dependencies = []",
    "dependencies = [\n]",
    'dependencies = ["alpha<2", \'beta ; os_name == "nt"\',   "gamma" ]',
    'dependencies = [\n    "alpha<2",  # keep\n    # of beta\n    \'beta\',\n    "gamma", # last\n]',
    'dependencies = [\n  "alpha",\n  "gamma"  # no comma\n]',
    'dependencies = [\n\t"gamma",\n\t"alpha"\n\t# tail\n]',
    'dependencies = [ "alpha" # hm\n  , "beta"\n]',
    'dependencies = ["alpha",\n                "gamma"]',
)
TAIL = '\n\n[tool.other]\ndependencies = ["alpha"]\n'
DESCRIBED = HEAD.replace('"""\n', '"""', 1).replace('dependencies = ["no"]\n"""', 'text"""')


@given(st.sampled_from(ARRAYS), st.sampled_from(("alpha", "Alpha>=3", "beta<9", "aa", "zz[x]>=1 ; os_name == 'nt'")))
@settings(deadline=None)
def test_an_array_of_pyproject_toml_keeps_its_layout(array: str, wanted: str) -> None:
    for ending in ("\n", "\r\n"):
        text = (DESCRIBED + array + TAIL).replace("\n", ending)
        new, change = added(text, asked(wanted), toml=True)
        before, after = (tomllib.loads(each)["project"]["dependencies"] for each in (text, new))
        if change.before is None:
            assert sorted(after) == sorted([*before, wanted])
            assert [item for item in after if item != wanted] == before
            assert wanted in pieces(new)[change.line - 1]
        else:
            assert len(after) == len(before)
        assert new.startswith(DESCRIBED.replace("\n", ending))
        assert new.endswith(TAIL.replace("\n", ending))
        assert comments(new) == comments(text)
        assert ("\n" in new.replace("\r\n", "")) == (ending == "\n")
        again, _ = removed(new, asked(wanted).name, toml=True)
        assert tomllib.loads(again)["project"]["dependencies"] == [
            item for item in before if asked(item).name != asked(wanted).name
        ]


def comments(text: str) -> list[str]:
    return [piece.partition("#")[2].strip() for piece in pieces(text) if "#" in piece]


@pytest.mark.parametrize(
    ("old", "wanted", "new"),
    [
        ("dependencies = []", "a", 'dependencies = ["a"]'),
        ("dependencies = ['a<1', \"c\"]", "a<2", "dependencies = ['a<2', \"c\"]"),
        ("dependencies = ['a', 'c']", "b", "dependencies = ['a', 'b', 'c']"),
        ('dependencies = ["b"]', "a", 'dependencies = ["a", "b"]'),
        (
            'dependencies = [\n  "a", # of a\n  # of c\n  "c"\n]',
            "b",
            'dependencies = [\n  "a", # of a\n  "b",\n  # of c\n  "c"\n]',
        ),
        ('dependencies = [\n  "a" # of a\n]', "b", 'dependencies = [\n  "a", # of a\n  "b"\n]'),
    ],
)
def test_what_an_array_looks_like_then(old: str, wanted: str, new: str) -> None:
    head = '[project]\nname = "x"\n'
    assert added(f"{head}{old}\n", asked(wanted), toml=True)[0] == f"{head}{new}\n"


def test_an_array_is_written_where_there_is_none() -> None:
    text = '[project]\r\nname = "x"  # me\r\n\r\n[tool.x]\r\n'
    new, change = added(text, asked("a"), toml=True)
    assert new == text.replace("# me\r\n", '# me\r\ndependencies = ["a"]\r\n')
    assert change.line == 3
    assert added('[project]\nname = "x"', asked("a"), toml=True)[0] == '[project]\nname = "x"\ndependencies = ["a"]\n'
    with pytest.raises(UsageError, match="can't be edited here"):
        added("[tool.x]\n", asked("a"), toml=True)


def test_what_an_array_looks_like_without() -> None:
    text = dedent("""\
        [project]
        dependencies = [
          "a",
          "b",  # goes with it
          "c"
        ]
        """)
    assert removed(text, "b", toml=True)[0] == text.replace('  "b",  # goes with it\n', "")
    line = "[project]\ndependencies = ['a', 'b', 'c']\n"
    assert removed(line, "b", toml=True)[0] == "[project]\ndependencies = ['a', 'c']\n"
    assert removed(line, "c", toml=True)[0] == "[project]\ndependencies = ['a', 'b']\n"


@pytest.mark.parametrize("text", ['project.dependencies = ["a"]\n', '[project]\ndependencies = ["""a"""]\n', "[x]\n"])
def test_a_layout_that_is_not_understood_is_left_to_the_user(text: str) -> None:
    with pytest.raises(UsageError, match="can't be edited here"):
        added(text, asked("b"), toml=True)
