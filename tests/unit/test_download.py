"""Files fetched by hash from a loopback index that fails on purpose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlenv.errors import IntegrityError, PackageIndexError, UnreachableError
from mlenv.system import download
from mlenv.system.download import Download
from support.index import CaptivePortal, IndexSettings, LoopbackIndex, Status, Truncated, unreachable_url
from support.wheels import Package

DEMO = Package("demo", "1.0", files={"demo/data.bin": os.urandom(300_000)})


def fetch(
    index: LoopbackIndex,
    folder: Path,
    *,
    retries: int = 0,
    sha256: str = DEMO.sha256,
    logins: dict[str, str] | None = None,
) -> list[str]:
    """What was fetched of the one file."""
    wanted = Download(
        url=index.file_url("pypi", DEMO), sha256=sha256, target=folder / "wheels" / DEMO.filename, size=len(DEMO.data)
    )
    return fetch_one(wanted, retries=retries, logins=logins)


def fetch_one(wanted: Download, *, retries: int = 0, logins: dict[str, str] | None = None) -> list[str]:
    told: list[str] = []
    download.fetch(
        [wanted],
        logins=logins or {},
        env={"UV_HTTP_RETRIES": str(retries), "NETRC": os.devnull},
        offline=False,
        fetched=lambda one: told.append(one.target.name),
    )
    assert wanted.target.read_bytes() == DEMO.data
    return told


def test_a_file_is_fetched_once(index: LoopbackIndex, tmp_path: Path) -> None:
    index.add("pypi", DEMO)
    assert fetch(index, tmp_path) == [DEMO.filename]
    assert fetch(index, tmp_path) == []
    assert index.count(DEMO.filename) == 1


def test_what_came_stays_and_the_rest_is_asked_for(index: LoopbackIndex, tmp_path: Path) -> None:
    index.add("pypi", DEMO)
    index.fail("pypi", Truncated(), package="demo", times=1)
    with pytest.raises(UnreachableError, match="can't be fetched"):
        fetch(index, tmp_path)
    assert fetch(index, tmp_path) == [DEMO.filename]
    assert [request.range for request in index.requests][-1] == f"bytes={len(DEMO.data) // 2}-"


def test_a_part_of_something_else_is_thrown_away(index: LoopbackIndex, tmp_path: Path) -> None:
    index.add("pypi", DEMO)
    (tmp_path / "wheels").mkdir()
    for size in (1000, len(DEMO.data) + 5):
        (tmp_path / "wheels" / f".{DEMO.filename}.part").write_bytes(b"x" * size)
        (tmp_path / "wheels" / DEMO.filename).unlink(missing_ok=True)
        assert fetch(index, tmp_path) == [DEMO.filename]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_status_that_may_pass_is_tried_again(index: LoopbackIndex, tmp_path: Path, ranges: bool) -> None:
    index.add("pypi", DEMO)
    index.configure("pypi", IndexSettings(ranges=ranges))
    index.fail("pypi", Status(503), package="demo", times=1)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / f".{DEMO.filename}.part").write_bytes(DEMO.data[:1000])
    assert fetch(index, tmp_path, retries=1) == [DEMO.filename]


def test_each_refusal_has_its_reason(index: LoopbackIndex, tmp_path: Path) -> None:
    index.add("pypi", DEMO)
    index.fail("pypi", Status(404))
    with pytest.raises(PackageIndexError, match="answered 404 Not Found"):
        fetch(index, tmp_path, retries=5)
    index.mend("pypi")
    with pytest.raises(IntegrityError, match="its bytes differ from the hash"):
        fetch(index, tmp_path, sha256="0" * 64)
    index.fail("pypi", CaptivePortal())
    with pytest.raises(IntegrityError):
        fetch(index, tmp_path)
    nowhere = Download(url=f"{unreachable_url()}/x.whl", sha256="0" * 64, target=tmp_path / "x.whl")
    with pytest.raises(UnreachableError):
        fetch_one(nowhere)
    assert not (tmp_path / "wheels" / DEMO.filename).exists()


def test_credentials_are_sent_to_their_own_host(index: LoopbackIndex, tmp_path: Path) -> None:
    index.add("pypi", DEMO)
    index.configure("pypi", IndexSettings(credentials=("me", "p@ss")))
    with pytest.raises(PackageIndexError, match="401"):
        fetch(index, tmp_path)
    assert fetch(index, tmp_path, logins={index.root: "me:p%40ss"}) == [DEMO.filename]


def test_a_file_of_this_machine_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "a folder" / DEMO.filename
    source.parent.mkdir()
    source.write_bytes(DEMO.data)
    wanted = Download(url=source.as_uri(), sha256=DEMO.sha256, target=tmp_path / DEMO.filename)
    assert fetch_one(wanted) == [DEMO.filename]
    source.write_bytes(b"other")
    wanted.target.unlink()
    with pytest.raises(IntegrityError):
        fetch_one(wanted)
