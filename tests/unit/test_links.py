from __future__ import annotations

import errno
import sys
import types
from pathlib import Path

import pytest

from mlenv.system import links


def test_on_windows_the_link_is_a_junction_with_an_absolute_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Junctions need no right of the user's, and know no relative target."""
    made: list[tuple[str, str]] = []
    winapi = types.ModuleType("_winapi")
    winapi.CreateJunction = lambda target, link: made.append((target, link))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "_winapi", winapi)
    links.make_link(tmp_path / ".venv", ".mlenv/gen/cpu-1", windows=True)
    assert made == [(str(tmp_path.resolve() / ".mlenv/gen/cpu-1"), str(tmp_path / ".venv"))]


def test_a_link_is_told_from_a_folder_and_from_nothing(tmp_path: Path) -> None:
    links.make_link(tmp_path / "link", "gone", windows=False)
    assert links.is_link(tmp_path / "link")
    assert not links.is_link(tmp_path)
    assert not links.is_link(tmp_path / "nothing")


def _two(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "one").touch()
    second.symlink_to("elsewhere")
    return first, second


def test_a_folder_and_a_link_change_places(tmp_path: Path) -> None:
    first, second = _two(tmp_path)
    links.exchange(first, second)
    assert (first.readlink(), (second / "one").exists()) == (Path("elsewhere"), True)
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_system_call_for_it_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(links, "_exchange_at_once", refuse)
    first, second = _two(tmp_path)
    links.exchange(first, second)
    assert (first.readlink(), (second / "one").exists()) == (Path("elsewhere"), True)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("steps", [False, True])
def test_what_cannot_be_exchanged_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, steps: bool) -> None:
    if steps:
        monkeypatch.setattr(links, "_exchange_at_once", lambda *_: links._exchange_in_steps(*_))
    first, _ = _two(tmp_path)
    with pytest.raises(FileNotFoundError):
        links.exchange(tmp_path / "nothing", first)
    assert (first / "one").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
