from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlenv.system import scratch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks on folders")
KILLED = """
import os, signal
from mlenv.system import scratch
with scratch.folder() as folder:
    (folder / "x").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    scratch._sweep.cache_clear()
    return tmp_path


def test_a_folder_is_empty_and_gone_afterwards(temporary: Path) -> None:
    with scratch.folder() as folder:
        assert (folder.parent, list(folder.iterdir())) == (temporary, [])
        (folder / "x").touch()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("age", "swept"), [(0.0, False), (3600.0, True)])
def test_what_a_kill_left_goes_once_it_is_old(temporary: Path, age: float, swept: bool) -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    [left] = temporary.iterdir()
    os.utime(left, (left.stat().st_mtime - age,) * 2)
    with scratch.folder():
        assert left.exists() is not swept


@pytest.mark.parametrize("name", ["mlenv-abcd1234", ".mlenv-uv-mine", ".mlenv-uv-abcd1234-x"])
def test_a_folder_of_another_name_and_one_in_use_stay(temporary: Path, name: str) -> None:
    other = temporary / name
    other.mkdir()
    with scratch.folder() as used:
        for path in (other, used):
            os.utime(path, (0, 0))
        scratch._sweep.cache_clear()
        with scratch.folder():
            assert other.exists()
            assert used.exists()
