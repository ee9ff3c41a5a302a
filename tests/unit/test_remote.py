"""RECORDs of wheels on loopback indexes: what is asked for, and who is passed over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlenv import indexes
from mlenv.indexes import Index, Indexes
from mlenv.system import cache, remote
from support.index import CaptivePortal, Dropped, Fault, IndexSettings, LoopbackIndex, Slow, Status, Truncated
from support.wheels import Package

BIG = Package("big", "1.0", files={f"big/{n:04}.bin": bytes(400) for n in range(2000)})
SMALL = Package("small", "1.0", files={"small.py": "pass\n"})


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "records"


def ask(
    index: LoopbackIndex,
    *packages: Package,
    sized: bool = True,
    logins: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
    offline: bool = False,
) -> remote.Answer:
    wanted = [
        remote.Wanted(
            name=package.name,
            url=index.file_url("pypi", package),
            sha256=package.sha256,
            size=len(package.data) if sized else None,
        )
        for package in packages
    ]
    variables = {"NETRC": "/nowhere", **(env or {})}
    return remote.records(wanted, logins=logins or {}, env=variables, offline=offline)


@pytest.mark.parametrize("sized", [True, False])
def test_a_record_is_read_without_the_wheel_once(index: LoopbackIndex, sized: bool) -> None:
    index.add("pypi", BIG, SMALL)
    answer = ask(index, BIG, SMALL, sized=sized)
    assert answer.passed_over == {}
    assert answer.records["big"].count("\n") == 2003
    assert answer.records["small"].startswith("small.py,sha256=")
    assert {request.status for request in index.requests} == {206}
    asked = len(index.requests)
    assert ask(index, BIG, SMALL, offline=True) == answer
    assert len(index.requests) == asked


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Status(404), "127.0.0.1 answers 404 Not Found"),
        (Status(302, {"Location": "/pypi/files/again"}), "too many redirects"),
        (CaptivePortal(), "no range requests"),
        (Truncated(), "IncompleteRead"),
        (Dropped(), "RemoteDisconnected"),
    ],
)
def test_who_answers_otherwise_is_passed_over(index: LoopbackIndex, kept: Path, fault: Fault, why: str) -> None:
    index.add("pypi", BIG)
    index.fail("pypi", fault, part="file")
    answer = ask(index, BIG)
    assert answer.records == {}
    assert why in answer.passed_over["big"]
    assert not kept.exists()


def test_an_index_without_ranges_is_asked_by_no_thread_twice(index: LoopbackIndex) -> None:
    index.configure("pypi", IndexSettings(ranges=False))
    packages = [Package(f"p{n}", "1.0") for n in range(40)]
    index.add("pypi", *packages)
    assert len(ask(index, *packages).passed_over) == 40
    assert len(index.requests) <= 8


def test_a_slow_index_is_not_waited_for(index: LoopbackIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.2)
    index.add("pypi", SMALL)
    index.fail("pypi", Slow(3), part="file")
    start = time.monotonic()
    assert ask(index, SMALL).passed_over == {"small": "no answer in time"}
    assert time.monotonic() - start < 2


def test_credentials_of_the_index_open_it_and_are_not_sent_elsewhere(index: LoopbackIndex, tmp_path: Path) -> None:
    index.add("pypi", SMALL)
    index.configure("pypi", IndexSettings(credentials=("me@work", "p:w d")))
    assert "401" in ask(index, SMALL).passed_over["small"]
    url = index.url("pypi").replace("http://", "http://me%40work:p%3Aw%20d@")
    known = indexes.logins(Indexes(default=Index(name=None, url=url, default=True)), {})
    with LoopbackIndex() as other:
        other.add("pypi", SMALL)
        other.fail("pypi", Status(307, {"Location": index.file_url("pypi", SMALL)}), part="file")
        (tmp_path / "netrc").write_text("machine localhost login other password secret\n")
        elsewhere = other.file_url("pypi", SMALL).replace("127.0.0.1", "localhost")
        wanted = remote.Wanted(name="small", url=elsewhere, sha256=SMALL.sha256)
        env = {"NETRC": str(tmp_path / "netrc")}
        assert remote.records([wanted], logins={}, env=env, offline=False).records == {}
        assert other.requests[-1].authorized
        assert not index.requests[-1].authorized
        assert remote.records([wanted], logins=known, env=env, offline=False).records.keys() == {"small"}
        ask(other, BIG, logins=known)
        assert not other.requests[-1].authorized
    assert ask(index, SMALL, logins=known, offline=True).records.keys() == {"small"}


def test_credentials_in_uvs_variables() -> None:
    named = Index(name="our-own", url="https://our.test:8443/simple", explicit=True)
    environ = {"UV_INDEX_OUR_OWN_USERNAME": "me@work", "UV_INDEX_OUR_OWN_PASSWORD": "p:w"}
    found = indexes.logins(Indexes(named={"our-own": named}), environ)
    assert found == {"https://our.test:8443": "me%40work:p%3Aw"}


def test_a_proxy_is_asked_in_place_of_the_index(index: LoopbackIndex) -> None:
    """The loopback index reads the path alone, so that it serves as a proxy of another host as well."""
    index.add("pypi", SMALL)
    port = index.root.rpartition(":")[2].strip("/")
    url = index.file_url("pypi", SMALL).replace(f"127.0.0.1:{port}", "index.invalid")
    wanted = [remote.Wanted(name="small", url=url, sha256=SMALL.sha256)]
    env = {"HTTP_PROXY": f"http://127.0.0.1:{port}", "NETRC": "/nowhere"}
    assert remote.records(wanted, logins={}, env=env | {"NO_PROXY": "index.invalid"}, offline=False).records == {}
    assert remote.records(wanted, logins={}, env=env, offline=False).records.keys() == {"small"}
