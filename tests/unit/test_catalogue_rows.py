"""Rows that extend the catalogue."""

from __future__ import annotations

from typing import Any

import pytest

from mlenv.catalogue import Catalogue, extended, load
from mlenv.catalogue_rows import Where, meaning, read, require_complete
from mlenv.errors import MlenvError, ProjectError
from mlenv.settings import _line_of

NEW: dict[str, Any] = {
    "backend": [{"name": "cu140", "code": [{"torch": ["2.16"], "x86_64": [90]}]}],
    "release": [
        {
            "torch": "2.16.0",
            "torchvision": "0.30.0",
            "torchaudio": "2.11.0",
            "python": ["3.12"],
            "backends": ["cu140"],
            "pypi": {"linux-x86_64": "cu140"},
        }
    ],
    "driver_family": [{"cuda_major": 14, "linux": "650", "windows": "651"}],
}


def _wrong(where: Where, message: str, hint: str) -> MlenvError:
    return ProjectError(f"{where}: {message}", hint=hint)


def _with(rows: dict[str, Any]) -> Catalogue:
    return extended(below={}, above=read(rows, wrong=_wrong))


def test_a_new_cuda_release_needs_no_new_mlenv() -> None:
    found = _with(NEW)
    assert found.backend("cu140").cuda == (14, 0)
    assert found.releases[0].torch == "2.16.0"
    assert found.default_index_build("2.16.0", "linux-x86_64") == "cu140"
    assert found.architectures("cu140", "2.16.0", "linux-x86_64") == (90,)
    assert found.driver_floors[14].windows == "651"
    assert set(load().backends) < set(found.backends)


def test_a_row_changes_the_fields_it_gives() -> None:
    found = _with({"release": [{"torch": "2.15.0", "torchvision": "0.29.9"}], "driver_family": [
        {"cuda_major": 13, "linux": "590"}]})  # fmt: skip
    release = found.release("2.15.0")
    assert release is not None
    assert (release.torchvision, release.torchaudio) == ("0.29.9", "2.11.0")
    assert (found.driver_floors[13].linux, found.driver_floors[13].windows) == ("590", "580")


def test_lists_of_backends_are_added_to_and_confirm() -> None:
    release = _with({"release": [{"torch": "2.15.0", "backends": ["cu130"]}]}).release("2.15.0")
    assert release is not None
    assert (release.backends, release.unconfirmed) == (("cpu", "cu132", "cu130"), ("cu134",))


def test_code_of_one_torch_is_replaced_and_that_of_others_stays() -> None:
    found = _with({"backend": [{"name": "cu132", "code": [{"torch": ["2.14"], "x86_64": [90]}]}]})
    assert found.architectures("cu132", "2.14.1", "linux-x86_64") == (90,)
    assert found.architectures("cu132", "2.13.0", "linux-x86_64") == (75, 80, 86, 90, 100, 120)


def test_what_mlenv_knows_counts_before_rows_below() -> None:
    rows = read({"release": [{"torch": "2.15.0", "torchvision": "9.9"}]}, wrong=_wrong)
    release = extended(below=rows, above={}).release("2.15.0")
    assert release is not None
    assert release.torchvision == "0.29.2"


@pytest.mark.parametrize(
    ("rows", "told", "hint"),
    [
        ({"backends": []}, "is an unknown key: 'backends'", "did you mean backend?"),
        ({"backend": {"name": "x"}}, "must be a list", "write [[...catalogue.backend]]"),
        ({"backend": [{"cuda": "14.0"}]}, "has no name", "write name = ..."),
        ({"backend": [{"name": "cu140"}, {"name": "cu140"}]}, "names cu140 twice", "make it one row"),
        ({"backend": [{"name": "cu140", "cuda": 14}]}, "is 14", 'write cuda = "14.0"'),
        ({"backend": [{"name": "cu140", "widows": True}]}, "is an unknown key: 'widows'", "did you mean windows?"),
        ({"backend": [{"name": "cu140", "windows": "no"}]}, "is 'no'", "write windows = true, or false"),
        ({"release": [{"torch": "newest"}]}, "is 'newest'", 'write torch = "2.16.0"'),
        ({"release": [{"torch": "2.16.0", "python": ["2.7"]}]}, "an item that is '2.7'", '["3.12", "3.13"]'),
        ({"release": [{"torch": "2.16.0", "pypi": {"linux-x86": "cpu"}}]}, "unknown key: 'linux-x86'", "linux-x86_64"),
        ({"backend": [{"name": "cu140", "cuda": "13.0"}]}, "cu140 means CUDA 14.0", "take the line out"),
        ({"backend": [{"name": "cpu", "cuda": "13.0"}]}, "cpu means no CUDA build", "take the line out"),
        ({"backend": [{"name": "b", "index": "https://me:pw@x.example/s"}]}, "carries credentials", "_PASSWORD"),
        ({"backend": [{"name": "b", "index": "https://x.example/s?token=1"}]}, "carries credentials", "_PASSWORD"),
        ({"driver_family": [{"cuda_major": True}]}, "is True", "write a whole number"),
        ({"backend": [{"name": "cu140", "code": [{"torch": ["2"]}]}]}, "an item that is '2'", '["2.16"]'),
    ],
)
def test_mistakes_are_told_with_the_way_to_write_it(rows: dict[str, Any], told: str, hint: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read(rows, wrong=_wrong)
    assert told in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_cuda_that_is_the_name_s_own_may_be_said() -> None:
    rows = {"backend": [{"name": "cu140", "cuda": "14.0"}, {"name": "acme132", "cuda": "13.2"}]}
    assert [row["cuda"] for row in read(rows, wrong=_wrong)["backend"]] == ["14.0", "13.2"]


def test_what_is_new_must_be_complete() -> None:
    rows = read({"driver_family": [{"cuda_major": 14, "linux": "650"}]}, wrong=_wrong)
    with pytest.raises(ProjectError, match="14 is new and has no windows"):
        require_complete(rows, {}, wrong=_wrong)


def test_the_meaning_has_no_sources_no_urls_and_an_order_of_its_own() -> None:
    rows = {"backend": [{"name": "b", "index": "https://x.example", "source": "s"}, {"name": "a"}], "release": []}
    assert meaning(read(rows, wrong=_wrong)) == {"backend": [{"name": "a"}, {"name": "b"}]}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("x", 0), 1),
        (("x", 1), 6),
        (("x", 1, "name"), 7),
        (("x", 0, "code", 1, "torch"), 5),
        (("x", 1, "code", 0, "torch"), 9),
        (("x", 1, "gone"), 6),
        (("x", "name"), 2),
    ],
)
def test_lines_of_arrays_of_tables_are_counted(keys: tuple[str | int, ...], line: int) -> None:
    text = '[[x]]\nname = "a"\n[[x.code]]\n[[x.code]]\ntorch = []\n[[x]]\nname = "b"\n[[x.code]]\ntorch = []\n'
    assert _line_of(text, keys) == line
