from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlenv.errors import ProjectError
from mlenv.textfile import read_text, require_text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"a\nb\n", "a\nb\n"),
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"\xef\xbb\xbfa", "a"),
        ("ä".encode(), "ä"),
        (b"", ""),
    ],
)
def test_text_is_read_without_byte_order_mark_and_with_one_line_end(tmp_path: Path, written: bytes, read: str) -> None:
    (tmp_path / "file").write_bytes(written)
    assert read_text(tmp_path / "file", shown="file") == read


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_what_windows_powershell_writes_is_read_where_it_is_asked_for(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "file").write_bytes("\ufeffä\r\nb\r\n".encode(encoding))
    assert read_text(tmp_path / "file", shown="file", utf16=True) == "ä\nb\n"


@pytest.mark.parametrize(("written", "utf16"), [(b"\xff\xfea\0", False), (b"\xff\xfea", True)])
def test_utf16_is_refused_elsewhere_and_where_it_is_cut_off(tmp_path: Path, written: bytes, utf16: bool) -> None:
    (tmp_path / "file").write_bytes(written)
    with pytest.raises(ProjectError, match="is not UTF-8 text"):
        read_text(tmp_path / "file", shown="file", utf16=utf16)


@pytest.mark.parametrize("path", ["absent", "file/below-a-file"])
def test_what_is_not_there_is_none(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    assert read_text(tmp_path / path, shown=path) is None


def test_what_is_no_text_file_is_told_by_the_name_shown(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff")
    for path, message in ((".", "is no regular file"), ("pipe", "is no regular file"), ("binary", "is not UTF-8 text")):
        with pytest.raises(ProjectError) as caught:
            read_text(tmp_path / path, shown="shown.toml")
        assert (caught.value.message, caught.value.path) == (message, "shown.toml")


def test_a_required_file_that_is_missing_is_told_where_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        require_text(tmp_path, "more.in", origin="requirements.in", line=3)
    assert str(caught.value) == "requirements.in:3: more.in does not exist"
