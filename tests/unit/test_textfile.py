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
