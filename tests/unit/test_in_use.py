from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlenv.system import in_use

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def leases(state: Path) -> list[Path]:
    return sorted((state / "leases").glob("*"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_lease_is_held_until_its_command_ends(tmp_path: Path) -> None:
    with in_use.lease(tmp_path, "cpu-1"):
        assert in_use.leased(tmp_path) == {"cpu-1"}
    assert in_use.leased(tmp_path) == frozenset()
    assert leases(tmp_path) == []


def test_where_nothing_can_be_written_there_is_no_lease(tmp_path: Path) -> None:
    (tmp_path / "leases").touch()
    with in_use.lease(tmp_path, "cpu-1"):
        assert in_use.leased(tmp_path) == frozenset()


@on_linux
def test_a_lease_whose_process_is_gone_ends(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with in_use.lease(tmp_path, "cpu-1"):
        rewrite(leases(tmp_path)[0], pid=ended.pid)
        assert in_use.leased(tmp_path) == frozenset()
        assert leases(tmp_path) == []


@on_linux
def test_another_process_of_the_same_number_holds_nothing(tmp_path: Path) -> None:
    with in_use.lease(tmp_path, "cpu-1"):
        rewrite(leases(tmp_path)[0], started="1")
        assert in_use.leased(tmp_path) == frozenset()


@pytest.mark.parametrize(("hours", "held"), [(1, {"cpu-1"}), (23, {"cpu-1"}), (25, set())])
def test_another_hosts_lease_counts_until_it_expires(tmp_path: Path, hours: int, held: set[str]) -> None:
    with in_use.lease(tmp_path, "cpu-1"):
        path = leases(tmp_path)[0]
        rewrite(path, host="node7 pid:[1]", pid=1)
        os.utime(path, (0, time.time() - hours * 3600))
        assert in_use.leased(tmp_path) == held


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"generation": "a"}'])
def test_a_torn_lease_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "a.json").write_text(text)
    assert in_use.leased(tmp_path) == frozenset()


@on_linux
def test_a_process_uses_what_it_was_started_from(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "sleep"
    program.parent.mkdir()
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        assert in_use.runs_in(tmp_path, in_use.running())
        child.kill()
    assert not in_use.runs_in(tmp_path, in_use.running())
    assert not in_use.runs_in(tmp_path / "bi", {str(program)})
