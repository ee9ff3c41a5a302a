"""Properties of the parser: spelling never matters, content always does, nothing but MlenvError is raised."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv import overlay, requirements
from mlenv.errors import MlenvError

PATH = "requirements.in"
NAMES = ("a", "foo-bar", "ruamel-yaml-clib", "x2", "zope-interface")
SPECIFIERS = ("", ">=1", "==2.0.1", "~=1.4", "!=3", "<4", "==1.*")
EXTRAS = ((), ("dev",), ("a-b", "test"))
MARKERS = ("", 'python_version > "3.9"', 'os_name == "nt" and extra == "x"')

Content = tuple[str, tuple[str, ...], tuple[str, ...], str]
contents: st.SearchStrategy[list[Content]] = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(EXTRAS),
        st.lists(st.sampled_from(SPECIFIERS[1:]), max_size=2, unique=True).map(tuple),
        st.sampled_from(MARKERS),
    ),
    max_size=6,
)


@st.composite
def spelled(draw: st.DrawFn, content: Content) -> str:
    """One requirement in one of its many spellings."""
    name, extras, specifiers, marker = content
    letters = [draw(st.sampled_from("-_.")) if c == "-" else c.upper() if draw(st.booleans()) else c for c in name]
    gap = draw(st.sampled_from(("", " ", "  ", "\t")))
    joined = f"{gap},{gap}".join(draw(st.permutations(extras)))
    text = "".join(letters) + (f"{gap}[{gap}{joined}{gap}]" if extras else "")
    text += gap + f"{gap},{gap}".join(draw(st.permutations(specifiers)))
    if marker:
        quoted = marker.replace('"', "'") if draw(st.booleans()) else marker
        text += f"{gap};{gap}{quoted}"
    broken = f" \\{draw(st.sampled_from(('', chr(13))))}\n "
    text = text.replace(" ", broken, 1) if draw(st.booleans()) and " \\" not in text else text
    return draw(st.sampled_from(("", "  "))) + text + draw(st.sampled_from(("", "  # why", "\t# -r gone.in ${X}")))


@st.composite
def files(draw: st.DrawFn, content: list[Content]) -> bytes:
    """A file of these requirements: in any order, some twice, among comments and blank lines, with any line ends."""
    lines = [draw(spelled(entry)) for entry in draw(st.permutations(content))]
    lines += [draw(spelled(entry)) for entry in content if draw(st.booleans())]
    for noise in draw(st.lists(st.sampled_from(("", "   ", "# torch==1", "  # --pre \\")), max_size=3)):
        lines.insert(draw(st.integers(0, len(lines))), noise)
    text = "".join(f"{line}\n" for line in lines)
    if draw(st.booleans()):
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    return draw(st.sampled_from((b"", b"\xef\xbb\xbf"))) + text.encode()


def meaning(data: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PATH).write_bytes(data)
        return requirements.meaning(requirements.parse(Path(folder), PATH).files[0])


@given(st.data())
@settings(deadline=None)
def test_order_comments_blank_lines_white_space_and_spelling_leave_the_meaning(data: st.DataObject) -> None:
    content = data.draw(contents)
    assert meaning(data.draw(files(content))) == meaning(data.draw(files(content)))


@given(st.data())
@settings(deadline=None)
def test_another_specifier_is_another_meaning(data: st.DataObject) -> None:
    content = data.draw(contents.filter(bool))
    (name, extras, specifiers, marker), *rest = content
    changed: list[Content] = [(name, extras, (*specifiers, "!=99.7"), marker), *rest]
    assert meaning(data.draw(files(content))) != meaning(data.draw(files(changed)))


@given(st.data())
@settings(deadline=None)
def test_the_copy_for_uv_means_the_same(data: st.DataObject) -> None:
    text = data.draw(contents.flatmap(files))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PATH).write_bytes(text)
        (copy,) = requirements.parse(Path(folder), PATH).mirror().values()
    assert meaning(copy.encode()) == meaning(text)


fragments = st.sampled_from(
    [
        *(
            "-r ",
            "-c",
            "-e",
            "--hash",
            "--index-url",
            "=",
            " ",
            "\n",
            "\r\n",
            "\\\n",
            "\\",
            "#",
            " # ",
            ";",
            ",",
            "[",
            "]",
        ),
        *(
            "(",
            ")",
            "${X}",
            "file:",
            "https://",
            "http://u:p@h/",
            "git+",
            "a.whl",
            "a-1-py3-none-any.whl",
            "#sha256=",
            "?",
        ),
        *(
            "./",
            "../",
            "/",
            "~",
            ".",
            "lib",
            "sub/a.in",
            PATH,
            "a",
            ">=1",
            "==",
            "@",
            " @ ",
            "'",
            '"',
            "<<<<<<< ",
            "\x00",
        ),
        *(
            "\u2028",
            "é",
            "%00",
            "%2e%2e/",
            "python_version",
            " and ",
            "extra",
            "::",
            "//",
            "\ufeff",
            "*",
            "===",
            "+cu130",
        ),
    ]
)
texts = st.lists(fragments, max_size=12).map("".join) | st.text(max_size=40)


@given(texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60))
@settings(deadline=None, max_examples=400)
def test_whatever_a_file_holds_nothing_but_mlenv_error_is_raised(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "lib").mkdir()
        (root / "lib/pyproject.toml").write_bytes(data)
        for path in (PATH, "cu130.txt", "pyproject.toml"):
            (root / path).write_bytes(data)
        for path in (PATH, "pyproject.toml"):
            try:
                found = requirements.parse(root, path)
            except MlenvError:
                continue
            assert found.mirror().keys() == {file.path for file in found.files}
            assert all(isinstance(requirements.meaning(file), str) for file in found.files)
        with suppress(MlenvError):
            overlay.meaning(overlay.parse_overlay(root, "cu130.txt"))


@given(texts)
@settings(deadline=None, max_examples=300)
def test_init_is_told_of_any_text_without_an_exception(text: str) -> None:
    assert all(finding.line and finding.hint for finding in requirements.split_index_lines(text))


@given(st.sampled_from(("https://", "git+ssh://", "HTTP://", "")), st.text("ab:/@#?%.", max_size=8), texts)
@settings(deadline=None, max_examples=300)
def test_a_password_never_shows(scheme: str, noise: str, text: str) -> None:
    noise = noise if scheme else noise.lstrip("/")  # user:// is a scheme
    for line in (
        f"{text}{scheme}user:S3CRET{noise}@example.com/x",
        f"x @ {scheme}user:{noise}S3CRET@example.com/{text}",
    ):
        for finding in requirements.split_index_lines(line):
            assert "S3CRET" not in finding.message
