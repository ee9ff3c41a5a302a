from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mlenv.errors import EnvironmentBuildError
from mlenv.system.files import make_state, write_atomically


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "lock.txt"
    path.parent.mkdir()
    path.write_text("old\n")
    path.chmod(0o640)
    return path


@pytest.fixture
def staging(target: Path) -> Path:
    folder = target.parent / ".state"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_the_text_is_replaced_and_the_mode_is_kept(target: Path) -> None:
    write_atomically(target, "new\n")
    assert (target.read_text(), target.stat().st_mode & 0o777, names(target.parent)) == ("new\n", 0o640, ["lock.txt"])


def test_it_goes_by_way_of_the_staging_folder(target: Path, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append([*names(target.parent), *names(staging)]))
    write_atomically(target, "new\n", staging=staging)
    assert target.read_text() == "new\n"
    assert [name.startswith(".lock.txt.") for name in seen[0]] == [False, True]
    assert names(staging) == []


def test_what_a_kill_left_in_the_staging_folder_goes(target: Path, staging: Path) -> None:
    (staging / ".lock.txt.abc").write_text("half")
    (staging / "lock").touch()
    write_atomically(target, "new\n", staging=staging)
    assert names(staging) == ["lock"]


def test_a_staging_folder_on_another_file_system_is_no_obstacle(
    target: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that is mounted there: a file can't be renamed out of it."""
    rename = os.replace

    def replace(source: str, to: Path) -> None:
        if Path(source).parent == staging:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, to)

    monkeypatch.setattr(os, "replace", replace)
    write_atomically(target, "new\n", staging=staging)
    assert (target.read_text(), names(target.parent), names(staging)) == ("new\n", ["lock.txt"], [])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("staged", [True, False])
def test_an_interruption_leaves_the_old_text_alone(
    target: Path, staging: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, staged: bool
) -> None:
    def fsync(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises((KeyboardInterrupt, EnvironmentBuildError)):
        write_atomically(target, "new\n", staging=staging if staged else None)
    assert (target.read_text(), names(target.parent), names(staging)) == ("old\n", ["lock.txt"], [])


def test_an_ignore_file_that_a_full_disk_left_empty_is_written_again(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").touch()
    make_state(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*\n"
